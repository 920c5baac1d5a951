//! Report of a run: as a table, or as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    figures::{Crowd, Figures, Part, Sample, TargetRow, figures, mib, targets},
    floods::Counts,
};

/// Result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    met: bool,
    secs: f64,
    counts: Counts,
    crowd: Option<Crowd>,
    figures: Figures,
    targets: Vec<TargetRow>,
}

impl Report {
    /// Judges a run.
    pub fn new(samples: &[Sample], parts: &[Part], crowd: Option<Crowd>, counts: Counts) -> Self {
        let figures = figures(samples, parts);
        let targets = targets(&figures, crowd.as_ref());
        Self {
            met: targets.iter().all(|row| row.is_met != Some(false)),
            secs: samples.last().map_or(0.0, |sample| sample.t),
            counts,
            crowd,
            figures,
            targets,
        }
    }

    /// Returns whether no target was missed.
    pub fn is_met(&self) -> bool {
        self.met
    }

    /// Tables of the floods and of the targets.
    pub fn table(&self) -> String {
        let (counts, figures) = (&self.counts, &self.figures);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "in {:.0} s: {} processes, {} listeners and {} destinations came and went, {} \
             reloads, {} calls to receivers that are down",
            self.secs,
            counts.processes,
            counts.listeners,
            counts.destinations,
            counts.reloads,
            counts.calls
        );
        let _ = writeln!(
            text,
            "\n{:>6}  {:<14}{:>11}{:>11}{:>11}{:>9}  back within 2 MiB",
            "at", "flood of", "before", "at most", "after", "left"
        );
        for flood in &figures.floods {
            let back = flood.returned_secs;
            let back = back.map_or_else(|| "never".to_owned(), |secs| format!("after {secs:.0} s"));
            let [before, most, after] =
                [flood.before_bytes, flood.most_bytes, flood.after_bytes].map(mib);
            let left = flood.left_bytes() as f64 / f64::from(1 << 20);
            let _ = writeln!(
                text,
                "{:>4.0} s  {:<14}{before:>7.1} MiB{most:>7.1} MiB{after:>7.1} MiB{left:>+9.1}  \
                 {back}",
                flood.from_secs, flood.flood
            );
        }
        let _ = writeln!(
            text,
            "\nshare of a core: {:.2} % at rest, {:.2} % over the run\nthe slope is the median of \
             those between any two rests after floods of one kind but the first, each by its \
             last 3 s\n",
            figures.rest_share * 100.0,
            figures.run_share * 100.0
        );
        for row in &self.targets {
            let result = match row.is_met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "the run is too short to tell",
            };
            let _ = writeln!(text, "{:<55} {:<34} {result}", row.target, row.measured);
        }
        text
    }
}
