//! One recording in progress: the stage, the recorder outside of it, the truth, and the times of
//! the actions on the server.

use std::{
    any::Any,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use spillway_agent::sense::{Fact, Observation};
use spillway_tests::{
    Servers, now,
    overload_live::{
        server::{Kind, Server},
        stage::Stage,
        truth::{History, Truth},
    },
    recorder::{Head, Recorder},
};

use crate::{label::Did, plays::Play};

/// Time that the recorder runs before the server starts, and after the last sample of the truth.
const AHEAD: Duration = Duration::from_secs(1);

/// Result of a recording.
pub(crate) struct Played {
    pub(crate) head: Head,
    pub(crate) observations: Vec<Observation>,
    pub(crate) history: History,
    pub(crate) addr: SocketAddr,
    pub(crate) did: Did,
    /// Minimum wait of a connection that stands.
    pub(crate) target: Duration,
}

/// Values that must live until the recording has ended.
pub(crate) type Kept = Box<dyn Any>;

/// Stage of a recording.
pub(crate) struct Set {
    pub(crate) stage: Stage,
    recorder: Recorder,
    under_way: Option<(SocketAddr, Truth)>,
    did: Did,
}

impl Set {
    /// Makes the recording, in a network namespace that this thread enters.
    pub(crate) fn play(
        play: &Play,
        servers: Servers,
        recorder: Recorder,
    ) -> anyhow::Result<Played> {
        let servers = if play.ahead { servers.ahead() } else { servers };
        let stage = Stage::without_agent(play.name, servers);
        let mut set = Self { stage, recorder, under_way: None, did: Did::default() };
        let kept = (play.play)(&mut set)?;
        let Self { stage, recorder, under_way, did } = set;
        let (head, observations) = recorder.end()?;
        let (addr, truth) = under_way.expect("the recording has no server");
        let history = truth.end();
        drop(kept);
        Ok(Played { head, observations, history, addr, did, target: stage.target })
    }

    /// Returns the connections per second that a server of this kind completes.
    pub(crate) fn capacity_per_sec(&mut self, kind: Kind) -> f64 {
        Server::capacity_per_sec(&mut self.stage, kind)
    }

    /// Starts the recorded server with that many sockets: recorder first, truth last.
    pub(crate) fn start_as<S>(
        &mut self,
        sockets: usize,
        start: impl FnOnce(&mut Stage) -> (S, SocketAddr),
    ) -> anyhow::Result<(S, SocketAddr)> {
        let netns = self.stage.netns;
        self.recorder.begin(Box::new(move |fact| match fact {
            Fact::Listener(listener) => {
                listener.netns == netns && !listener.addr.starts_with("unix:")
            }
            Fact::Sensing(_) => true,
            _ => false,
        }))?;
        sleep(AHEAD);
        let (server, addr) = start(&mut self.stage);
        self.under_way = Some((addr, Truth::watch_all(sockets)));
        Ok((server, addr))
    }

    /// Starts a server of this kind with one socket.
    pub(crate) fn start(&mut self, kind: Kind) -> anyhow::Result<(Server, SocketAddr)> {
        self.start_as(1, |stage| Server::start(stage, kind))
    }

    /// Notes that it is offered more than it can take from now on, and not before.
    pub(crate) fn overloads(&mut self) -> Instant {
        *self.did.overloads_from.get_or_insert(now())
    }

    /// Notes that its acceptor has just been stopped.
    pub(crate) fn stopped(&mut self) {
        self.did.stopped = Some((self.overloads(), None));
    }

    /// Notes that its acceptor has just been continued.
    pub(crate) fn goes_on(&mut self) {
        if let Some((_, goes_on)) = &mut self.did.stopped {
            *goes_on = Some(now());
        }
    }
}
