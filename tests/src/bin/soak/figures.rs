//! Figures of a run, from samples of the agent. Pure.
//!
//! Resident memory rises and falls with each flood, so what is left after it is compared with what
//! there was before it, and a leak is looked for in the rests alone: each rest gives one point, the
//! median of its last samples. What is kept of one kind of flood differs from what is kept of
//! another, so only rests after floods of one kind are compared, and the first of each kind is left
//! out: buffers reach their size in it. The slope is the median of those between any two of them
//! (Theil-Sen), which one odd rest does not move, and its error half the distance between their
//! quartiles.

use serde::Serialize;

/// Maximum rise of the resident memory over a flood.
pub const LEFT_BYTES_MAX: i64 = 2 << 20;

/// Maximum slope of the resident memory at rest.
const SLOPE_BYTES_PER_DAY_MAX: f64 = (1 << 20) as f64;

/// Pairs of rests from which a slope is estimated: with fewer one odd rest decides.
const PAIRS_MIN: usize = 3;

/// Maximum resident memory while the full number of processes runs, and share of a core.
const RESIDENT_BYTES_MAX: u64 = 24 << 20;
const SHARE_MAX: f64 = 0.005;

/// Smallest step of the resident memory.
const PAGE_BYTES: f64 = 4096.0;

const DAY_SECS: f64 = 86_400.0;

/// Time at the end of a rest that its figures are of.
const SETTLED_SECS: f64 = 3.0;

/// State of the agent at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Time since the run began, in seconds.
    pub t: f64,
    /// Resident memory, and the part of it that is of no file.
    pub resident_bytes: u64,
    pub anon_bytes: u64,
    /// CPU time so far, in seconds.
    pub cpu_secs: f64,
    /// Threads, and open files.
    pub threads: usize,
    pub files: usize,
}

/// Part of a run: a flood, if it has a name, or a rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Name of the flood; `None` for a rest.
    pub flood: Option<&'static str>,
    /// Begin and end, in seconds.
    pub from: f64,
    pub to: f64,
    /// Most resident memory in it, as the kernel saw it; 0 if unknown.
    pub peak_bytes: u64,
}

/// Agent while the full number of processes runs, once they have all been seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Crowd {
    /// Processes and cgroups that were started.
    pub processes: usize,
    pub cgroups: usize,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Share of a core.
    pub share: f64,
}

/// Figures of one flood.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FloodFigures {
    /// Name.
    pub flood: &'static str,
    /// Begin, in seconds.
    pub from_secs: f64,
    /// Resident memory before it, at most, and at the end of the rest after it.
    pub before_bytes: u64,
    pub most_bytes: u64,
    pub after_bytes: u64,
    /// Time from its end until the resident memory was near that before it; `None` if it never was.
    pub returned_secs: Option<f64>,
}

impl FloodFigures {
    /// Resident memory that it left; negative if there is less than before.
    pub fn left_bytes(&self) -> i64 {
        rise(self.before_bytes, self.after_bytes)
    }
}

/// Slope of the resident memory at rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slope {
    /// Estimate, and its error.
    pub bytes_per_day: f64,
    pub error_bytes_per_day: f64,
    /// Slope of a single page over the longest time between two of the rests: no smaller one can be
    /// seen.
    pub resolution_bytes_per_day: f64,
    /// Number of pairs of rests that it is estimated from.
    pub pairs: usize,
}

/// Figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Each flood, in order.
    pub floods: Vec<FloodFigures>,
    /// Slope of the resident memory; `None` with too few pairs of rests.
    pub slope: Option<Slope>,
    /// Share of a core at rest, and over the run.
    pub rest_share: f64,
    pub run_share: f64,
    /// Threads and open files: the most in the first rest, and the fewest in the last.
    pub threads: (usize, usize),
    pub files: (usize, usize),
}

/// Target, and whether the run met it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TargetRow {
    /// Target.
    pub target: String,
    /// Figure of the run.
    pub measured: String,
    /// Set if it was met; `None` if the run cannot tell.
    pub is_met: Option<bool>,
}

/// Computes the figures of a run from its samples, which are in the order of time.
pub fn figures(samples: &[Sample], parts: &[Part]) -> Figures {
    let within =
        |from: f64, to: f64| samples.iter().filter(move |sample| (from..=to).contains(&sample.t));
    let settled = |part: &Part| {
        let from = part.from.max(part.to - SETTLED_SECS);
        median(within(from, part.to).map(|sample| sample.resident_bytes))
    };
    let rests: Vec<_> = parts.iter().filter(|part| part.flood.is_none()).collect();
    let floods = parts.windows(3).filter_map(|parts| {
        let [before, flood, after] = parts else { return None };
        let name = flood.flood?;
        let before_bytes = settled(before)?;
        let seen_bytes = within(flood.from, flood.to).map(|sample| sample.resident_bytes).max();
        let is_back =
            |sample: &&Sample| rise(before_bytes, sample.resident_bytes) <= LEFT_BYTES_MAX;
        let returned = within(after.from, after.to).find(is_back);
        Some(FloodFigures {
            flood: name,
            from_secs: flood.from,
            before_bytes,
            most_bytes: seen_bytes.unwrap_or(0).max(flood.peak_bytes),
            after_bytes: settled(after)?,
            returned_secs: returned.map(|sample| sample.t - flood.to),
        })
    });
    let floods: Vec<_> = floods.collect();
    let points = parts.windows(2).filter_map(|parts| {
        let [flood, rest] = parts else { return None };
        Some((flood.flood?, rest.to, settled(rest)? as f64))
    });
    let share_of = |parts: &mut dyn Iterator<Item = (f64, f64)>| {
        let spent = parts.filter_map(|(from, to)| {
            let (first, last) = (within(from, to).next()?, within(from, to).next_back()?);
            Some((last.cpu_secs - first.cpu_secs, last.t - first.t))
        });
        let (cpu_secs, secs) = spent.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if secs > 0.0 { cpu_secs / secs } else { 0.0 }
    };
    // A file that is open for a moment is no leak.
    let ends = |of: fn(&Sample) -> usize| {
        let in_rest = |part: &Part| within(part.from, part.to).map(of);
        let before = rests.first().and_then(|first| in_rest(first).max());
        let after = rests.last().and_then(|last| in_rest(last).min());
        (before.unwrap_or(0), after.unwrap_or(0))
    };
    let run = samples.first().zip(samples.last()).map(|(first, last)| (first.t, last.t));
    Figures {
        slope: slope(&points.collect::<Vec<_>>()),
        rest_share: share_of(&mut rests.iter().map(|rest| (rest.from, rest.to))),
        run_share: share_of(&mut run.into_iter()),
        threads: ends(|sample| sample.threads),
        files: ends(|sample| sample.files),
        floods,
    }
}

/// Judges a run: each target, in the order of the report.
pub fn targets(figures: &Figures, crowd: Option<&Crowd>) -> Vec<TargetRow> {
    let mut rows = Vec::new();
    for flood in &figures.floods {
        let left = flood.left_bytes();
        rows.push(TargetRow {
            target: format!("after {}: at most 2 MiB above before", flood.flood),
            measured: format!("{:+.1} MiB", left as f64 / f64::from(1 << 20)),
            is_met: Some(left <= LEFT_BYTES_MAX),
        });
    }
    let slope = figures.slope;
    let judge = |slope: Slope| {
        let error = slope.error_bytes_per_day.max(slope.resolution_bytes_per_day);
        match SLOPE_BYTES_PER_DAY_MAX {
            max if slope.bytes_per_day + error < max => Some(true),
            max if slope.bytes_per_day - error > max => Some(false),
            _ => None,
        }
    };
    rows.push(TargetRow {
        target: "slope at rest: under 1 MiB a day".to_owned(),
        measured: slope.map_or_else(
            || format!("unknown: fewer than {PAIRS_MIN} pairs of rests"),
            |slope| {
                let error = slope.error_bytes_per_day.max(slope.resolution_bytes_per_day);
                let [estimate, error] =
                    [slope.bytes_per_day, error].map(|bytes| bytes / f64::from(1 << 20));
                format!("{estimate:+.1} MiB a day, give or take {error:.1}")
            },
        ),
        is_met: slope.and_then(judge),
    });
    if let Some(crowd) = crowd {
        let at = format!("at {} processes and {} cgroups", crowd.processes, crowd.cgroups);
        rows.push(TargetRow {
            target: format!("{at}: at most 24 MiB"),
            measured: format!("{:.1} MiB", mib(crowd.resident_bytes)),
            is_met: Some(crowd.resident_bytes <= RESIDENT_BYTES_MAX),
        });
        rows.push(TargetRow {
            target: format!("{at}: at most 0.5 % of a core"),
            measured: format!("{:.2} %", crowd.share * 100.0),
            is_met: Some(crowd.share <= SHARE_MAX),
        });
    }
    let kept = |what: &str, (before, after): (usize, usize)| TargetRow {
        target: format!("no more {what} than before"),
        measured: format!("{before} before, {after} after"),
        is_met: Some(after <= before),
    };
    rows.extend([kept("threads", figures.threads), kept("open files", figures.files)]);
    rows
}

/// Size in MiB, for a reader.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Rise from one size to another.
pub fn rise(from: u64, to: u64) -> i64 {
    to.cast_signed() - from.cast_signed()
}

/// Returns the slope through points, each the kind of flood before it, a time and bytes; `None` if
/// there are too few.
fn slope(points: &[(&str, f64, f64)]) -> Option<Slope> {
    let (mut slopes, mut longest_secs) = (Vec::new(), 0.0_f64);
    for (nth, (kind, from, before)) in points.iter().enumerate() {
        if points.iter().take(nth).all(|earlier| earlier.0 != *kind) {
            continue;
        }
        for (_, to, after) in points.iter().skip(nth + 1).filter(|later| later.0 == *kind) {
            slopes.push((after - before) / (to - from) * DAY_SECS);
            longest_secs = longest_secs.max(to - from);
        }
    }
    if slopes.len() < PAIRS_MIN {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    let bytes_per_day = match slopes.len() % 2 {
        0 => (slopes[middle - 1] + slopes[middle]) / 2.0,
        _ => slopes[middle],
    };
    let quartile = |of_four: usize| slopes[(slopes.len() - 1) * of_four / 4];
    Some(Slope {
        bytes_per_day,
        error_bytes_per_day: (quartile(3) - quartile(1)) / 2.0,
        resolution_bytes_per_day: PAGE_BYTES / longest_secs * DAY_SECS,
        pairs: slopes.len(),
    })
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn part(flood: Option<&'static str>, from: f64, to: f64) -> Part {
        Part { flood, from, to, peak_bytes: 0 }
    }

    /// Floods of ten seconds, each after a rest of ten, and a rest at the end.
    fn parts(floods: usize) -> Vec<Part> {
        let all = (0..=2 * floods).map(|nth| {
            part((nth % 2 == 1).then_some("listeners"), nth as f64 * 10.0, nth as f64 * 10.0 + 10.0)
        });
        all.collect()
    }

    /// Two samples a second, of an agent that has so much memory and has spent so much time at `t`.
    fn samples(secs: u32, bytes: impl Fn(f64) -> u64, cpu: impl Fn(f64) -> f64) -> Vec<Sample> {
        let at = |t: f64| Sample {
            t,
            resident_bytes: bytes(t),
            anon_bytes: 0,
            cpu_secs: cpu(t),
            threads: 9,
            files: 40,
        };
        (0..=2 * secs).map(|half| at(f64::from(half) / 2.0)).collect()
    }

    #[test]
    fn flood_is_compared_with_the_rests_around_it() {
        let bytes = |t: f64| match t {
            ..=10.0 => 20 * MIB,
            ..=20.0 => 60 * MIB,
            ..24.0 => 40 * MIB,
            _ => 21 * MIB,
        };
        let figures = figures(&samples(30, bytes, |_| 0.0), &parts(1));
        let [flood] = &figures.floods[..] else { panic!("{figures:?}") };
        let sizes = [flood.before_bytes, flood.most_bytes, flood.after_bytes].map(|one| one / MIB);
        assert_eq!((sizes, flood.returned_secs), ([20, 60, 21], Some(4.0)));
        let met: Vec<_> = targets(&figures, None).into_iter().map(|row| row.is_met).collect();
        assert_eq!(met, [Some(true), None, Some(true), Some(true)]);
    }

    #[test]
    fn memory_that_stays_after_a_flood_is_missed() {
        let bytes = |t: f64| if t <= 10.0 { 20 * MIB } else { 23 * MIB };
        let figures = figures(&samples(30, bytes, |_| 0.0), &parts(1));
        assert_eq!(figures.floods[0].returned_secs, None);
        let row = &targets(&figures, None)[0];
        assert_eq!((row.measured.as_str(), row.is_met), ("+3.0 MiB", Some(false)));
    }

    #[test]
    fn slope_is_that_of_the_rests_whatever_floods_take() {
        // A page every 20 s: 16.9 MiB a day.
        let leak = |t: f64| 20 * MIB + (t / 20.0) as u64 * 4096;
        let flooded = |t: f64| leak(t) + if (t / 10.0) as u64 % 2 == 1 { 30 * MIB } else { 0 };
        let slope = figures(&samples(210, flooded, |_| 0.0), &parts(10)).slope.unwrap();
        assert_eq!(slope.pairs, 36);
        assert!((slope.bytes_per_day / MIB as f64 - 16.9).abs() < 0.1, "{slope:?}");
        assert!((slope.resolution_bytes_per_day / MIB as f64 - 2.1).abs() < 0.1, "{slope:?}");
    }

    #[test]
    fn one_odd_rest_does_not_move_the_slope() {
        let points: Vec<_> = (0..9).map(|n| ("churn", f64::from(n) * 100.0, 2e7)).collect();
        let mut odd = points.clone();
        odd[4].2 += 3e6;
        assert_eq!(slope(&odd), slope(&points));
        assert_eq!(slope(&points[..3]), None);
    }

    #[test]
    fn rests_after_different_floods_are_not_compared() {
        // What is left of each kind of flood is more than of the one before.
        let kinds = [("processes", 1e7), ("churn", 2e7), ("listeners", 3e7)];
        let turn = |secs: f64| kinds.map(|(kind, bytes)| (kind, bytes / 1e6 + secs, bytes));
        let points = [turn(0.0), turn(500.0), turn(900.0)].concat();
        let slope = slope(&points).unwrap();
        assert_eq!((slope.bytes_per_day, slope.pairs), (0.0, 3));
    }

    #[test]
    fn slope_is_judged_only_as_far_as_the_run_can_tell() {
        let row = |secs: f64, leak_bytes: f64| {
            let points =
                (0..5).map(|n| ("churn", f64::from(n) * secs / 4.0, f64::from(n) * leak_bytes));
            let points: Vec<_> = points.collect();
            let run = Figures { slope: slope(&points), ..figures(&[], &[]) };
            targets(&run, None).remove(0).is_met
        };
        assert_eq!((row(60.0, 0.0), row(600.0, 0.0)), (None, Some(true)));
        assert_eq!(row(600.0, 1e5), Some(false));
    }

    #[test]
    fn share_of_a_core_is_of_the_rests_and_of_the_run() {
        // All of a core in the flood between 10 and 20 s, and a tenth otherwise.
        let cpu = |t: f64| (t + 9.0 * (t - 10.0).clamp(0.0, 10.0)) / 10.0;
        let figures = figures(&samples(30, |_| MIB, cpu), &parts(1));
        assert!((figures.rest_share - 0.1).abs() < 1e-9, "{figures:?}");
        assert!((figures.run_share - 0.4).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn crowd_has_targets_of_its_own() {
        let crowd =
            |mib, share| Crowd { processes: 5_000, cgroups: 500, resident_bytes: mib * MIB, share };
        let met = |crowd: Crowd| {
            let rows = targets(&figures(&[], &[]), Some(&crowd));
            [rows[1].is_met, rows[2].is_met]
        };
        assert_eq!(met(crowd(24, 0.005)), [Some(true), Some(true)]);
        assert_eq!(met(crowd(25, 0.006)), [Some(false), Some(false)]);
    }
}
