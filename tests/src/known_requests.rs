//! Connections that stay open, with requests that wait for known times: the truth for the sensor of
//! requests.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::now;

/// Interval at which a pause checks whether the test has ended.
const STEP: Duration = Duration::from_millis(500);

/// Behaviour of the client and the server of one connection. Times scatter evenly between half and
/// one and a half of these.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// Pause of the client after a response.
    pub think: Duration,
    /// Time that the server takes for a request.
    pub service: Duration,
    /// Set if the server lets the request lie unread for that time.
    pub unread: bool,
}

/// The connections, while they are open.
pub struct KnownRequests {
    addr: SocketAddr,
    state: Arc<State>,
    clients: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

struct State {
    /// Arrival of the request in flight, per connection.
    since: Vec<Mutex<Option<Instant>>>,
    habits: Vec<Habit>,
    answered: AtomicU64,
    ended: AtomicBool,
}

/// Truth at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Truth {
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests in flight that the server has not read.
    pub unread: u32,
    /// Age of the oldest request in flight; zero if there is none.
    pub oldest: Duration,
    /// Age of the oldest unread request; zero if there is none.
    pub oldest_unread: Duration,
}

impl KnownRequests {
    /// Opens a connection for each habit to a listener at `addr`.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot listen or connect.
    pub fn start(addr: &str, reached_by: &str, habits: &[Habit]) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let to = SocketAddr::new(reached_by.parse().map_err(io::Error::other)?, addr.port());
        let state = Arc::new(State {
            since: habits.iter().map(|_| Mutex::new(None)).collect(),
            habits: habits.to_vec(),
            answered: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let (mut clients, mut threads) = (Vec::new(), Vec::new());
        for nth in 0..habits.len() {
            let client = TcpStream::connect(to)?;
            let (server, _) = listener.accept()?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            clients.push(client.try_clone()?);
            let (asks, answers) = (state.clone(), state.clone());
            // Both end with an error once the connection is shut down.
            threads.push(thread::spawn(move || asks.ask(nth, client).unwrap_or(())));
            threads.push(thread::spawn(move || answers.answer(nth, server).unwrap_or(())));
        }
        // It listens for as long as there are connections.
        threads.push(thread::spawn(move || drop(listener.accept())));
        Ok(Self { addr, state, clients, threads })
    }

    /// Address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Current truth.
    pub fn truth(&self) -> Truth {
        let State { since, habits, .. } = &*self.state;
        let mut truth = Truth::default();
        for (since, habit) in since.iter().zip(habits) {
            let Some(since) = *since.lock().unwrap_or_else(PoisonError::into_inner) else {
                continue;
            };
            let age = since.elapsed();
            truth.in_flight += 1;
            truth.oldest = truth.oldest.max(age);
            if habit.unread {
                truth.unread += 1;
                truth.oldest_unread = truth.oldest_unread.max(age);
            }
        }
        truth
    }

    /// Responses so far.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }
}

impl Drop for KnownRequests {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        for client in &self.clients {
            let _ = client.shutdown(Shutdown::Both);
        }
        // Ends the thread that listens.
        let _ = TcpStream::connect(self.addr);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap_or(()));
    }
}

impl State {
    fn ask(&self, nth: usize, mut stream: TcpStream) -> io::Result<()> {
        let mut random = nth as u64 * 2 + 1;
        loop {
            self.pause(scattered(self.habits[nth].think, &mut random))?;
            self.set(nth, Some(now()));
            stream.write_all(b"question")?;
            stream.read_exact(&mut [0; 8])?;
        }
    }

    fn answer(&self, nth: usize, mut stream: TcpStream) -> io::Result<()> {
        let Habit { service, unread, .. } = self.habits[nth];
        let mut random = nth as u64 * 2 + 2;
        loop {
            if !unread {
                stream.read_exact(&mut [0; 8])?;
            } else if stream.peek(&mut [0])? == 0 {
                return Ok(());
            }
            self.pause(scattered(service, &mut random))?;
            if unread {
                stream.read_exact(&mut [0; 8])?;
            }
            self.set(nth, None);
            self.answered.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"response")?;
        }
    }

    fn set(&self, nth: usize, since: Option<Instant>) {
        *self.since[nth].lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn pause(&self, time: Duration) -> io::Result<()> {
        let start = now();
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(STEP));
        }
    }
}

/// The next number of Knuth's generator (MMIX) decides.
fn scattered(mean: Duration, random: &mut u64) -> Duration {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    mean.mul_f64(0.5 + (*random >> 11) as f64 / (1_u64 << 53) as f64)
}
