//! Passes over connections with BPF: over those in the map of them, or over every open file.
//!
//! A pass goes on at each turn of the loop for [`TURN_SECS`] at most, so that however many
//! connections there are, nothing else waits for long; its counts are then those of some tenths of
//! a second. With the map, a pass over open files only finds the connections that nobody noted,
//! beside the visits and at a tenth of their cost. The first one comes before the first visit: what
//! was there before the agent is not news.

use std::{collections::BTreeSet, io, time::Duration};

use aya::maps::{Array, MapData, PerCpuArray};
use spillway_ebpf::{
    ConnectionChunk, NEW_CONNECTIONS_KEPT, NewConnection, NewConnections, RequestSample,
    SHARE_OF_ALL, TCP_NOT_ACCEPTED,
};

use super::{
    connection::PeerConnection,
    left_out::{LeftOut, ListenerPort},
    pace,
    slots::ConnectionSlots,
    table::RequestTable,
};
use crate::{
    bpf::{AttachContext, IterHandle, OpenPass, SharedStruct, Unavailable},
    sense::{Loss, LossCounters, addr::inet_addr, thread_time::thread_secs},
};

/// Processor time of a pass in one turn of the loop. A guess: a twentieth of the shortest interval.
const TURN_SECS: f64 = 0.004;

/// Processor time in one turn of a pass that only finds connections.
const FINDING_SECS: f64 = 0.001;

/// Shortest time between two of those, and if one is to find who holds a connection: requests wait
/// for long then.
const FIND_EVERY: Duration = Duration::from_secs(10);
const FIND_HOLDERS_EVERY: Duration = Duration::from_secs(1);

/// Passes over connections.
pub(super) struct Passes {
    files: SampleWalk,
    visits: Option<Box<Visits>>,
    /// Start of the pass that goes on.
    began: Option<f64>,
    /// Processor time of the pass that goes on.
    spent_secs: f64,
}

/// Visits of the connections in the map.
struct Visits {
    walk: SampleWalk,
    slots: ConnectionSlots,
    map: Array<MapData, SharedStruct<ConnectionChunk>>,
    noted: PerCpuArray<MapData, SharedStruct<NewConnections>>,
    /// Number of connections that each CPU has noted so far.
    noted_totals: Vec<u64>,
    noted_due: f64,
    has_found_once: bool,
    /// Connections left out since the last pass over open files that found all.
    left_out: LeftOut,
    find_due: f64,
    /// Time from which a pass over open files may come early, to find who holds a connection.
    holders_due: f64,
    find_began: Option<f64>,
    finding_secs: f64,
}

/// A pass that has ended.
pub(super) struct EndedPass {
    /// Time at which it began.
    pub(super) began: f64,
    /// Processor time that it may rest for.
    pub(super) secs: f64,
    /// Listeners some of whose connections it did not read; `None` if it failed to read any.
    pub(super) partial: Option<BTreeSet<ListenerPort>>,
}

impl Passes {
    /// Attaches the iterator over the map of connections, and one over open files to find them.
    pub(super) fn over_slots(context: &mut AttachContext<'_>) -> Result<Self, Unavailable> {
        let visits = Visits {
            walk: SampleWalk::new(context.iter_map("visit_connections", "CONNECTIONS")?),
            slots: ConnectionSlots::default(),
            map: context.take("CONNECTIONS")?,
            noted: context.take("NEW_CONNECTIONS")?,
            noted_totals: Vec::new(),
            noted_due: 0.0,
            has_found_once: false,
            left_out: LeftOut::default(),
            find_due: 0.0,
            holders_due: 0.0,
            find_began: None,
            finding_secs: 0.0,
        };
        // The second works since 5.9.
        let files = context
            .iter("list_requests", "task_file")
            .or_else(|_| context.iter("list_requests_by_helper", "task_file"))?;
        Ok(Self { visits: Some(Box::new(visits)), ..Self::over(files) })
    }

    /// Attaches an iterator over open files.
    pub(super) fn over_files(
        context: &mut AttachContext<'_>,
        program: &str,
    ) -> Result<Self, Unavailable> {
        context.iter(program, "task_file").map(Self::over)
    }

    fn over(files: IterHandle) -> Self {
        Self { files: SampleWalk::new(files), visits: None, began: None, spent_secs: 0.0 }
    }

    /// Returns whether connections are visited by the map of them.
    pub(super) fn has_slots(&self) -> bool {
        self.visits.is_some()
    }

    /// Goes on with a pass, or begins one if `is_due`. Returns it at its end.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass failed; the next one begins anew.
    pub(super) fn turn(
        &mut self,
        now: f64,
        is_due: bool,
        tick_ns: u64,
        table: &mut RequestTable,
        losses: &mut LossCounters,
    ) -> io::Result<Option<EndedPass>> {
        if let Some(visits) = &mut self.visits {
            visits.take_noted_if_due(now, table, losses);
            visits.find(now, &mut self.files, table, losses);
        }
        let is_ready = self.visits.as_ref().is_none_or(|visits| visits.has_found_once);
        let goes_on = self.began.is_some() || (is_due && is_ready);
        // Only what a pass costs is rested for: that of every turn would put passes off for ever.
        let start = thread_secs();
        let ended = if goes_on { self.go_on(now, tick_ns, table, losses) } else { Ok(None) };
        self.spent_secs += thread_secs() - start;
        if matches!(ended, Ok(None)) {
            return Ok(None);
        }
        let began = self.began.take().unwrap_or(now);
        let spent_secs = std::mem::take(&mut self.spent_secs);
        let share = if self.has_slots() { 1.0 - 2.0 * pace::SHARE_OF_FINDING } else { 1.0 };
        let partial = match &self.visits {
            Some(visits) => visits.left_out.partial(),
            None => Some(BTreeSet::new()),
        };
        Ok(ended?.map(|is_whole| EndedPass {
            began,
            secs: spent_secs / share,
            partial: partial.filter(|_| is_whole),
        }))
    }

    /// Returns, once the pass has ended, whether it read everything.
    fn go_on(
        &mut self,
        now: f64,
        tick_ns: u64,
        table: &mut RequestTable,
        losses: &mut LossCounters,
    ) -> io::Result<Option<bool>> {
        if self.began.is_none() {
            self.began = Some(now);
            if let Some(visits) = &mut self.visits {
                let Visits { slots, map, .. } = &mut **visits;
                slots
                    .begin(|chunk, socks| map.set(chunk, SharedStruct(*socks), 0))
                    .map_err(io::Error::other)?;
            }
            table.begin(now);
            if self.visits.is_none() {
                table.holders().begin_search();
            }
        }
        let mut add = |sample: &RequestSample, share| {
            if sample.pid != 0 {
                table.holders().found(sample.sock, sample.pid);
            }
            let address = inet_addr(sample.family, sample.addr, sample.port);
            let connection = PeerConnection::from_sample(sample, tick_ns);
            table.add((sample.netns, address), share, &connection)
        };
        let Some(visits) = &mut self.visits else {
            return self.files.go_on(TURN_SECS, losses, |sample| {
                add(&sample, sample.share);
            });
        };
        let Visits { walk, slots, .. } = &mut **visits;
        let ended = walk.go_on(TURN_SECS, losses, |sample| {
            // One whose slot was given to another in between is some user's.
            let share = slots.saw(sample.slot, sample.sock).unwrap_or(SHARE_OF_ALL);
            if sample.state != TCP_NOT_ACCEPTED && !add(&sample, share) {
                slots.free(sample.slot);
            }
        })?;
        if ended.is_some() {
            slots.end();
        }
        Ok(ended)
    }
}

impl Visits {
    /// Gives slots to connections that were noted, less often on hosts with a great many CPUs.
    fn take_noted_if_due(&mut self, now: f64, table: &RequestTable, losses: &mut LossCounters) {
        if now < self.noted_due {
            return;
        }
        let start = thread_secs();
        self.take_noted(now, losses);
        self.noted_due = now + pace::rest_of_finding(thread_secs() - start, table.followed());
    }

    /// Goes on to find connections that nobody noted, if that is due.
    fn find(
        &mut self,
        now: f64,
        files: &mut SampleWalk,
        table: &mut RequestTable,
        losses: &mut LossCounters,
    ) {
        if self.find_began.is_none() {
            let is_early = now >= self.holders_due && table.holders().wants_search();
            if now < self.find_due && !is_early {
                return;
            }
            table.holders().begin_search();
        }
        let start = thread_secs();
        let began = *self.find_began.get_or_insert(now);
        let budget = if self.has_found_once { FINDING_SECS } else { TURN_SECS };
        let (slots, left_out, mut is_left_out) = (&mut self.slots, &mut self.left_out, false);
        let found = files.go_on(budget, losses, |sample| {
            let RequestSample { sock, share, netns, port, pid, .. } = sample;
            table.holders().found(sock, pid);
            if !table.follows(sock)
                && let Some(listener) =
                    slots.add(NewConnection { sock, share, netns, port, reserved: 0 })
            {
                left_out.note(listener, now);
                is_left_out = true;
            }
        });
        if is_left_out {
            losses.count(Loss::RequestsLeftOut);
        }
        self.finding_secs += thread_secs() - start;
        if matches!(found, Ok(Some(true))) {
            self.left_out.forget_before(began);
        }
        if !matches!(found, Ok(None)) {
            let rest = pace::rest_of_finding(self.finding_secs, table.followed());
            self.find_due = began + rest.max(FIND_EVERY.as_secs_f64());
            let rest = pace::rest_of_holders(self.finding_secs);
            self.holders_due = began + rest.max(FIND_HOLDERS_EVERY.as_secs_f64());
            (self.find_began, self.finding_secs, self.has_found_once) = (None, 0.0, true);
        }
        if let Err(error) = found {
            losses.count_failure(Loss::RequestReadFailed, &error);
        }
    }

    /// Gives slots to the connections that were noted.
    fn take_noted(&mut self, now: f64, losses: &mut LossCounters) {
        let cpus = match self.noted.get(&0, 0) {
            Ok(cpus) => cpus,
            Err(error) => {
                losses.count_failure(Loss::RequestReadFailed, &io::Error::other(error));
                self.left_out.note_any(now);
                return;
            }
        };
        self.noted_totals.resize(cpus.len(), 0);
        let mut is_left_out = false;
        for (SharedStruct(of_cpu), seen) in cpus.iter().zip(&mut self.noted_totals) {
            let new = of_cpu.total.wrapping_sub(*seen);
            *seen = of_cpu.total;
            if new > NEW_CONNECTIONS_KEPT as u64 {
                self.left_out.note_any(now);
                is_left_out = true;
            }
            for back in 1..=new.min(NEW_CONNECTIONS_KEPT as u64) {
                let place = of_cpu.total.wrapping_sub(back) % NEW_CONNECTIONS_KEPT as u64;
                if let Some(&connection) = of_cpu.latest.get(place as usize)
                    && let Some(listener) = self.slots.note(connection)
                {
                    self.left_out.note(listener, now);
                    is_left_out = true;
                }
            }
        }
        if is_left_out {
            losses.count(Loss::RequestsLeftOut);
        }
    }
}

/// Passes of one iterator.
struct SampleWalk {
    iter: IterHandle,
    buffer: Vec<u8>,
    open: Option<OpenPass>,
}

impl SampleWalk {
    fn new(iter: IterHandle) -> Self {
        Self { iter, buffer: Vec::new(), open: None }
    }

    /// Goes on with a pass for so much processor time, and with one read at least. Returns, once it
    /// has ended, whether it read everything. After an error the next pass begins anew.
    fn go_on(
        &mut self,
        secs: f64,
        losses: &mut LossCounters,
        mut each: impl FnMut(RequestSample),
    ) -> io::Result<Option<bool>> {
        let until = thread_secs() + secs;
        let mut pass = match self.open.take() {
            Some(pass) => pass,
            None => OpenPass::begin(&self.iter)?,
        };
        loop {
            if let Some(rest) = pass.read(&mut self.buffer, &mut each)? {
                losses.count_short_read(rest);
                return Ok(Some(rest == 0));
            }
            if thread_secs() >= until {
                self.open = Some(pass);
                return Ok(None);
            }
        }
    }
}
