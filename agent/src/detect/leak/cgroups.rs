//! Leaks of cgroups: memory that is charged to a cgroup while no process of it grows.
//!
//! Files in a tmpfs, memory of the kernel, and anonymous memory in flight count against the limit
//! of a cgroup, but in no process's size; processes that are started and never end add theirs,
//! though each stays as it is. Each of these parts is judged as the memory of a process
//! would be, over the same horizons and by the same rules, only not by the horizons of seconds, for
//! which charges are read too seldom. Page cache never counts: the kernel reclaims it. Growth that
//! the cgroup's processes show as well is theirs, and judged as such. A claim is raised once for a
//! cgroup, for the part that showed the leak first. Traces without facts of cgroups have only the
//! charge against the limit of a process; it is used if no other cgroup may be below that limit.
//! Cold start: as for processes; and a cgroup is known from its first process on.

use std::sync::Arc;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        detector::{Context, Findings, is_gone},
        growth::{Alone, Growth, MINUTES_HORIZON_MIN, due},
        leak_claim::{CgroupMemory, LeakClaim},
        verdict::Verdict,
        window::{BUCKETS, Closed, Horizons, KIB, Newest, Window},
    },
    headroom::Headroom,
    process::{Leak, Process, loading_secs},
    tracking::Tracking,
    verdict,
    workload::Members,
};
use crate::{
    config::LeakConfig,
    detect::confidence::Rule,
    sense::{CgroupFact, ProcessFact, ProcessId, ProcessResourcesFact},
    units::{Size, Span, rounded},
};

/// Maximum number of cgroups that are known at a time. Those whose charge is known take some 4 KiB.
const CGROUPS_MAX: usize = 4_096;

/// Maximum number of cgroups that are saved. At some 5,000 bytes each they take 5 MB. Of more,
/// those that leak and then those with the largest charge are saved.
const SAVED_MAX: usize = 1_024;

/// Time for which a part must have grown, or else for as long as is left until its limit: jobs fill
/// a tmpfs for minutes and empty it again, and nothing else tells their files from a leak's. Memory
/// of the kernel comes and goes with files and threads, which are counted.
const LASTED_SECS: f64 = 600.0;
const KERNEL_LASTED_SECS: f64 = 240.0;

/// Time for which processes must have been left behind, and how many: pools grow with their load,
/// most of them within minutes. Guesses.
const LEFT_BEHIND_SECS: f64 = 1_800.0;
const LEFT_BEHIND_MIN: f64 = 12.0;

/// Share of a part's growth that must be seen in processes to be theirs. A guess.
const EXPLAINED_SHARE: f64 = 0.5;

/// Part of the memory of processes that the kernel may need besides: page tables take a 512th, of
/// sparse mappings more. A guess.
const KERNEL_SHARE: u64 = 64;

/// Memory of the kernel that may come with an open file, as a socket with full buffers, and with a
/// thread. Guesses.
const FILE_BYTES: u64 = 256 << 10;
const THREAD_BYTES: u64 = 32 << 10;

/// Number of parts.
const PARTS: usize = CgroupMemory::ALL.len();

/// Leaks of cgroups.
#[derive(Default)]
pub(super) struct CgroupLeaks {
    cgroups: HashMap<Arc<str>, ChargedCgroup>,
    /// One workload a cgroup and part, as the state of a process has one.
    members: Members,
    /// Set if charges of cgroups are seen, so that those of limits are not needed.
    has_facts: bool,
    untracked_total: u64,
}

/// One cgroup.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargedCgroup {
    /// Set if its first process started under watch.
    young: bool,
    #[serde(skip)]
    seen_scan: u32,
    /// Oldest process that was seen last.
    oldest: Option<(ProcessId, Arc<str>)>,
    #[serde(skip)]
    scan: LatestScan,
    charge: Option<Box<ChargeWindows>>,
}

/// One scan of a cgroup.
#[derive(Default)]
struct LatestScan {
    charged: Option<CgroupFact>,
    /// Limit of its processes, and anonymous and shared memory charged against it.
    limit: Option<(u64, u64)>,
    oldest: Option<(ProcessId, Arc<str>)>,
    processes: u64,
    anon_bytes: u64,
    shmem_bytes: u64,
    /// Memory that its processes had once they were loaded, as far as they still have it.
    loaded_bytes: u64,
    counted: u64,
    fds: u64,
    threads: u64,
}

/// Charge of a cgroup over time.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeWindows {
    parts: [Process; PARTS],
    /// Resident shared memory of its processes.
    mapped: Window,
    /// Memory of the kernel that its processes explain, by their memory, files and threads.
    explained: Window,
    /// Part of it for files and threads.
    objects_bytes: u64,
    /// Number of its processes, as so many KiB.
    processes: Window,
    origin_t: f64,
    /// Headroom as of the last scan with a charge.
    left_bytes: Option<f64>,
    kernel_bytes: u64,
    open: Option<OpenCgroupLeak>,
}

/// Open claim about a cgroup.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenCgroupLeak {
    /// Part that leaks.
    part: CgroupMemory,
    /// Process that the claim was raised with.
    id: ProcessId,
    comm: Arc<str>,
    /// Set if it is an earlier run's, still to be raised in this one.
    #[serde(skip)]
    is_held_over: bool,
}

impl OpenCgroupLeak {
    /// Claim about the cgroup of this name, at so many bytes a second.
    fn claim(&self, name: &Arc<str>, slope: f64) -> LeakClaim {
        LeakClaim {
            cgroup_memory: Some(self.part),
            ..LeakClaim::of_memory(self.id, &self.comm, name, slope)
        }
    }
}

/// Cgroups as they are written.
#[derive(Serialize)]
pub(super) struct SavedCgroupsRef<'a> {
    has_facts: bool,
    charged: Vec<(&'a Arc<str>, &'a ChargedCgroup)>,
}

/// Cgroups as they are read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedCgroups {
    has_facts: bool,
    charged: Vec<(Arc<str>, ChargedCgroup)>,
}

impl SavedCgroups {
    /// Returns whether these can have been written.
    pub(super) fn is_sound(&self, horizons: &Horizons) -> bool {
        self.charged.len() <= SAVED_MAX
            && self.charged.iter().filter_map(|(_, cgroup)| cgroup.charge.as_ref()).all(|charge| {
                charge.parts.iter().all(|part| part.is_sound(horizons))
                    && charge.mapped.is_sound()
                    && charge.explained.is_sound()
                    && charge.processes.is_sound()
                    && charge.origin_t.is_finite()
                    && charge.left_bytes.is_none_or(f64::is_finite)
            })
    }
}

/// Context of judging cgroups at one scan.
pub(super) struct CgroupScan<'a> {
    pub(super) context: &'a Context<'a>,
    /// Time for which the host was awake, in seconds.
    pub(super) now: f64,
    /// Set if no scan came before.
    pub(super) is_first: bool,
    pub(super) config: &'a LeakConfig,
    pub(super) horizons: &'a Horizons,
}

impl CgroupLeaks {
    /// Number of open claims.
    pub(super) fn len(&self) -> usize {
        let is_open = |cgroup: &&ChargedCgroup| {
            cgroup.charge.as_ref().is_some_and(|charge| charge.open.is_some())
        };
        self.cgroups.values().filter(is_open).count()
    }

    /// Cgroups to save: those whose charge is known.
    pub(super) fn saved(&self) -> SavedCgroupsRef<'_> {
        let mut charged: Vec<_> =
            self.cgroups.iter().filter(|(_, cgroup)| cgroup.charge.is_some()).collect();
        if charged.len() > SAVED_MAX {
            let order = |cgroup: &ChargedCgroup| {
                let charge = cgroup.charge.as_ref();
                let kib = |charge: &ChargeWindows| {
                    charge.parts.iter().map(|part| part.window.peak_kib()).sum::<f64>() as u64
                };
                let is_open = charge.is_some_and(|charge| charge.open.is_some());
                (!is_open, std::cmp::Reverse(charge.map_or(0, |charge| kib(charge))))
            };
            charged.select_nth_unstable_by_key(SAVED_MAX, |(_, cgroup)| order(cgroup));
            charged.truncate(SAVED_MAX);
        }
        SavedCgroupsRef { has_facts: self.has_facts, charged }
    }

    /// Takes over the cgroups of an earlier run.
    pub(super) fn restore(saved: SavedCgroups) -> Self {
        let mut leaks = Self { has_facts: saved.has_facts, ..Self::default() };
        for (name, mut cgroup) in saved.charged {
            if let Some(charge) = &mut cgroup.charge {
                for (place, part) in charge.parts.iter_mut().enumerate() {
                    leaks.members.join_again(place as u32, &mut part.workload);
                }
                if let Some(open) = &mut charge.open {
                    open.is_held_over = true;
                }
            }
            leaks.cgroups.insert(name, cgroup);
        }
        leaks
    }

    /// Observations of cgroups for which there was no room.
    pub(super) fn untracked_total(&self) -> u64 {
        self.untracked_total
    }

    /// Takes a process at one scan.
    pub(super) fn see_process(&mut self, scan: &CgroupScan<'_>, fact: &ProcessFact) {
        let Some(cgroup) = self.cgroup(scan, &fact.cgroup) else { return };
        let sums = &mut cgroup.scan;
        sums.processes += 1;
        sums.anon_bytes = sums.anon_bytes.saturating_add(fact.anon_bytes);
        sums.shmem_bytes = sums.shmem_bytes.saturating_add(fact.shmem_bytes);
        sums.limit = sums.limit.or(fact.memory_max_bytes.zip(fact.memory_charged_bytes));
        if sums.oldest.as_ref().is_none_or(|(id, _)| fact.id.start_ticks < id.start_ticks) {
            sums.oldest = Some((fact.id, fact.comm.clone()));
        }
    }

    /// Takes the memory that a process of a cgroup had once it was loaded, as far as it still has
    /// it.
    pub(super) fn see_loaded(&mut self, cgroup: &Arc<str>, kib: u32) {
        if let Some(ChargedCgroup { scan, .. }) = self.cgroups.get_mut(cgroup) {
            scan.loaded_bytes = scan.loaded_bytes.saturating_add(u64::from(kib) << 10);
        }
    }

    /// Takes a count of the files and threads of a process in a cgroup.
    pub(super) fn count(&mut self, cgroup: &Arc<str>, fact: &ProcessResourcesFact) {
        let Some(ChargedCgroup { scan, .. }) = self.cgroups.get_mut(cgroup) else { return };
        scan.counted += 1;
        scan.fds = scan.fds.saturating_add(fact.fds);
        scan.threads = scan.threads.saturating_add(fact.threads);
    }

    /// Takes the charge of a cgroup.
    pub(super) fn see_charge(&mut self, scan: &CgroupScan<'_>, fact: &CgroupFact) {
        self.has_facts = true;
        if let Some(cgroup) = self.cgroup(scan, &fact.cgroup) {
            cgroup.scan.charged = Some(fact.clone());
        }
    }

    fn cgroup(&mut self, scan: &CgroupScan<'_>, name: &Arc<str>) -> Option<&mut ChargedCgroup> {
        // The root is charged with everything that is in no other.
        if name.trim_matches('/').is_empty() {
            return None;
        }
        if !self.cgroups.contains_key(name) {
            if self.cgroups.len() >= CGROUPS_MAX {
                self.untracked_total = self.untracked_total.saturating_add(1);
                return None;
            }
            let cgroup = ChargedCgroup {
                young: !scan.is_first,
                seen_scan: 0,
                oldest: None,
                scan: LatestScan::default(),
                charge: None,
            };
            self.cgroups.insert(name.clone(), cgroup);
        }
        let cgroup = self.cgroups.get_mut(name)?;
        cgroup.seen_scan = scan.context.scan;
        Some(cgroup)
    }

    /// Ends a scan: judges every cgroup whose charge it showed, and drops those that are gone.
    pub(super) fn end_scan(&mut self, scan: &CgroupScan<'_>, findings: &mut Findings) {
        let mut news = Vec::new();
        for (name, cgroup) in &mut self.cgroups {
            let sums = std::mem::take(&mut cgroup.scan);
            if sums.oldest.is_some() {
                cgroup.oldest.clone_from(&sums.oldest);
            }
            if let Some((charge, counts)) = cgroup.charge.as_mut().zip(sums.counts()) {
                charge.count(&counts, scan);
            }
            let Some(parts) = sums.parts(self.has_facts) else { continue };
            let charge = cgroup.charge.get_or_insert_with(|| {
                Box::new(ChargeWindows::new(scan, name, cgroup.young, &parts, &mut self.members))
            });
            let closed = charge.see(scan, name, &sums, &parts, &mut self.members);
            let is_held_over = charge.open.as_ref().is_some_and(|open| open.is_held_over);
            if is_held_over || closed.iter().any(|closed| closed.horizons != 0) {
                news.push((name.clone(), closed));
            }
        }
        // Findings have an order, unlike the map.
        news.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, closed) in news {
            let cgroup = self.cgroups.get_mut(&name);
            let Some(charge) = cgroup.and_then(|cgroup| cgroup.charge.as_mut()) else { continue };
            charge.hold_over(scan.context, &name, findings);
            if charge.open.is_some() {
                charge.follow(scan, &name, closed, findings);
            } else if let Some((part, horizon, growth)) = charge.growth(scan, closed) {
                self.raise(scan, &name, (part, horizon), &growth, findings);
            }
        }
        self.forget(scan.context, findings);
    }

    fn raise(
        &mut self,
        scan: &CgroupScan<'_>,
        name: &Arc<str>,
        (part, horizon): (CgroupMemory, usize),
        growth: &Growth,
        findings: &mut Findings,
    ) -> Option<()> {
        if !self.stands_for_itself(name) {
            return None;
        }
        let cgroup = self.cgroups.get_mut(name)?;
        let (charge, (id, comm)) = (cgroup.charge.as_mut()?, cgroup.oldest.clone()?);
        let headroom = charge.headroom(scan.context);
        let mut why = verdict::cgroup_evidence(name, part, growth, &headroom);
        let confidence = scan.context.sensor_health.weigh(
            Rule::Cgroup,
            scan.context.t,
            growth.confidence(),
            &mut why,
        );
        let slope = growth.slope_bytes_per_sec;
        let error = growth.slope_error_bytes_per_sec;
        let slopes = [(slope - error).max(0.0), slope + error];
        let claim = LeakClaim {
            growth_interval_bytes_per_sec: Some(slopes.map(|slope| rounded(slope, 1))),
            bound: headroom.bound(),
            cgroup_memory: Some(part),
            ..LeakClaim::of_memory(id, &comm, name, slope)
        };
        findings.verdicts.push(Verdict {
            exhaustion_secs: Some(rounded(growth.exhaustion_secs(), 1)),
            exhaustion_interval_secs: verdict::exhaustion_interval(growth, slopes),
            ..Verdict::raised(scan.context.t, claim, confidence, why)
        });
        charge.parts[part as usize].leak = Some(Box::new(Leak::new(growth, horizon, confidence)));
        charge.open = Some(OpenCgroupLeak { part, id, comm, is_held_over: false });
        Some(())
    }

    /// Returns whether all that is charged to a cgroup is known to be its own: none is below it,
    /// and, if its charge is only known as that against a limit, none may share that limit.
    fn stands_for_itself(&self, name: &str) -> bool {
        self.cgroups.keys().filter(|other| &***other != name).all(|other| {
            let is_below = other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
            let may_share = !self.has_facts && outermost(other) == outermost(name);
            !is_below && !may_share
        })
    }

    /// Drops the cgroups that the last scans did not show, and clears their claims.
    fn forget(&mut self, context: &Context<'_>, findings: &mut Findings) {
        let gone = self.cgroups.iter().filter(|(_, cgroup)| is_gone(context, cgroup.seen_scan));
        let mut gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        gone.sort();
        for name in gone {
            let cgroup = self.cgroups.remove(&name);
            let Some(mut charge) = cgroup.and_then(|cgroup| cgroup.charge) else { continue };
            for (place, part) in charge.parts.iter().enumerate() {
                self.members.leave(&part.workload, place as u32);
            }
            let open = charge.open.as_ref().map(|open| open.part);
            let leak = open.and_then(|part| charge.parts[part as usize].leak.take());
            if let Some((part, leak)) = open.zip(leak) {
                charge.clear(context, &name, (part, &leak), "the cgroup is gone", findings);
            }
        }
    }
}

/// Returns the outermost cgroup of a path.
fn outermost(path: &str) -> Option<&str> {
    path.split('/').find(|name| !name.is_empty())
}

impl LatestScan {
    /// Returns the open files and threads of all processes; `None` unless all were counted.
    fn counts(&self) -> Option<ProcessResourcesFact> {
        let id = ProcessId { pid: 0, start_ticks: 0 };
        let Self { fds, threads, .. } = *self;
        (self.counted > 0 && self.counted == self.processes).then_some(ProcessResourcesFact {
            id,
            fds,
            fds_max: None,
            threads,
            close_wait: None,
        })
    }

    /// Returns the memory that is charged to the cgroup and that its processes do not show by
    /// growing, by part; `None` if it is unknown.
    fn parts(&self, has_facts: bool) -> Option<[u64; PARTS]> {
        if let Some(fact) = &self.charged {
            let shmem_bytes = fact.shmem_bytes?;
            let anon_bytes = fact.anon_bytes.unwrap_or(0).saturating_sub(self.anon_bytes);
            let kernel_bytes = fact.kernel_bytes.unwrap_or(0);
            return Some([shmem_bytes, kernel_bytes, anon_bytes, self.loaded_bytes]);
        }
        let (_, charged_bytes) = self.limit.filter(|_| !has_facts)?;
        let held_bytes = self.anon_bytes.saturating_add(self.shmem_bytes);
        Some([charged_bytes.saturating_sub(held_bytes), 0, 0, self.loaded_bytes])
    }
}

impl ChargeWindows {
    fn new(
        scan: &CgroupScan<'_>,
        name: &Arc<str>,
        young: bool,
        parts: &[u64; PARTS],
        members: &mut Members,
    ) -> Self {
        let loading_secs = young.then(|| loading_secs(scan.config));
        let number = scan.context.scan;
        let parts = CgroupMemory::ALL.map(|part| {
            let comm = Arc::from(part.name());
            let fact = part_fact(name, &comm, part, parts[part as usize]);
            Process::new(&fact, scan.now, number, loading_secs, members)
        });
        Self {
            origin_t: parts[0].origin_t,
            parts,
            mapped: Window::default(),
            explained: Window::default(),
            objects_bytes: 0,
            processes: Window::default(),
            left_bytes: None,
            kernel_bytes: 0,
            open: None,
        }
    }

    /// Takes the open files and threads of all processes.
    fn count(&mut self, counts: &ProcessResourcesFact, scan: &CgroupScan<'_>) {
        let of_files = counts.fds.saturating_mul(FILE_BYTES);
        self.objects_bytes = of_files.saturating_add(counts.threads.saturating_mul(THREAD_BYTES));
        // Processes that are left behind keep their files open.
        let parts = self.parts.iter_mut().zip(CgroupMemory::ALL);
        parts
            .filter(|(_, part)| *part != CgroupMemory::Processes)
            .for_each(|(process, _)| process.count(counts, scan.now, scan.horizons));
    }

    /// Takes the charge of a scan; returns what each part has completed.
    fn see(
        &mut self,
        scan: &CgroupScan<'_>,
        name: &Arc<str>,
        sums: &LatestScan,
        parts: &[u64; PARTS],
        members: &mut Members,
    ) -> [Closed; PARTS] {
        let (now, horizons) = (scan.now, scan.horizons);
        let age_secs = now - self.origin_t;
        if age_secs >= 0.0 {
            self.mapped.observe(horizons, age_secs, sums.shmem_bytes);
            let held_bytes = sums.anon_bytes.saturating_add(sums.shmem_bytes);
            let explained_bytes = (held_bytes / KERNEL_SHARE).saturating_add(self.objects_bytes);
            self.explained.observe(horizons, age_secs, explained_bytes);
            self.processes.observe(horizons, age_secs, sums.processes << 10);
        }
        self.see_limit(sums);
        CgroupMemory::ALL.map(|part| {
            let process = &mut self.parts[part as usize];
            let fact = part_fact(name, &process.workload.comm, part, parts[part as usize]);
            process.see(&fact, now, scan.context.scan, horizons, members)
        })
    }

    fn see_limit(&mut self, sums: &LatestScan) {
        let own_bytes = sums.charged.as_ref().and_then(|fact| {
            let used_bytes = [fact.anon_bytes?, fact.shmem_bytes?, fact.kernel_bytes.unwrap_or(0)]
                .into_iter()
                .fold(0, u64::saturating_add);
            self.kernel_bytes = fact.kernel_bytes.unwrap_or(0);
            Some(fact.max_bytes?.saturating_sub(used_bytes) as f64)
        });
        // The nearest limit may be one that it shares with others.
        let kernel_bytes = self.kernel_bytes;
        let shared_bytes = sums.limit.map(|(max_bytes, charged_bytes)| {
            max_bytes.saturating_sub(charged_bytes).saturating_sub(kernel_bytes) as f64
        });
        self.left_bytes = own_bytes.into_iter().chain(shared_bytes).reduce(f64::min);
    }

    fn headroom(&self, context: &Context<'_>) -> Headroom {
        Headroom::of_cgroup(context, self.left_bytes)
    }

    /// Returns the first part that leaks, with the horizon that shows it.
    fn growth(
        &self,
        scan: &CgroupScan<'_>,
        closed: [Closed; PARTS],
    ) -> Option<(CgroupMemory, usize, Growth)> {
        let around = Alone(self.headroom(scan.context).bytes);
        CgroupMemory::ALL.into_iter().find_map(|part| {
            let horizons = closed[part as usize].horizons;
            let judged = due(horizons, scan.horizons.count())
                .filter(|(horizon, _)| *horizon >= MINUTES_HORIZON_MIN);
            let process = &self.parts[part as usize];
            judged.into_iter().find_map(|(horizon, newest)| {
                let view = (horizon, newest);
                let growth = process.judge(scan.now, view, scan.config, scan.horizons, &around)?;
                let lasts_secs = match part {
                    CgroupMemory::Kernel => KERNEL_LASTED_SECS,
                    CgroupMemory::Shared | CgroupMemory::Anonymous => LASTED_SECS,
                    CgroupMemory::Processes => LEFT_BEHIND_SECS,
                };
                let has_lasted = growth.grown_secs >= lasts_secs.min(growth.exhaustion_secs());
                (has_lasted && !self.is_explained(part, &growth, scan.horizons))
                    .then_some((part, horizon, growth))
            })
        })
    }

    /// Returns whether the memory of the cgroup's processes grew along with a part, or whether that
    /// is unknown: then the growth is theirs. Processes that are left behind must be many.
    fn is_explained(&self, part: CgroupMemory, growth: &Growth, horizons: &Horizons) -> bool {
        let horizon = horizons.covering(growth.grown_secs);
        let back = (growth.grown_secs / horizons.bucket_secs(horizon)).round() as usize;
        let rise_kib = |window: &Window| window.rise_kib(horizon, back.clamp(1, BUCKETS - 1));
        let window = match part {
            CgroupMemory::Shared => &self.mapped,
            CgroupMemory::Kernel => &self.explained,
            CgroupMemory::Anonymous => return false,
            CgroupMemory::Processes => {
                return rise_kib(&self.processes).is_none_or(|more| more < LEFT_BEHIND_MIN);
            }
        };
        rise_kib(window).is_none_or(|kib| kib * KIB >= EXPLAINED_SHARE * growth.grown_bytes)
    }

    /// Raises the claim of an earlier run again, if there is one, with what holds now.
    fn hold_over(
        &mut self,
        context: &Context<'_>,
        name: &Arc<str>,
        findings: &mut Findings,
    ) -> Option<()> {
        let headroom = self.headroom(context);
        let open = self.open.as_mut().filter(|open| open.is_held_over)?;
        open.is_held_over = false;
        let leak = self.parts[open.part as usize].leak.as_deref()?;
        let slope = leak.slope_bytes_per_sec;
        let exhaustion_secs = headroom.bytes / slope;
        let mut why = format!(
            "{} was growing by {}/s before the agent restarted; if it goes on, the \
             {headroom} run out in {}",
            open.part.of(name),
            Size(slope),
            Span(exhaustion_secs)
        );
        let confidence = f64::from(leak.confidence);
        let confidence = context.sensor_health.weigh(Rule::Cgroup, context.t, confidence, &mut why);
        let claim = LeakClaim { bound: headroom.bound(), ..open.claim(name, slope) };
        findings.verdicts.push(Verdict {
            exhaustion_secs: Some(rounded(exhaustion_secs, 1)),
            ..Verdict::raised(context.t, claim, confidence, why)
        });
        Some(())
    }

    /// Follows the open leak.
    fn follow(
        &mut self,
        scan: &CgroupScan<'_>,
        name: &Arc<str>,
        closed: [Closed; PARTS],
        findings: &mut Findings,
    ) -> Option<()> {
        let part = self.open.as_ref()?.part;
        let headroom = self.headroom(scan.context);
        let leak = self.parts[part as usize].leak.as_deref().copied()?;
        let own = usize::from(leak.horizon);
        for (horizon, newest) in due(closed[part as usize].horizons, scan.horizons.count()) {
            if newest == Newest::Open {
                continue;
            }
            let process = &mut self.parts[part as usize];
            let slope = if horizon == own {
                match process.follow(leak, scan.now, scan.horizons) {
                    Tracking::Over(because) => {
                        process.end_leak();
                        self.clear(scan.context, name, (part, &leak), &because, findings);
                        return None;
                    }
                    Tracking::Grows(slope) => slope,
                    Tracking::Pauses => continue,
                }
            } else if (MINUTES_HORIZON_MIN..own).contains(&horizon) {
                let quickened =
                    process.quickened(&leak, scan.now, horizon, scan.config, scan.horizons);
                let Some(slope) = quickened else { continue };
                slope
            } else {
                continue;
            };
            self.forecast(scan.context, name, part, slope, &headroom, findings);
        }
        Some(())
    }

    /// Appends a fresh forecast of the open claim.
    fn forecast(
        &self,
        context: &Context<'_>,
        name: &Arc<str>,
        part: CgroupMemory,
        slope: f64,
        headroom: &Headroom,
        findings: &mut Findings,
    ) {
        let leak = self.parts[part as usize].leak.as_deref();
        let Some((open, leak)) = self.open.as_ref().zip(leak).filter(|_| slope > 0.0) else {
            return;
        };
        let exhaustion_secs = headroom.bytes / slope;
        let why = format!(
            "{} still grows by {}/s; the {headroom} run out in {}",
            part.of(name),
            Size(slope),
            Span(exhaustion_secs)
        );
        let claim = LeakClaim { bound: headroom.bound(), ..open.claim(name, slope) };
        findings.forecasts.push(Verdict {
            exhaustion_secs: Some(rounded(exhaustion_secs, 1)),
            ..Verdict::raised(context.t, claim, f64::from(leak.confidence), why)
        });
    }

    /// Clears the open claim.
    fn clear(
        &mut self,
        context: &Context<'_>,
        name: &Arc<str>,
        (part, leak): (CgroupMemory, &Leak),
        because: &str,
        findings: &mut Findings,
    ) {
        // A claim that this run has not raised is not for it to clear.
        let Some(open) = self.open.take().filter(|open| !open.is_held_over) else { return };
        let why = format!("{name} is no longer leaking {}: {because}", part.noun());
        let claim = open.claim(name, leak.slope_bytes_per_sec);
        findings.verdicts.push(Verdict::cleared(context.t, claim, f64::from(leak.confidence), why));
    }
}

/// Returns a part of a cgroup's memory as the memory of a process.
fn part_fact(cgroup: &Arc<str>, comm: &Arc<str>, part: CgroupMemory, bytes: u64) -> ProcessFact {
    ProcessFact {
        id: ProcessId { pid: part as u32, start_ticks: 0 },
        comm: comm.clone(),
        cgroup: cgroup.clone(),
        anon_bytes: bytes,
        ..ProcessFact::default()
    }
}
