//! Looks up identities on a thread of its own.
//!
//! Reading another process's command line or executable waits for its memory map or its file
//! system, which can take forever. The loop therefore waits for [`ANSWER_WITHIN`] at most, goes on
//! with what is known by then, and asks nothing more until the thread has answered. The thread must
//! start before the sandbox, because a restricted one may not read other users' processes; it
//! writes nothing.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    },
    thread,
    time::Duration,
};

use super::{
    ClaimedWorkload, Identify, Identity, build_id,
    cgroup_name::CgroupName,
    containers,
    host_files::root_of,
    kubelet_logs,
    packages::Packages,
    process::{HostTimes, add_process},
};
use crate::{
    clock::Clock,
    sense::{ProgramList, printable::printable},
};

/// Maximum wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// Maximum wait for several answers one after another, and the share of time by which it grows
/// back: the loop has more to do than to wait.
const CREDIT_SECS_MAX: f64 = 0.5;
const CREDIT_SHARE: f64 = 0.1;

/// Questions to the thread, each with the way back.
type Question = (ClaimedWorkload, Sender<Identity>);

/// Identities, looked up on a thread.
pub struct Identities {
    clock: Clock,
    questions: Sender<Question>,
    /// Answers that are late.
    late: Option<Receiver<Identity>>,
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
        let (questions, asked) = channel::<Question>();
        let mut files = IdentityFiles {
            clock,
            pod_logs_dir: pod_logs_dir.to_owned(),
            programs,
            packages: Packages::default(),
        };
        thread::Builder::new().name("identities".to_owned()).spawn(move || {
            asked.into_iter().for_each(|(subject, answers)| files.look_up(&subject, &answers));
        })?;
        let credit_t = clock.now();
        Ok(Self { clock, questions, late: None, credit_secs: CREDIT_SECS_MAX, credit_t })
    }

    /// Returns whether the thread is still busy with an earlier question.
    fn is_busy(&mut self) -> bool {
        let Some(late) = &self.late else { return false };
        let is_busy = loop {
            match late.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        if !is_busy {
            self.late = None;
        }
        is_busy
    }
}

impl Identify for Identities {
    fn identify(&mut self, subject: &ClaimedWorkload) -> Identity {
        let mut identity = Identity::of_cgroup(&subject.cgroup);
        if subject.pid.is_none() && identity.is_empty() {
            return identity;
        }
        let began_t = self.clock.now();
        let regained_secs = CREDIT_SHARE * (began_t - self.credit_t);
        self.credit_secs = (self.credit_secs + regained_secs).min(CREDIT_SECS_MAX);
        self.credit_t = began_t;
        let wait_secs = ANSWER_WITHIN.as_secs_f64().min(self.credit_secs);
        if self.is_busy() || wait_secs <= 0.0 {
            return identity;
        }
        let (answers, answered) = channel();
        if self.questions.send((subject.clone(), answers)).is_err() {
            return identity;
        }
        loop {
            let left_secs = (began_t + wait_secs - self.clock.now()).max(0.0);
            match answered.recv_timeout(Duration::from_secs_f64(left_secs)) {
                // The first answer lacks what takes longest.
                Ok(answer) => identity = answer,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.late = Some(answered);
                    break;
                }
            }
        }
        self.credit_secs -= self.clock.now() - began_t;
        identity
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
    fn look_up(&mut self, subject: &ClaimedWorkload, answers: &Sender<Identity>) {
        let times = HostTimes { unix_ms: self.clock.unix_ms(), boot_secs: self.clock.boot_secs() };
        let mut identity = Identity::of_cgroup(&subject.cgroup);
        let started_secs = add_process(&mut identity, subject, times, self.programs.as_deref());
        self.add_container(&mut identity, &subject.cgroup);
        // Whoever asked may have gone on.
        let _ = answers.send(identity.clone());
        if let Some((pid, started_secs)) = subject.pid.zip(started_secs) {
            self.add_release(&mut identity, pid, started_secs);
            let _ = answers.send(identity);
        }
    }

    /// Adds the release of the executable, unless the file was replaced since the process started.
    fn add_release(&mut self, identity: &mut Identity, pid: u32, started_secs: f64) {
        let executable = identity.executable.as_deref();
        let file = root_of(pid).zip(executable).and_then(|(root, executable)| {
            let path = root.join(executable.trim_start_matches('/'));
            // Also a package manager that keeps the time of a file's contents changes that of its
            // inode.
            let changed_secs = path.metadata().ok()?.ctime() as f64;
            (changed_secs <= started_secs).then_some((root, executable, path))
        });
        // The link leads to the very file, whatever is at its path by now.
        identity.build_id = build_id::of_file(format!("/proc/{pid}/exe").as_ref())
            .or_else(|| build_id::of_file(&file.as_ref()?.2));
        identity.package =
            file.and_then(|(root, executable, _)| self.packages.of(root, executable));
    }

    /// Replaces ids of pods and containers by names.
    fn add_container(&self, identity: &mut Identity, cgroup: &str) {
        let CgroupName { container: id, pod_uid, .. } = CgroupName::of(cgroup);
        if let Some(uid) = pod_uid {
            let pods = kubelet_logs::pods_in(&self.pod_logs_dir).unwrap_or_default();
            let Some(pod) = pods.get(&uid) else { return };
            let logs = &self.pod_logs_dir;
            if let Some(name) = kubelet_logs::container_in(logs, &uid, pod, id.as_deref()) {
                identity.container = Some(name);
            }
            let shown = |name: &str| Some(printable(name).to_string());
            (identity.namespace, identity.pod) = (shown(&pod.namespace), shown(&pod.name));
        } else if let Some(found) = id.as_deref().and_then(containers::look_up) {
            (identity.container, identity.image) = (Some(found.name), found.image);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process, sync::Arc};

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
        let identity = identities.identify(&own());
        assert_eq!(identity.unit.as_deref(), Some("a.service"));
        assert!(identity.user.is_some() && identity.started.is_some(), "{identity:?}");
    }

    #[test]
    fn hanging_thread_costs_one_wait_until_it_answers() {
        let clock = Clock::start();
        let (questions, asked) = channel::<Question>();
        let mut identities = Identities {
            clock,
            questions,
            late: None,
            credit_secs: CREDIT_SECS_MAX,
            credit_t: 0.0,
        };
        let only_path = Identity::of_cgroup(&own().cgroup);
        assert_eq!(identities.identify(&own()), only_path);
        let waited_t = clock.now();
        for _ in 0..100 {
            assert_eq!(identities.identify(&own()), only_path);
        }
        assert!(clock.now() - waited_t < ANSWER_WITHIN.as_secs_f64());
        assert_eq!(asked.try_iter().count(), 1);
        let found = Identity { user: Some("a".to_owned()), ..Identity::default() };
        let answer = found.clone();
        thread::spawn(move || {
            let (_, answers) = asked.recv().unwrap();
            answers.send(answer).unwrap();
        });
        assert_eq!(identities.identify(&own()), found);
    }
}
