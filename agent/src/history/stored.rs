//! The last day of the history, as the pages ask for it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    FrameReader, HistoryEvent, Period,
    frame::HistoryFrame,
    series::{self, CountSeries, ListenerSeries, ProcessSeries, WorkloadSeries},
};
use crate::{
    clock::Clock,
    sense::{CountedResource, ProcessId},
};

/// Time that is shown.
const DAY_SECS: u64 = 86_400;

/// Least time between two samples that are unpacked: 144 a day are as many as a picture shows, and
/// take half a second on a host with 2,000 processes.
const STEP_SECS: u64 = 600;

/// Least time between two samples of a process or a count, which a command draws, and no page: open
/// files are in some samples only.
const PROCESS_STEP_SECS: u64 = 60;

/// Events of an incident, or of all, that are shown: the latest.
const EVENTS_MAX: usize = 500;

/// Reader of the last day. One page is read for at a time, because an unpacked minute of a large
/// host takes megabytes.
#[derive(Debug, Clone)]
pub struct StoredHistory {
    state_dir: PathBuf,
    clock: Clock,
    reading: Arc<Mutex<()>>,
}

impl StoredHistory {
    /// Creates the reader of the history below a state directory.
    pub fn below(state_dir: PathBuf, clock: Clock) -> Self {
        Self { state_dir, clock, reading: Arc::default() }
    }

    /// History of the workload in a cgroup; `None` if there is none at all.
    pub fn workload(&self, cgroup: &str) -> Option<WorkloadSeries> {
        self.read(STEP_SECS, |frames| series::of_workload(frames, cgroup))
    }

    /// History of a listener; `None` if there is none at all.
    pub fn listener(&self, netns: u32, addr: &str) -> Option<ListenerSeries> {
        self.read(STEP_SECS, |frames| series::of_listener(frames, netns, addr))
    }

    /// History of a process; `None` if there is none at all.
    pub fn process(&self, id: ProcessId) -> Option<ProcessSeries> {
        self.read(PROCESS_STEP_SECS, |frames| series::of_process(frames, id))
    }

    /// History of a count; `None` if there is none at all.
    pub fn count(&self, resource: &CountedResource, subject: &str) -> Option<CountSeries> {
        self.read(PROCESS_STEP_SECS, |frames| series::of_count(frames, resource, subject))
    }

    /// Events that `is_wanted` chooses, each with its time in milliseconds since 1970, the latest
    /// ones if there are many; `None` if there is no history at all.
    pub fn events(
        &self,
        is_wanted: impl Fn(&HistoryEvent) -> bool,
    ) -> Option<Vec<(u64, HistoryEvent)>> {
        // The samples, of all minutes but the first, are not unpacked.
        let mut events = self.read(u64::MAX, |frames| {
            let wanted = |frame: HistoryFrame| {
                let events = frame.events().filter(&is_wanted);
                events.map(|event| (frame.header.unix_ms(event.t), event)).collect::<Vec<_>>()
            };
            frames.flat_map(wanted).collect::<Vec<_>>()
        })?;
        events.sort_by_key(|(at_ms, _)| *at_ms);
        let excess = events.len().saturating_sub(EVENTS_MAX);
        Some(events.split_off(excess))
    }

    /// Reads the frames of the last day, as one of several readers in turn.
    fn read<T>(&self, step_secs: u64, of: impl FnOnce(FrameReader) -> T) -> Option<T> {
        let _turn = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let to_secs = self.clock.unix_ms() / 1_000;
        let period = Period { from_secs: to_secs.saturating_sub(DAY_SECS), to_secs, step_secs };
        FrameReader::open(&self.state_dir, period).ok().map(of)
    }
}
