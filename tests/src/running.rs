//! The running agent: its log, output, HTTP endpoints and exit.
//!
//! Separate threads read its output, so that an agent that logs more than a pipe holds is not
//! blocked by the test.

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

/// Limit on the agent's start, whatever the kernel refuses it.
pub const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// Configuration that serves on a port chosen by the kernel.
pub const ANY_PORT: &str = "[serve]\nlisten = \"127.0.0.1:0\"\n";

/// Directory that is removed at the end of the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes the directory.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be made.
    pub fn make(test: &str) -> Self {
        let path = env::temp_dir().join(format!("spillway-{test}-{}", std::process::id()));
        fs::create_dir(&path).expect("making a scratch directory");
        Self(path)
    }

    /// Writes a file in the directory.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("writing a scratch file");
        path
    }

    /// Writes a file that only its owner can read, as the agent requires of secrets.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be written.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .expect("setting the mode of a scratch file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Command with the agent's binary, which `cargo xtask test` builds and names in `SPILLWAY_BIN`.
///
/// # Panics
///
/// Panics if `SPILLWAY_BIN` is not set.
pub fn agent() -> Command {
    let binary = env::var_os("SPILLWAY_BIN").map(PathBuf::from);
    let binary =
        binary.expect("SPILLWAY_BIN is not set; hint: run the tests with `cargo xtask test`");
    Command::new(binary)
}

/// `spillway run` with this configuration.
pub fn run_with(config: &Path) -> Command {
    let mut command = agent();
    command.args(["run", "--config"]).arg(config);
    command
}

/// Line printed by the agent.
#[derive(Debug, Clone)]
pub struct Printed {
    /// Time at which the test received it.
    pub at: Instant,
    /// Text without the newline.
    pub line: String,
}

/// Output of a pipe so far, collected by a thread until the other end is closed.
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

/// Running agent; killed if the test ends before stopping it.
pub struct Running {
    child: Child,
    /// Readers of stdout and the log; taken by [`Running::stop`].
    pipes: Option<(Heard, Heard)>,
}

impl Running {
    /// Starts a command that becomes the agent and waits until it is watching.
    ///
    /// # Panics
    ///
    /// Panics if the agent ends or is not watching within [`STARTS_WITHIN`].
    pub fn start(command: Command) -> Self {
        Self::start_within(command, STARTS_WITHIN)
    }

    /// Same as [`Running::start`] with another limit, because an emulated processor is slower.
    ///
    /// # Panics
    ///
    /// Panics if the agent ends or is not watching within `limit`.
    pub fn start_within(mut command: Command, limit: Duration) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        let out = Heard::from(child.stdout.take().expect("stdout should be piped"));
        let log = Heard::from(child.stderr.take().expect("stderr should be piped"));
        let mut running = Self { child, pipes: Some((out, log)) };
        let watching = wait_for(limit, || {
            let ended = running.child.try_wait().expect("waiting for the agent");
            assert!(ended.is_none(), "the agent ended with {ended:?}: {}", running.log());
            running.log().contains("spillway is watching").then_some(())
        });
        assert!(watching.is_some(), "the agent is not watching after {limit:?}: {}", running.log());
        running
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Log so far.
    pub fn log(&self) -> String {
        self.pipes.as_ref().map_or_else(String::new, |(_, log)| log.so_far())
    }

    /// Standard output so far: verdicts and decisions.
    pub fn printed(&self) -> String {
        self.pipes.as_ref().map_or_else(String::new, |(out, _)| out.so_far())
    }

    /// First printed JSON line of this kind about this cgroup.
    pub fn line_of(&self, kind: &str, value: &str, cgroup: &str) -> Option<Value> {
        let is_it = |line: &Value| line[kind] == value && line["cgroup"] == cgroup;
        self.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).find(is_it)
    }

    /// Printed lines with their times of arrival.
    pub fn printed_at(&self) -> Vec<Printed> {
        self.pipes.as_ref().map_or_else(Vec::new, |(out, _)| out.lines())
    }

    /// Address of the agent's HTTP server.
    ///
    /// # Panics
    ///
    /// Panics if the log does not name it.
    pub fn address(&self) -> SocketAddr {
        let log = self.log();
        let (_, rest) = log.split_once("listen=").expect("the log should name the address");
        rest.split_whitespace()
            .next()
            .and_then(|addr| addr.parse().ok())
            .expect("the address should be valid")
    }

    /// Response to a GET, including the head.
    ///
    /// # Panics
    ///
    /// Panics if there is no response within five seconds.
    pub fn get(&self, path: &str) -> String {
        http_get(self.address(), path).expect("the agent should respond")
    }

    /// Returns true if `/healthz` reports success.
    pub fn is_well(&self) -> bool {
        self.get("/healthz").starts_with("HTTP/1.1 200")
    }

    /// Sends a signal to the agent.
    ///
    /// # Panics
    ///
    /// Panics if the agent is gone.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a signal to a child that was not waited for yet.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "sending signal {signal}: {}", self.log());
    }

    /// Stops the agent with SIGTERM and returns its exit code and complete log.
    ///
    /// # Panics
    ///
    /// Panics if the agent does not end within five seconds.
    pub fn stop(self) -> (Option<i32>, String) {
        self.stop_by(libc::SIGTERM)
    }

    /// Stops the agent with this signal, as [`Running::stop`] does.
    ///
    /// # Panics
    ///
    /// Panics if the agent does not end within five seconds.
    pub fn stop_by(mut self, signal: libc::c_int) -> (Option<i32>, String) {
        self.signal(signal);
        let status = wait_for(Duration::from_secs(5), || {
            self.child.try_wait().expect("waiting for the agent")
        });
        let status = status.unwrap_or_else(|| {
            panic!("the agent did not stop within five seconds: {}", self.log())
        });
        let (_, log) = self.pipes.take().expect("the agent is stopped only once");
        (status.code(), log.until_closed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Response to a GET, including the head.
///
/// # Errors
///
/// Returns an error if there is no response within five seconds.
pub fn http_get(addr: SocketAddr, path: &str) -> io::Result<String> {
    http_get_with(addr, path, &["host: localhost"])
}

/// Response to a GET with these headers, including the head.
///
/// # Errors
///
/// Returns an error if there is no response within five seconds.
pub fn http_get_with(addr: SocketAddr, path: &str, headers: &[&str]) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Value of a metric, by name with labels; `None` if it is missing.
///
/// # Panics
///
/// Panics if its value is not a number.
pub fn find_metric(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ')
        .map(|(_, value)| value.parse().expect("a metric's value should be a number"))
}

/// Value of a metric that must exist.
///
/// # Panics
///
/// Panics if the metric is missing.
pub fn metric(metrics: &str, name: &str) -> f64 {
    find_metric(metrics, name).unwrap_or_else(|| panic!("no metric {name} in {metrics}"))
}

/// Warnings in a log.
pub fn warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}
