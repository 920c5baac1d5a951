//! Readings of a listener, gathered over its sockets from the facts of one scan.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    control::{QueueReading, longest},
    target::ShedTarget,
};
use crate::{
    decide::IncidentId,
    sense::{ListenerFact, RequestsFact},
};

/// Age up to which a count of unread requests is used: connections are read once a second or so.
const UNREAD_SECS: f64 = 2.0;

/// A listener that is read for its executor.
pub struct Watched {
    pub id: IncidentId,
    pub netns: u32,
    pub addr: Arc<str>,
    cgroup: Arc<str>,
    accepts_per_sec: Option<f64>,
    /// Time since which it is watched.
    pub since_t: f64,
    /// Set once its first reading was passed on.
    pub has_begun: bool,
    gathered: Gathered,
    /// Sockets in the last reading.
    sockets: BTreeSet<u64>,
    unread: Option<(f64, u32)>,
}

/// Facts of one scan.
#[derive(Default)]
struct Gathered {
    reading: QueueReading,
    sockets: BTreeSet<u64>,
    pids: BTreeSet<u32>,
}

impl Watched {
    /// Watches the listener of an incident, which accepts so much at the moment.
    pub fn new(
        t: f64,
        id: IncidentId,
        (netns, addr): (u32, Arc<str>),
        cgroup: Arc<str>,
        accepts_per_sec: Option<f64>,
    ) -> Self {
        Self {
            id,
            netns,
            addr,
            cgroup,
            accepts_per_sec,
            since_t: t,
            has_begun: false,
            gathered: Gathered::default(),
            sockets: BTreeSet::new(),
            unread: None,
        }
    }

    /// Takes a fact about one of its sockets. Those of one scan have one time.
    pub fn listener(&mut self, t: f64, fact: &ListenerFact) {
        let is_first = self.gathered.sockets.is_empty();
        let sum = |sum: Option<u64>, count: Option<u64>| match (is_first, sum) {
            (true, _) => count,
            (false, sum) => Some(sum?.saturating_add(count?)),
        };
        let Gathered { reading, sockets, pids } = &mut self.gathered;
        sockets.insert(fact.socket);
        pids.extend(fact.pid);
        let oldest_secs = fact.oldest_wait_us.map(|us| us as f64 / 1e6);
        *reading = QueueReading {
            t,
            sockets: 0,
            backlog: reading.backlog.saturating_add(fact.backlog),
            accepted_total: sum(reading.accepted_total, fact.accepted_total),
            refused_total: sum(reading.refused_total, fact.overflows_total),
            oldest_wait_secs: longest(reading.oldest_wait_secs, oldest_secs),
            unread: None,
        };
    }

    /// Takes the requests at its address.
    pub fn requests(&mut self, t: f64, fact: &RequestsFact) {
        self.unread = Some((t, fact.unread));
    }

    /// Returns the reading of the last scan, if there is one that was not returned yet. Totals are
    /// unknown if other sockets count towards them than before.
    pub fn reading(&mut self) -> Option<(QueueReading, BTreeSet<u32>)> {
        let Gathered { reading, sockets, pids } = std::mem::take(&mut self.gathered);
        if sockets.is_empty() {
            return None;
        }
        let is_comparable = self.sockets.is_empty() || self.sockets == sockets;
        self.sockets = sockets;
        let unread = self.unread.filter(|(t, _)| reading.t - t <= UNREAD_SECS);
        let reading = QueueReading {
            sockets: u32::try_from(self.sockets.len()).unwrap_or(u32::MAX),
            accepted_total: reading.accepted_total.filter(|_| is_comparable),
            refused_total: reading.refused_total.filter(|_| is_comparable),
            // Connections that wait for accept() have unread requests too.
            unread: unread.map(|(_, unread)| unread.saturating_sub(reading.backlog)),
            ..reading
        };
        Some((reading, pids))
    }

    /// Returns the target with its first reading.
    pub fn target(&self, first: QueueReading, pids: BTreeSet<u32>) -> ShedTarget {
        ShedTarget {
            id: self.id.clone(),
            netns: self.netns,
            addr: self.addr.clone(),
            cgroup: self.cgroup.clone(),
            pids,
            accepts_per_sec: self.accepts_per_sec,
            first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(socket: u64, pid: u32, backlog: u32, accepted_total: Option<u64>) -> ListenerFact {
        let (pid, oldest_wait_us) = (Some(pid), Some(u64::from(backlog) * 1_000));
        ListenerFact { socket, pid, backlog, accepted_total, oldest_wait_us, ..Default::default() }
    }

    fn watched() -> Watched {
        let id = IncidentId::Overload { netns: 1, addr: Arc::from("a") };
        Watched::new(0.0, id, (1, Arc::from("a")), Arc::from("/a"), None)
    }

    #[test]
    fn sockets_of_one_scan_are_one_reading() {
        let mut watched = watched();
        assert!(watched.reading().is_none());
        watched.requests(0.5, &RequestsFact { unread: 30, ..Default::default() });
        watched.listener(1.0, &fact(1, 10, 4, Some(100)));
        watched.listener(1.0, &fact(2, 11, 6, Some(50)));
        let (reading, pids) = watched.reading().unwrap();
        assert_eq!((reading.backlog, reading.accepted_total), (10, Some(150)));
        assert_eq!((reading.oldest_wait_secs, reading.unread), (Some(0.006), Some(20)));
        assert_eq!(pids, [10, 11].into());
        // Other sockets than before: their totals cannot be compared.
        watched.listener(2.0, &fact(1, 10, 4, Some(120)));
        assert_eq!(watched.reading().unwrap().0.accepted_total, None);
        watched.listener(3.0, &fact(1, 10, 4, Some(130)));
        let (reading, _) = watched.reading().unwrap();
        assert_eq!((reading.accepted_total, reading.unread), (Some(130), None));
        watched.listener(4.0, &fact(1, 10, 4, None));
        assert_eq!(watched.reading().unwrap().0.accepted_total, None);
    }
}
