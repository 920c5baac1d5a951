//! The agent's binary as it runs: what it logs, prints and serves, and how it ends.
//!
//! Its output is read by threads of its own, so that an agent that logs more than a pipe holds is
//! not held up by the test.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{now, wait_for};

/// How long the agent may take until it watches, whatever the kernel refuses it.
pub const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// A configuration that serves on a port which the kernel picks.
pub const ANY_PORT: &str = "[serve]\nlisten = \"127.0.0.1:0\"\n";

/// A directory that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Panics
    ///
    /// Where it cannot be made.
    pub fn make(test: &str) -> Self {
        let path = env::temp_dir().join(format!("spillway-{test}-{}", std::process::id()));
        fs::create_dir(&path).expect("a scratch directory can be made");
        Self(path)
    }

    /// Writes a file in it.
    ///
    /// # Panics
    ///
    /// Where it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a scratch file can be written");
        path
    }

    /// Writes one that nobody else may read, as the agent wants of a secret.
    ///
    /// # Panics
    ///
    /// As of [`Scratch::file`].
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The agent's binary, which `cargo xtask test` builds and names.
///
/// # Panics
///
/// Where it is not named.
pub fn agent() -> Command {
    let binary = env::var_os("SPILLWAY_BIN").map(PathBuf::from);
    let binary =
        binary.expect("SPILLWAY_BIN names the agent; hint: run the tests with `cargo xtask test`");
    Command::new(binary)
}

/// `spillway run` with this configuration.
pub fn run_with(config: &Path) -> Command {
    let mut command = agent();
    command.args(["run", "--config"]).arg(config);
    command
}

/// A line that the agent printed.
#[derive(Debug, Clone)]
pub struct Printed {
    /// When it arrived here.
    pub at: Instant,
    /// Without its line end.
    pub line: String,
}

/// What a pipe has said so far, read by a thread until its other end is closed.
struct Heard {
    lines: Arc<Mutex<Vec<Printed>>>,
    reader: JoinHandle<()>,
}

impl Heard {
    fn from(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = lines.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Printed { at: now(), line });
            }
        });
        Self { lines, reader }
    }

    fn lines(&self) -> Vec<Printed> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn so_far(&self) -> String {
        self.lines().iter().flat_map(|printed| [printed.line.as_str(), "\n"]).collect()
    }

    fn until_closed(self) -> String {
        let Self { lines, reader } = self;
        reader.join().expect("the reader does not panic");
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|printed| [printed.line.as_str(), "\n"]).collect()
    }
}

/// A running agent; killed where the test ends before it was stopped.
pub struct Running {
    child: Child,
    /// Both taken when it is stopped.
    pipes: Option<(Heard, Heard)>,
}

impl Running {
    /// Starts a command that becomes the agent, and waits until it watches.
    ///
    /// # Panics
    ///
    /// Where it ends, or does not say that it watches within [`STARTS_WITHIN`].
    pub fn start(command: Command) -> Self {
        Self::start_within(command, STARTS_WITHIN)
    }

    /// As [`Running::start`], with another limit: an emulated processor is slower.
    ///
    /// # Panics
    ///
    /// As [`Running::start`].
    pub fn start_within(mut command: Command, limit: Duration) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let out = Heard::from(child.stdout.take().expect("stdout is piped"));
        let log = Heard::from(child.stderr.take().expect("stderr is piped"));
        let mut running = Self { child, pipes: Some((out, log)) };
        let watching = wait_for(limit, || {
            let ended = running.child.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "the agent ended with {ended:?}: {}", running.log());
            running.log().contains("spillway is watching").then_some(())
        });
        assert!(watching.is_some(), "after {limit:?} it does not watch: {}", running.log());
        running
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.pipes.as_ref().map_or_else(String::new, |(_, log)| log.so_far())
    }

    /// What it printed so far: verdicts and decisions.
    pub fn printed(&self) -> String {
        self.pipes.as_ref().map_or_else(String::new, |(out, _)| out.so_far())
    }

    /// The first line that it printed of this kind and about this cgroup, as JSON.
    pub fn line_of(&self, kind: &str, value: &str, cgroup: &str) -> Option<Value> {
        let is_it = |line: &Value| line[kind] == value && line["cgroup"] == cgroup;
        self.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).find(is_it)
    }

    /// The same, each line with the time at which it came.
    pub fn printed_at(&self) -> Vec<Printed> {
        self.pipes.as_ref().map_or_else(Vec::new, |(out, _)| out.lines())
    }

    /// Where it serves.
    ///
    /// # Panics
    ///
    /// Where it does not.
    pub fn address(&self) -> SocketAddr {
        let log = self.log();
        let (_, rest) = log.split_once("listen=").expect("it says where it serves");
        rest.split_whitespace()
            .next()
            .and_then(|addr| addr.parse().ok())
            .expect("that is an address")
    }

    /// Its answer to a request, head and all.
    ///
    /// # Panics
    ///
    /// Where it does not answer within five seconds.
    pub fn get(&self, path: &str) -> String {
        http_get(self.address(), path).expect("it answers")
    }

    /// Whether it calls itself well.
    pub fn is_well(&self) -> bool {
        self.get("/healthz").starts_with("HTTP/1.1 200")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// Where it is gone.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a signal to a child that was not waited for yet.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "it takes signal {signal}: {}", self.log());
    }

    /// Asks it to stop; gives its exit code and all that it logged.
    ///
    /// # Panics
    ///
    /// It does not end within five seconds.
    pub fn stop(self) -> (Option<i32>, String) {
        self.stop_by(libc::SIGTERM)
    }

    /// Asks it to stop by this signal, as [`Running::stop`].
    ///
    /// # Panics
    ///
    /// It does not end within five seconds.
    pub fn stop_by(mut self, signal: libc::c_int) -> (Option<i32>, String) {
        self.signal(signal);
        let status = wait_for(Duration::from_secs(5), || {
            self.child.try_wait().expect("it can be waited for")
        });
        let status = status
            .unwrap_or_else(|| panic!("it does not stop within five seconds: {}", self.log()));
        let (_, log) = self.pipes.take().expect("it is stopped once");
        (status.code(), log.until_closed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is answered to a GET, head and all.
///
/// # Errors
///
/// Where nobody answers within five seconds.
pub fn http_get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a metric, by its name with labels; `None` where it is not there.
///
/// # Panics
///
/// Where its value is no number.
pub fn find_metric(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ').map(|(_, value)| value.parse().expect("a metric has a value"))
}

/// The value of a metric that must be there.
///
/// # Panics
///
/// Where it is not.
pub fn metric(metrics: &str, name: &str) -> f64 {
    find_metric(metrics, name).unwrap_or_else(|| panic!("no metric {name} in {metrics}"))
}

/// The lines of a log that warn.
pub fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}
