//! Looks up identities on a thread of its own.
//!
//! Reading another process's command line or executable waits for its memory map or its file
//! system, which can take forever. The loop therefore waits for [`ANSWER_WITHIN`] at most, goes on
//! with what is known by then, and waits for nothing more until the thread has caught up; late
//! answers are taken nevertheless, because a host that is starved gives no others. The thread must
//! start before the sandbox, because a restricted one may not read other users' processes; it
//! writes nothing.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::{
    ClaimedWorkload, Identify, Identity, build_id,
    cgroup_name::CgroupName,
    containers,
    host_files::root_of,
    kubelet_logs::NodePods,
    packages::Packages,
    process::{HostTimes, add_process},
};
use crate::{clock::Clock, sense::ProgramList};

/// Maximum wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// Maximum wait for several answers one after another, and the share of time by which it grows
/// back: the loop has more to do than to wait.
const CREDIT_SECS_MAX: f64 = 0.5;
const CREDIT_SHARE: f64 = 0.1;

/// Questions that may be open. A guess; more at once are a storm, in which nobody reads names.
const OPEN_MAX: usize = 64;

/// An answer of the thread.
struct Answer {
    workload: ClaimedWorkload,
    identity: Identity,
    /// Set in the last of the answers to one question.
    is_complete: bool,
}

/// Identities, looked up on a thread.
pub struct Identities {
    clock: Clock,
    questions: Sender<ClaimedWorkload>,
    answers: Receiver<Answer>,
    /// Questions that are not completely answered.
    open: usize,
    /// Answers that nobody waited for any more.
    late: Vec<(ClaimedWorkload, Identity)>,
    /// Time that may be spent waiting, as of `credit_t`.
    credit_secs: f64,
    credit_t: f64,
}

impl Identities {
    /// Starts the thread. Names of pods are read from `pod_logs_dir`, and paths of executables that
    /// `/proc` hides from `programs`.
    ///
    /// # Errors
    ///
    /// Returns an error if there can be no thread.
    pub fn start(
        clock: Clock,
        pod_logs_dir: &Path,
        programs: Option<Arc<ProgramList>>,
    ) -> io::Result<Self> {
        let ((questions, asked), (answers, answered)) = (channel(), channel());
        let mut files = IdentityFiles {
            clock,
            pod_logs_dir: pod_logs_dir.to_owned(),
            programs,
            packages: Packages::default(),
        };
        thread::Builder::new().name("identities".to_owned()).spawn(move || {
            asked.into_iter().for_each(|workload| files.look_up(workload, &answers));
        })?;
        Ok(Self::with(clock, questions, answered))
    }

    fn with(clock: Clock, questions: Sender<ClaimedWorkload>, answers: Receiver<Answer>) -> Self {
        let (credit_secs, credit_t) = (CREDIT_SECS_MAX, clock.now());
        Self { clock, questions, answers, open: 0, late: Vec::new(), credit_secs, credit_t }
    }

    /// Returns the time that may be spent waiting at `t`.
    fn credit_secs(&mut self, t: f64) -> f64 {
        let regained_secs = CREDIT_SHARE * (t - self.credit_t);
        self.credit_secs = (self.credit_secs + regained_secs).min(CREDIT_SECS_MAX);
        self.credit_t = t;
        self.credit_secs.max(0.0)
    }

    /// Takes the answers that are there. None is lost: those that nobody waits for are late ones.
    fn take_late(&mut self) {
        while let Ok(answer) = self.answers.try_recv() {
            self.open -= usize::from(answer.is_complete);
            self.late.push((answer.workload, answer.identity));
        }
    }

    /// Waits for the answers to the only open question until `deadline_t`, and returns the latest.
    fn wait(&mut self, deadline_t: f64) -> Option<Identity> {
        let mut latest = None;
        while self.open > 0 {
            let left_secs = (deadline_t - self.clock.now()).max(0.0);
            let Ok(answer) = self.answers.recv_timeout(Duration::from_secs_f64(left_secs)) else {
                break;
            };
            self.open -= usize::from(answer.is_complete);
            // The first answer lacks what takes longest.
            latest = Some(answer.identity);
        }
        latest
    }
}

impl Identify for Identities {
    fn identify(&mut self, workload: &ClaimedWorkload) -> Identity {
        let known = Identity::of_cgroup(&workload.cgroup);
        self.take_late();
        let is_nobody = workload.pid.is_none() && known.is_empty();
        if is_nobody || self.open >= OPEN_MAX || self.questions.send(workload.clone()).is_err() {
            return known;
        }
        self.open += 1;
        let began_t = self.clock.now();
        let wait_secs = ANSWER_WITHIN.as_secs_f64().min(self.credit_secs(began_t));
        if self.open > 1 || wait_secs == 0.0 {
            return known;
        }
        let found = self.wait(began_t + wait_secs);
        self.credit_secs -= self.clock.now() - began_t;
        found.unwrap_or(known)
    }

    fn late(&mut self) -> Vec<(ClaimedWorkload, Identity)> {
        self.take_late();
        std::mem::take(&mut self.late)
    }
}

/// Files that say whom a process belongs to.
struct IdentityFiles {
    clock: Clock,
    pod_logs_dir: PathBuf,
    programs: Option<Arc<ProgramList>>,
    packages: Packages,
}

impl IdentityFiles {
    /// Sends what is quickly found, and then all.
    fn look_up(&mut self, workload: ClaimedWorkload, answers: &Sender<Answer>) {
        let times = HostTimes { unix_ms: self.clock.unix_ms(), boot_secs: self.clock.boot_secs() };
        let mut identity = Identity::of_cgroup(&workload.cgroup);
        let started_secs = add_process(&mut identity, &workload, times, self.programs.as_deref());
        self.add_container(&mut identity, &workload.cgroup);
        let process = workload.pid.zip(started_secs);
        let is_complete = process.is_none();
        let first = Answer { workload: workload.clone(), identity: identity.clone(), is_complete };
        // Whoever asked may have ended.
        let _ = answers.send(first);
        if let Some((pid, started_secs)) = process {
            self.add_release(&mut identity, pid, started_secs);
            let _ = answers.send(Answer { workload, identity, is_complete: true });
        }
    }

    /// Adds the release of the executable, unless the file was replaced since the process started.
    fn add_release(&mut self, identity: &mut Identity, pid: u32, started_secs: f64) {
        let executable = identity.executable.as_deref();
        let file = root_of(pid).zip(executable).and_then(|(root, executable)| {
            let path = root.join(executable.trim_start_matches('/'));
            // Also a package manager that keeps the time of a file's contents changes that of its
            // inode.
            let changed_secs = path.metadata().ok()?.ctime();
            let is_its = changed_secs as f64 <= started_secs;
            is_its.then_some((root, executable, path, changed_secs))
        });
        // The link leads to the very file, whatever is at its path by now.
        identity.build_id = build_id::of_file(format!("/proc/{pid}/exe").as_ref())
            .or_else(|| build_id::of_file(&file.as_ref()?.2));
        identity.package = file.and_then(|(root, executable, _, changed_secs)| {
            self.packages.of(root, executable, changed_secs)
        });
    }

    /// Replaces ids of pods and containers by names.
    fn add_container(&self, identity: &mut Identity, cgroup: &str) {
        let name = CgroupName::of(cgroup);
        if name.pod_uid.is_some() {
            NodePods::read(&self.pod_logs_dir).name(identity, &name);
        } else if let Some(found) = name.container.as_deref().and_then(containers::look_up) {
            (identity.container, identity.image) = (Some(found.name), found.image);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    fn own() -> ClaimedWorkload {
        ClaimedWorkload {
            pid: Some(process::id()),
            start_ticks: None,
            cgroup: Arc::from("/system.slice/a.service"),
        }
    }

    #[test]
    fn answer_has_what_the_path_and_the_process_say() {
        let mut identities = Identities::start(Clock::start(), "/no/such".as_ref(), None).unwrap();
        let mut identity = identities.identify(&own());
        assert_eq!(identity.unit.as_deref(), Some("a.service"));
        for _ in 0..200 {
            if let Some((workload, late)) = identities.late().pop() {
                assert_eq!(workload, own());
                identity = late;
            }
            if identity.user.is_some() && identities.open == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        assert!(identity.user.is_some() && identity.started.is_some(), "{identity:?}");
    }

    #[test]
    fn hanging_thread_costs_one_wait_and_its_answers_come_late() {
        let clock = Clock::start();
        let ((questions, asked), (answers, answered)) = (channel(), channel());
        let mut identities = Identities::with(clock, questions, answered);
        let only_path = Identity::of_cgroup(&own().cgroup);
        assert_eq!(identities.identify(&own()), only_path);
        let waited_t = clock.now();
        for _ in 0..100 {
            assert_eq!(identities.identify(&own()), only_path);
        }
        assert!(clock.now() - waited_t < ANSWER_WITHIN.as_secs_f64());
        assert_eq!((identities.open, identities.late()), (OPEN_MAX, Vec::new()));
        let found = Identity { user: Some("a".to_owned()), ..Identity::default() };
        for workload in asked.try_iter() {
            let identity = found.clone();
            answers.send(Answer { workload, identity, is_complete: true }).unwrap();
        }
        assert_eq!(identities.late(), vec![(own(), found.clone()); OPEN_MAX]);
        assert_eq!((identities.open, identities.late()), (0, Vec::new()));
    }
}
