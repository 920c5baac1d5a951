//! Builds a run from a family and a seed: its truth for the manifest and its observations for the
//! detector.
//!
//! A family defines what its subject does. Here it gets a host, bystanders and a limit, so that
//! memory adds up and each leak has a known end: the true time of exhaustion is when the simulated
//! host itself runs out.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use spillway_agent::{engine::HostInfo, sense::Observation, trace::TraceReader};

use super::{
    bystanders,
    curve::{Curve, GIB, MIB, flat, noise},
    families::{FAMILIES, Family},
    manifest::{Entry, Label, Part, Source, Subject},
    rng::{Rng, unit_at},
    sim::{Actor, Sim},
};

/// Usual sizes of physical memory.
const HOST_GIB: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Horizon for the moment of exhaustion, in multiples of the run's length after the leak's start.
const AHEAD: f64 = 20.0;

/// Evaluations per such length: the moment is then known to half a percent of it.
const EVALUATIONS: usize = 200;

/// Minimum spare share on top of a healthy host's use: with less, its own kernel would be
/// unhealthy. A guess.
const SPARE: f64 = 0.05;

/// Time over which what else runs on a host changes what is available.
const RESTLESS_SECS: f64 = 400.0;

/// Evaluations of a healthy run to find its peak.
const PEAK_EVALUATIONS: usize = 400;

/// Steps from a leak's start to the end of its run in which the leak is integrated: a few minutes
/// each in a run of days.
const RATE_STEPS: usize = 1_000;

/// Definition of one run by its family.
pub(super) struct Plan {
    /// Processes of the subject, all in one cgroup and with one name.
    pub(super) subjects: Vec<Actor>,
    pub(super) secs: f64,
    pub(super) leak: Option<Leak>,
    pub(super) room: Room,
    /// Interval between scans, if the family needs a particular one.
    pub(super) interval_secs: Option<f64>,
    pub(super) gaps: Vec<(f64, f64)>,
    pub(super) loss: f64,
}

pub(super) struct Leak {
    pub(super) start: f64,
    /// Bytes leaked by a given time: the truth that the subject's curve also contains.
    pub(super) leaked: Curve,
    /// True if restarts always come before exhaustion.
    pub(super) never_ends: bool,
    /// Time by which it is to be found; `None` in the families whose deadlines are by rate.
    pub(super) due: Option<f64>,
}

/// Distance to the limit.
pub(super) enum Room {
    /// Bytes left when the leak starts.
    Left(f64),
    /// Share of the run's peak by which the limit exceeds it.
    AbovePeak(f64),
    /// A host of a given size, whatever runs on it, perhaps with a limit of the subject's.
    Host { total_bytes: f64, used_share: f64, restless_share: f64, max_bytes: Option<f64> },
}

impl Plan {
    pub(super) fn leaking(
        subjects: Vec<Actor>,
        start: f64,
        secs: f64,
        left: f64,
        leaked: Curve,
    ) -> Self {
        let leak = Some(Leak { start, leaked, never_ends: false, due: None });
        Self {
            subjects,
            secs,
            leak,
            room: Room::Left(left),
            interval_secs: None,
            gaps: Vec::new(),
            loss: 0.0,
        }
    }

    /// Plan of a healthy run, with a limit between 1.1 and 2 times the peak: tight limits look as
    /// dangerous as a leak.
    pub(super) fn healthy(rng: &mut Rng, subjects: Vec<Actor>, secs: f64) -> Self {
        let room = Room::AbovePeak(rng.log_range(0.1, 1.0));
        Self { subjects, secs, leak: None, room, interval_secs: None, gaps: Vec::new(), loss: 0.0 }
    }
}

/// Synthetic run.
pub struct Run {
    /// Entry in the manifest.
    pub entry: Entry,
    sim: Sim,
    truth: Option<Truth>,
}

/// Host and observations of a run.
pub struct Stream {
    /// Host of the run.
    pub host: HostInfo,
    /// Observations in order of time, many at once: a score goes through hundreds of millions, and
    /// to move each takes a fifth of its time.
    pub scans: Box<dyn Iterator<Item = anyhow::Result<Vec<Observation>>>>,
    /// Progress of the leak; `None` if there is no leak, if restarts reset it, or if it is unknown.
    pub truth: Option<Truth>,
}

/// Truth about a leak.
pub struct Truth {
    leaked: Curve,
    left_bytes: f64,
}

impl Truth {
    /// Share of the headroom that has leaked away, without healthy swings. Call it in order of
    /// time.
    pub fn used(&mut self, t: f64) -> f64 {
        ((self.leaked)(t) / self.left_bytes).clamp(0.0, 1.0)
    }
}

/// Plan and host before limits are known.
struct Draft {
    plan: Plan,
    subject: Subject,
    subjects: usize,
    limited: bool,
    sim: Sim,
}

impl Draft {
    fn new(family: &Family, seed: u64) -> Self {
        let mut rng = Rng::new(family.name, seed);
        let mut plan = (family.plan)(&mut rng);
        let mut actors = std::mem::take(&mut plan.subjects);
        let subject =
            Subject { cgroup: actors[0].cgroup.to_string(), comm: actors[0].comm.to_string() };
        let subjects = actors.len();
        bystanders::add(&mut rng, plan.secs, &mut actors);
        let interval_secs = plan.interval_secs.unwrap_or_else(|| interval(&mut rng));
        let sim = Sim {
            host: HostInfo { mem_total_bytes: 0, cpus: rng.pick(&[1, 2, 4, 8, 16]) },
            actors,
            other_bytes: 0.0,
            restless: flat(0.0),
            secs: plan.secs,
            interval_secs,
            gaps: plan.gaps.clone(),
            loss: plan.loss,
            peaks: false,
            blur_pages: rng.pick(&[0.0, 16.0, 64.0]),
            seed: rng.bits(),
        };
        Self { limited: rng.chance(0.5), plan, subject, subjects, sim }
    }

    /// Bytes charged to the subject, and to everything.
    fn use_at(&mut self, t: f64) -> (f64, f64) {
        let mut used = (0.0, 0.0);
        for (place, actor) in self.sim.actors.iter_mut().enumerate() {
            let charged = actor.charged(t);
            used.1 += charged;
            if place < self.subjects {
                used.0 += charged;
            }
        }
        used
    }

    /// Memory that the subject and the host must have.
    fn needs(mut self) -> (f64, f64) {
        match (&self.plan.room, &self.plan.leak) {
            // The rest is above every healthy swing: a collector's teeth and a day's load were
            // never a danger.
            (Room::Left(left), _) => {
                let (left, secs) = (*left, self.plan.secs);
                let mut worst = (0.0, 0.0);
                for step in 0..=PEAK_EVALUATIONS {
                    let t = secs * step as f64 / PEAK_EVALUATIONS as f64;
                    let leaked = self.plan.leak.as_mut().map_or(0.0, |leak| (leak.leaked)(t));
                    let (own, all) = self.use_at(t);
                    worst = (f64::max(worst.0, own - leaked), f64::max(worst.1, all - leaked));
                }
                (worst.0 + left, worst.1 + left)
            }
            (Room::Host { total_bytes, max_bytes, .. }, _) => {
                (max_bytes.unwrap_or(f64::INFINITY), *total_bytes)
            }
            (Room::AbovePeak(share), _) => {
                let (share, secs) = (*share, self.plan.secs);
                let mut times: Vec<_> = (0..=PEAK_EVALUATIONS)
                    .map(|step| secs * step as f64 / PEAK_EVALUATIONS as f64)
                    .collect();
                // An old process and its successor may coexist for less than the time between two
                // evaluations.
                times.extend(
                    self.sim
                        .actors
                        .iter()
                        .map(|actor| actor.dies.next_down())
                        .filter(|dies| *dies < secs),
                );
                times.sort_by(f64::total_cmp);
                let (own, all) = times
                    .into_iter()
                    .map(|t| self.use_at(t))
                    .fold((0.0, 0.0), |(own, all), (o, a)| (f64::max(own, o), f64::max(all, a)));
                // A small process was never all that stands between a host and exhaustion.
                (own * (1.0 + share), all + (own * share).max(all * SPARE))
            }
        }
    }

    fn limit(mut self, (own, all): (f64, f64)) -> Self {
        if let Room::Host { total_bytes, used_share, restless_share, max_bytes } = self.plan.room {
            self.sim.host.mem_total_bytes = total_bytes as u64;
            self.sim.other_bytes = total_bytes * used_share;
            let swings = noise(self.sim.seed ^ 7, RESTLESS_SECS, total_bytes * restless_share);
            self.sim.restless = swings;
            self.sim.peaks = unit_at(self.sim.seed ^ 8, 0) < 0.5;
            let max = max_bytes.map(|max| ((max / MIB).ceil() * MIB) as u64);
            let subjects = &mut self.sim.actors[..self.subjects];
            subjects.iter_mut().for_each(|actor| actor.memory_max_bytes = max);
            return self;
        }
        let wanted = if self.limited { 2.0 * (own + all) } else { 1.15 * all };
        let fits = HOST_GIB.iter().map(|gib| gib * GIB).find(|bytes| *bytes >= wanted);
        let total = fits.unwrap_or_else(|| (wanted / GIB).ceil() * GIB);
        self.sim.host.mem_total_bytes = total as u64;
        self.sim.other_bytes = if self.limited { total * 0.04 } else { total - all };
        if self.limited {
            let max = ((own / MIB).ceil() * MIB) as u64;
            self.sim.actors[..self.subjects]
                .iter_mut()
                .for_each(|actor| actor.memory_max_bytes = Some(max));
        }
        self
    }

    fn exhausted_secs(mut self) -> Option<f64> {
        let leak = self.plan.leak.as_ref().filter(|leak| !leak.never_ends)?;
        let (start, step) = (leak.start, (self.plan.secs - leak.start) / EVALUATIONS as f64);
        (1..(AHEAD * EVALUATIONS as f64) as usize)
            .map(|nth| start + nth as f64 * step)
            .find(|t| self.sim.headroom(*t, &self.subject.cgroup) <= 0.0)
    }
}

/// Mostly the default. Long runs are scanned as often as short ones: rare scans would leave the
/// horizons of seconds blind, which see fast leaks and are the first to be wrong about a burst.
fn interval(rng: &mut Rng) -> f64 {
    rng.pick(&[1.0, 1.0, 1.0, 2.0])
}

impl Run {
    /// Run of a family and a seed; always the same.
    pub fn new(family: &Family, seed: u64) -> Self {
        let draft = || Draft::new(family, seed);
        let needs = draft().needs();
        let exhausted_secs = draft().limit(needs).exhausted_secs();
        let Plan { leak, room, .. } = draft().plan;
        let truth = match (leak.filter(|leak| !leak.never_ends), room) {
            (Some(leak), Room::Left(left_bytes)) => Some(Truth { leaked: leak.leaked, left_bytes }),
            _ => None,
        };
        let mut draft = draft().limit(needs);
        let secs = exhausted_secs.map_or(draft.plan.secs, |end| end.min(draft.plan.secs)).floor();
        let due_secs = draft.plan.leak.as_ref().and_then(|leak| leak.due).map(f64::round);
        draft.sim.secs = secs;
        let leak = draft.plan.leak.as_mut();
        let leak = leak.map(|leak| {
            // Evaluated step by step: an integral is only as accurate as its steps.
            let step = (secs - leak.start) / RATE_STEPS as f64;
            let leaked = (0..=RATE_STEPS)
                .map(|nth| (leak.leaked)(leak.start + nth as f64 * step))
                .fold(0.0, |_, now| now);
            (leak.start, (leaked / (secs - leak.start)).round())
        });
        let entry = Entry {
            run: format!("{}/{seed}", family.name),
            family: family.name.to_owned(),
            part: family.part,
            source: Source::Synthetic,
            seed: Some(seed),
            trace: None,
            label: if leak.is_some() { Label::Leak } else { Label::Healthy },
            subject: draft.subject,
            leak_start_secs: leak.map(|leak| leak.0.round()),
            leak_bytes_per_sec: leak.map(|leak| leak.1),
            exhausted_secs: exhausted_secs.map(f64::round),
            due_secs,
            secs,
            interval_secs: draft.sim.interval_secs,
            why: family.why.to_owned(),
        };
        Self { entry, sim: draft.sim, truth }
    }

    /// Observations of the run.
    pub fn stream(self) -> Stream {
        let host = self.sim.host;
        Stream { host, scans: Box::new(self.sim.scans().map(Ok)), truth: self.truth }
    }
}

/// Synthetic runs of one part, or of all.
pub fn synthetic(part: Option<Part>) -> impl Iterator<Item = (&'static Family, u64)> {
    let families =
        FAMILIES.iter().filter(move |family| part.is_none_or(|part| family.part == part));
    families.flat_map(|family| (0..family.runs).map(move |seed| (family, seed)))
}

impl Stream {
    /// Returns the observations one by one.
    pub fn observations(self) -> impl Iterator<Item = anyhow::Result<Observation>> {
        self.scans.flat_map(|scan| match scan {
            Ok(scan) => scan.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Observations of a run in the manifest; `dir` is the corpus's directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the family is unknown or the trace cannot be read.
    pub fn open(entry: &Entry, dir: &Path) -> anyhow::Result<Self> {
        match (entry.source, entry.seed, &entry.trace) {
            (Source::Synthetic, Some(seed), _) => {
                let family = FAMILIES
                    .iter()
                    .find(|family| family.name == entry.family)
                    .with_context(|| {
                        format!(
                            "{}: unknown family {:?}\n  hint: `cargo xtask corpus list` names them",
                            entry.run, entry.family
                        )
                    })?;
                Ok(Run::new(family, seed).stream())
            }
            (Source::Recorded, _, Some(trace)) => {
                let Recording { host, observations } = Recording::open(&dir.join(trace))?;
                let scans = observations.map(|observation| Ok(vec![observation?]));
                Ok(Self { host, scans: Box::new(scans), truth: None })
            }
            _ => bail!("{}: a synthetic run needs `seed`, a recorded one `trace`", entry.run),
        }
    }
}

/// Recorded trace.
pub(crate) struct Recording {
    /// Host of the recording.
    pub(crate) host: HostInfo,
    /// Observations in order of time.
    pub(crate) observations: Box<dyn Iterator<Item = anyhow::Result<Observation>>>,
}

impl Recording {
    /// Opens a trace; it is compressed with gzip if its name ends in `.gz`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::open(path).with_context(|| format!("opening the trace {}", path.display()))?;
        let input: Box<dyn std::io::Read> = if path.extension().is_some_and(|end| end == "gz") {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let reader = TraceReader::new(BufReader::new(input))
            .with_context(|| format!("reading the trace {}", path.display()))?;
        let (host, path) = (reader.header().host, path.to_owned());
        let observations = reader.map(move |line| {
            line.map_err(|skip| {
                anyhow::anyhow!(
                    "{}: {skip}\n  hint: a corpus's trace has no line to skip",
                    path.display()
                )
            })
        });
        Ok(Self { host, observations: Box::new(observations) })
    }
}
