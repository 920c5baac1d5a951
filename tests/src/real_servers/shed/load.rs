//! The load on one server: below capacity, a surge to twice of it, and below it again.

use std::{cell::RefCell, ops::Range, rc::Rc, time::Duration};

use tokio::{
    runtime,
    task::{JoinSet, LocalSet},
    time::sleep,
};

use super::super::{
    clients::{Clients, Connections, Counts},
    play::until_started,
    scene::Family,
    stage::Stage,
};
use crate::{ahead_of_servers, now};

/// Load before, during and after the surge, as a share of capacity, and for how many seconds. Rates
/// before the surge are known after ten.
const BEFORE: (f64, f64) = (0.5, 14.0);
const SURGE: (f64, f64) = (2.0, 15.0);
const AFTER: (f64, f64) = (0.8, 15.0);

/// Time of the surge, in seconds of the load.
pub(super) const SURGE_AT: Range<usize> = BEFORE.1 as usize..(BEFORE.1 + SURGE.1) as usize;

/// Seconds after the surge from which everything is to be answered.
const RECOVERS_SECS: usize = 10;

/// Patience of a client, and its tries.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// Requests that were due in a second, and how many of them were answered in time in the end.
#[derive(Debug, Default, Clone, Copy)]
pub struct Second {
    /// Requests that were due.
    pub offered: u32,
    /// Requests of which a try was answered within the client's patience.
    pub in_time: u32,
}

/// Answers that the clients of one server saw.
#[derive(Debug)]
pub struct Scores {
    /// Answered in time during the surge, as a share of capacity.
    pub surge_of_capacity: f64,
    /// Answered in time from ten seconds after it, as a share of what was offered.
    pub after_of_offered: f64,
    /// Requests of each second.
    pub seconds: Vec<Second>,
    /// All tries.
    pub counts: Counts,
    /// First error that a client saw.
    pub error: Option<String>,
}

impl Scores {
    fn of(capacity: f64, seconds: Vec<Second>, clients: &Clients) -> Self {
        let sum = |seconds: &[Second], of: fn(&Second) -> u32| {
            f64::from(seconds.iter().map(of).sum::<u32>())
        };
        let after = &seconds[SURGE_AT.end + RECOVERS_SECS..];
        Self {
            surge_of_capacity: sum(&seconds[SURGE_AT], |second| second.in_time)
                / (capacity * SURGE.1),
            after_of_offered: sum(after, |second| second.in_time)
                / sum(after, |second| second.offered),
            counts: clients.counts(),
            error: clients.error(),
            seconds,
        }
    }
}

/// Starts a server, and puts it under the load. It ends after `rest`.
pub(super) fn run(family: &Family, stage: &Stage, rest: impl FnOnce()) -> anyhow::Result<Scores> {
    let started = (family.start)(stage)?;
    let clients = Clients::new(started.target.clone(), (family.wire)(), Some(PATIENCE));
    // A client that gives up late would meet the first packet that the kernel repeats, after a second
    // as well, and be accepted in vain.
    let _ = ahead_of_servers();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let seconds = LocalSet::new().block_on(&runtime, async {
        until_started(family, &started.target).await;
        offer(&clients, family.capacity()).await
    });
    rest();
    Ok(Scores::of(family.capacity(), seconds, &clients))
}

/// Sends every request when it is due, and waits for the last client.
async fn offer(clients: &Clients, capacity: f64) -> Vec<Second> {
    let secs: f64 = [BEFORE, SURGE, AFTER].iter().map(|(_, secs)| secs).sum();
    let seconds = Rc::new(RefCell::new(vec![Second::default(); secs as usize]));
    let (mut asking, began, mut from_secs) = (JoinSet::new(), now(), 0.0);
    for (share, secs) in [BEFORE, SURGE, AFTER] {
        let rate = share * capacity;
        for nth in 0..(rate * secs) as u32 {
            let due_secs = from_secs + f64::from(nth) / rate;
            sleep(Duration::from_secs_f64(due_secs).saturating_sub(began.elapsed())).await;
            let (clients, seconds) = (clients.clone(), seconds.clone());
            asking.spawn_local(async move {
                let in_time = u32::from(ask(&clients).await);
                let second = &mut seconds.borrow_mut()[due_secs as usize];
                second.offered += 1;
                second.in_time += in_time;
            });
        }
        from_secs += secs;
    }
    asking.join_all().await;
    seconds.take()
}

/// Tries until a try is answered in time; returns whether one was.
async fn ask(clients: &Clients) -> bool {
    for _ in 0..TRIES {
        let until = now() + PATIENCE;
        if clients.ask(Connections::New).await {
            return true;
        }
        // A client that is refused does not try again at once.
        sleep(until.saturating_duration_since(now())).await;
    }
    false
}
