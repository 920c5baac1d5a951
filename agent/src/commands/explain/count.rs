//! History of one count in a trace: what was in use, its limit, and the verdicts about it.

use std::{collections::BTreeSet, io::BufRead, sync::Arc};

use super::{
    explained::{ExplainError, replayed},
    series::Curve,
    svg::{Charted, ChartedVerdict, Picture},
};
use crate::{
    config::Config,
    detect::{Claim, Verdict, resource_of},
    sense::{CountedResource, Fact},
};

/// Maximum number of counts that are listed if the requested one is missing.
const NAMED_MAX: usize = 10;

/// Subject of a count that is named without one.
const HOST: &str = "host";

/// A count, as named on the command line: `disk_bytes:/var`, or `ptys` for the whole host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CountName {
    /// Resource.
    pub resource: CountedResource,
    /// Subject that has the limit.
    pub subject: Arc<str>,
}

impl From<&str> for CountName {
    fn from(name: &str) -> Self {
        // No resource's name has a colon.
        let (resource, subject) = name.split_once(':').unwrap_or((name, HOST));
        Self { resource: CountedResource::named(resource), subject: Arc::from(subject) }
    }
}

impl std::fmt::Display for CountName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.subject {
            HOST => write!(f, "{}", self.resource),
            subject => write!(f, "{}:{subject}", self.resource),
        }
    }
}

/// History of one count.
#[derive(Debug)]
pub struct ExplainedCount {
    name: CountName,
    curve: Curve,
    verdicts: Vec<Verdict>,
    span: Option<(f64, f64)>,
}

impl ExplainedCount {
    /// Replays a trace and collects the history of one count. Skips invalid lines.
    ///
    /// # Errors
    ///
    /// Returns an error if the trace cannot be read or has no such count.
    pub fn read<R: BufRead>(
        input: R,
        config: &Config,
        name: &CountName,
    ) -> Result<Self, ExplainError> {
        let (mut curve, mut verdicts) = (Curve::default(), Vec::new());
        let mut others = BTreeSet::new();
        let span = replayed(input, config, |observation, said| {
            verdicts.extend(said.drain(..).filter(|verdict| is_about(verdict, name)));
            let Fact::Count(fact) = &observation.fact else { return };
            if fact.resource == name.resource && fact.subject == name.subject {
                curve.push(observation.t, fact.used, fact.limit);
            } else if others.len() < NAMED_MAX {
                let (resource, subject) = (fact.resource.clone(), fact.subject.clone());
                others.insert(CountName { resource, subject });
            }
        })?;
        if curve.values.points.is_empty() {
            let names: Vec<_> = others.iter().map(ToString::to_string).collect();
            let others = match names.len() {
                0 => "it has no counts at all".to_owned(),
                _ => format!("it has {}", names.join(", ")),
            };
            return Err(ExplainError::NoCount { name: name.to_string(), others });
        }
        Ok(Self { name: name.clone(), curve, verdicts, span })
    }

    /// Returns the picture of it.
    pub fn picture(&self) -> Picture<'_> {
        let title = resource_of(&self.name.resource, &self.name.subject);
        let chart = Charted {
            name: "in use".to_owned(),
            is_bytes: self.name.resource.is_bytes(),
            curves: vec![&self.curve],
            others: &[],
            limits: self.curve.limit.clone(),
            verdicts: self.verdicts.iter().map(|verdict| self.charted(verdict)).collect(),
        };
        Picture { title, span: self.span, charts: vec![chart], verdicts: &self.verdicts }
    }
}

impl ExplainedCount {
    fn charted<'a>(&'a self, verdict: &'a Verdict) -> ChartedVerdict<'a> {
        let per_sec = match &verdict.claim {
            Claim::Exhaustion(claim) => claim.growth_per_sec,
            _ => None,
        };
        ChartedVerdict { verdict, claimed: per_sec.map(|per_sec| (&self.curve, per_sec)) }
    }
}

fn is_about(verdict: &Verdict, name: &CountName) -> bool {
    let Claim::Exhaustion(claim) = &verdict.claim else { return false };
    claim.resource == name.resource && claim.subject == name.subject
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{super::draw, *};

    const HEADER: &str = "{\"spillway_trace\":1,\"host\":{\"mem_total_bytes\":17179869184,\"cpus\":8},\
                          \"interval_secs\":10.0}\n";

    /// Trace of a disk that fills within three hours.
    fn trace() -> String {
        let mut trace = HEADER.to_owned();
        for sample in 0..700_u64 {
            let (t, used) = (sample * 10, (20 << 30) + (sample << 26));
            writeln!(
                trace,
                "{{\"t\":{t},\"kind\":\"count\",\"resource\":\"disk_bytes\",\"subject\":\"/var\",\
                 \"used\":{used},\"limit\":107374182400}}"
            )
            .unwrap();
        }
        trace
    }

    #[test]
    fn count_is_drawn_with_its_limit_and_forecast() {
        let name = CountName::from("disk_bytes:/var");
        let explained =
            ExplainedCount::read(trace().as_bytes(), &Config::default(), &name).unwrap();
        let svg = draw(&explained.picture()).unwrap();
        for part in ["disk space of /var", "in use, GiB", "limit", "raised", "<polygon"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }

    #[test]
    fn missing_count_is_an_error_that_names_the_others() {
        let name = CountName::from("ptys");
        let error = ExplainedCount::read(trace().as_bytes(), &Config::default(), &name);
        assert_eq!(
            error.unwrap_err().to_string(),
            "the trace has no count ptys\n  hint: it has disk_bytes:/var"
        );
    }
}
