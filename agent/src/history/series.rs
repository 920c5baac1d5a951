//! History of one workload, listener, process or count: values over time, and marks for what
//! happened. Pure: from frames.

use std::collections::BTreeSet;

use super::{
    HistoryEvent,
    chart::{self, Chart},
    frame::HistoryFrame,
};
use crate::{
    detect::IncidentId,
    sense::{CountedResource, Fact, MemorySum, ProcessId},
};

/// Maximum number of marks. A guess: more than a picture can show.
const MARKS_MAX: usize = 200;

/// Values over time: milliseconds since 1970, and the value.
pub type Points = Vec<(u64, f64)>;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryMark {
    /// Time in milliseconds since 1970.
    pub at_ms: u64,
    /// Kind.
    pub kind: MarkKind,
    /// Sentence for a person.
    pub text: String,
}

/// Kind of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// A claim was raised.
    Raised,
    /// A claim was cleared.
    Cleared,
    /// An action was taken on this host.
    Done,
    /// An action would have been taken, or was refused.
    NotDone,
    /// All processes of the workload are others than before.
    Restarted,
    /// The kernel killed a process of the workload for want of memory.
    Killed,
}

/// History of a workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkloadSeries {
    /// Memory of its processes in bytes: anonymous, swapped and shared.
    pub memory: Points,
    /// Limit on its memory in bytes, where there was one.
    pub limit: Points,
    /// Marks, in the order of time.
    pub marks: Vec<HistoryMark>,
}

/// History of a listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListenerSeries {
    /// Connections that waited for accept().
    pub backlog: Points,
    /// Limit of the accept queue.
    pub backlog_max: Points,
    /// Requests without a response, where they were seen.
    pub in_flight: Points,
    /// Longest wait of a connection or a request in seconds, where it was known.
    pub wait_secs: Points,
    /// Marks, in the order of time.
    pub marks: Vec<HistoryMark>,
}

/// History of a process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessSeries {
    /// Anonymous, swapped and shared memory in bytes.
    pub memory: Points,
    /// Limit on the memory of its cgroup in bytes, where there was one.
    pub memory_max: Points,
    /// Open files, where they were kept.
    pub files: Points,
    /// Limit on open files, where they were kept.
    pub files_max: Points,
    /// Threads, where they were kept.
    pub threads: Points,
    /// Sockets that the peer has closed and the process has not, where they were kept.
    pub close_wait: Points,
}

/// History of a count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CountSeries {
    /// Number in use, or bytes.
    pub used: Points,
    /// Limit, where there was one.
    pub limit: Points,
}

impl ListenerSeries {
    /// Pictures of the accept queue, of the requests and of the longest wait.
    pub(crate) fn charts(&self, now_ms: u64) -> [Chart<'_>; 3] {
        let plain = |title, points, unit| Chart {
            title,
            points,
            limit: &[],
            band: None,
            marks: &self.marks,
            now_ms,
            unit,
        };
        let waiting = plain("Connections waiting", &self.backlog, chart::COUNT);
        [
            Chart { limit: &self.backlog_max, ..waiting },
            plain("Requests in flight", &self.in_flight, chart::COUNT),
            plain("Longest wait", &self.wait_secs, chart::SECONDS),
        ]
    }
}

/// Reads the history of a process.
pub fn of_process(frames: impl Iterator<Item = HistoryFrame>, id: ProcessId) -> ProcessSeries {
    let mut series = ProcessSeries::default();
    let needle = format!("\"pid\":{},\"start_ticks\":{},", id.pid, id.start_ticks).into_bytes();
    for frame in frames {
        let at_ms = frame.header.at_ms;
        for observation in frame.observations_with(&needle) {
            match observation.fact {
                Fact::Process(process) if process.id == id => {
                    series.memory.push((at_ms, process.private_bytes() as f64));
                    let limit = process.memory_max_bytes.map(|bytes| (at_ms, bytes as f64));
                    series.memory_max.extend(limit);
                }
                Fact::Handles(handles) if handles.id == id => {
                    series.files.push((at_ms, handles.fds as f64));
                    series.files_max.extend(handles.fds_max.map(|max| (at_ms, max as f64)));
                    series.threads.push((at_ms, handles.threads as f64));
                    series.close_wait.extend(handles.close_wait.map(|some| (at_ms, some as f64)));
                }
                _ => {}
            }
        }
    }
    series
}

/// Reads the history of a count.
pub fn of_count(
    frames: impl Iterator<Item = HistoryFrame>,
    resource: &CountedResource,
    subject: &str,
) -> CountSeries {
    let mut series = CountSeries::default();
    let needle = field("subject", subject);
    for frame in frames {
        let at_ms = frame.header.at_ms;
        for observation in frame.observations_with(&needle) {
            let Fact::Count(count) = observation.fact else { continue };
            if count.resource == *resource && *count.subject == *subject {
                series.used.push((at_ms, count.used as f64));
                series.limit.extend(count.limit.map(|limit| (at_ms, limit as f64)));
            }
        }
    }
    series
}

/// Reads the history of the workload in a cgroup.
pub fn of_workload(frames: impl Iterator<Item = HistoryFrame>, cgroup: &str) -> WorkloadSeries {
    let mut series = WorkloadSeries::default();
    let needle = field("cgroup", cgroup);
    let (mut ids_before, mut kills_before) = (BTreeSet::new(), None);
    for frame in frames {
        let at_ms = frame.header.at_ms;
        series.marks.extend(events(&frame, |event| event.cgroup == cgroup));
        let (mut memory, mut limit) = (MemorySum::default(), None);
        let (mut ids, mut kills) = (BTreeSet::new(), None);
        for observation in frame.observations_with(&needle) {
            match observation.fact {
                Fact::Process(process) if *process.cgroup == *cgroup => {
                    memory.add(&process);
                    limit = process.memory_max_bytes;
                    ids.insert(process.id);
                }
                Fact::Cgroup(fact) if *fact.cgroup == *cgroup => kills = fact.oom_kills_total,
                _ => {}
            }
        }
        if !ids.is_empty() {
            series.memory.push((at_ms, memory.bytes() as f64));
            series.limit.extend(limit.map(|bytes| (at_ms, bytes as f64)));
            if !ids_before.is_empty() && ids.is_disjoint(&ids_before) {
                let text = "restarted: all its processes are new".to_owned();
                series.marks.push(HistoryMark { at_ms, kind: MarkKind::Restarted, text });
            }
            ids_before = ids;
        }
        if let Some(kills) = kills {
            let more = kills_before.replace(kills).map_or(0, |before| kills.saturating_sub(before));
            if more > 0 {
                let text = format!("the kernel killed {more} of its processes at the limit");
                series.marks.push(HistoryMark { at_ms, kind: MarkKind::Killed, text });
            }
        }
    }
    series.marks = in_order(series.marks);
    series
}

/// Reads the history of the listener at an address.
pub fn of_listener(
    frames: impl Iterator<Item = HistoryFrame>,
    netns: u32,
    addr: &str,
) -> ListenerSeries {
    let mut series = ListenerSeries::default();
    let needle = field("addr", addr);
    let id = IncidentId::Overload { netns, addr: addr.into() }.to_string();
    for frame in frames {
        let at_ms = frame.header.at_ms;
        let is_of_addr = |event: &HistoryEvent| event.ids.contains(&id);
        series.marks.extend(events(&frame, is_of_addr));
        let (mut backlog, mut backlog_max, mut wait_us) = (None::<u64>, 0_u64, None);
        for observation in frame.observations_with(&needle) {
            match observation.fact {
                Fact::Listener(fact) if fact.netns == netns && *fact.addr == *addr => {
                    *backlog.get_or_insert(0) += u64::from(fact.backlog);
                    backlog_max += u64::from(fact.backlog_max);
                    wait_us = wait_us.max(fact.oldest_wait_us);
                }
                Fact::Requests(fact) if fact.netns == netns && *fact.addr == *addr => {
                    series.in_flight.push((at_ms, f64::from(fact.in_flight)));
                    wait_us = wait_us.max(fact.oldest_in_flight_us);
                }
                _ => {}
            }
        }
        if let Some(backlog) = backlog {
            series.backlog.push((at_ms, backlog as f64));
            series.backlog_max.push((at_ms, backlog_max as f64));
            series.wait_secs.extend(wait_us.map(|us| (at_ms, us as f64 / 1e6)));
        }
    }
    series.marks = in_order(series.marks);
    series
}

/// Text of a field in a line of a trace.
fn field(name: &str, value: &str) -> Vec<u8> {
    // A string always has a form in JSON.
    let value = serde_json::to_string(value).unwrap_or_default();
    format!("\"{name}\":{value}").into_bytes()
}

/// Returns the marks of the events that `is_about` chooses.
fn events(frame: &HistoryFrame, is_about: impl Fn(&HistoryEvent) -> bool) -> Vec<HistoryMark> {
    let chosen = frame.events().filter(is_about);
    let timed: Vec<_> = chosen.map(|event| (frame.header.unix_ms(event.t), event)).collect();
    events_as_marks(&timed)
}

/// Returns the marks of events, each with its time in milliseconds since 1970.
pub(crate) fn events_as_marks(events: &[(u64, HistoryEvent)]) -> Vec<HistoryMark> {
    let marks = events.iter().filter_map(|(at_ms, event)| {
        let HistoryEvent { verdict, action, why, .. } = event;
        let kind = match event.event.as_str() {
            "raised" => MarkKind::Raised,
            "cleared" => MarkKind::Cleared,
            // The forecast changes often.
            "updated" => return None,
            "would" | "refused" => MarkKind::NotDone,
            _ => MarkKind::Done,
        };
        let text = match kind {
            MarkKind::Raised => event.headline.clone(),
            MarkKind::Cleared => format!("{verdict} cleared: {why}"),
            _ => format!("{action} {}: {why}", event.event.replace('_', " ")),
        };
        Some(HistoryMark { at_ms: *at_ms, kind, text })
    });
    marks.collect()
}

fn in_order(mut marks: Vec<HistoryMark>) -> Vec<HistoryMark> {
    marks.sort_by_key(|mark| mark.at_ms);
    // The latest say most.
    let excess = marks.len().saturating_sub(MARKS_MAX);
    marks.split_off(excess)
}
