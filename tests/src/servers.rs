//! nginx and wrk as Debian packages them, unpacked into the user's cache by `cargo xtask test` and not installed: no service of
//! theirs is ever enabled on this machine. `SPILLWAY_SERVERS` names the directory.

use std::{
    env,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{in_real_time, wait_for};

/// How long a program may take to end when it is asked to, before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A program without a ready line, ahead of what else runs here; ended with what it started when it is dropped, and when this thread ends.
pub struct Program(Child);

impl Program {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let die_with_parent = || {
            // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
            let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
            if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        let child = in_real_time(command).stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        if wait_for(ENDS_WITHIN, || self.0.try_wait().unwrap_or_default()).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Where the packages are unpacked.
#[derive(Debug, Clone)]
pub struct Servers(PathBuf);

impl Servers {
    /// Where the environment says, or why there is nothing.
    ///
    /// # Errors
    ///
    /// The reason, for a skip.
    pub fn find() -> Result<Self, String> {
        let root = env::var_os("SPILLWAY_SERVERS").map(PathBuf::from);
        let root = root.ok_or("needs nginx and wrk, which `cargo xtask test` unpacks where there is apt-get")?;
        match ["usr/sbin/nginx", "usr/bin/wrk"].map(|name| root.join(name)).iter().find(|file| !file.is_file()) {
            Some(missing) => Err(format!("{} is missing", missing.display())),
            None => Ok(Self(root)),
        }
    }

    /// nginx with one worker on the first CPU and files of its own in `dir`, serving `page` compressed at `/`: what one
    /// connection costs is set by the page's size. Everything else is its default, the backlog of 511 among it.
    ///
    /// # Panics
    ///
    /// Where it does not listen within five seconds.
    pub fn nginx(&self, dir: &Path, addr: SocketAddr, page: &[u8]) -> Program {
        let at = dir.display();
        let (www, config) = (dir.join("www"), dir.join("nginx.conf"));
        std::fs::create_dir_all(&www).expect("a directory can be made");
        std::fs::write(www.join("index.html"), page).expect("a page can be written");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String = temporary.iter().map(|name| format!("{name}_temp_path {at}/{name};\n")).collect();
        let text = format!(
            "daemon off; user root; worker_processes 1; worker_cpu_affinity 1; worker_rlimit_nofile 16384;\n\
             pid {at}/nginx.pid;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; gzip on; gzip_types *; gzip_comp_level 9; default_type text/html;\n{temporary}\
             server {{ listen {addr}; root {at}/www; }} }}\n"
        );
        std::fs::write(&config, text).expect("a configuration can be written");
        let log = dir.join("error.log");
        let mut command = self.command("usr/sbin/nginx");
        command.arg("-e").arg(&log).arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Program::start(&mut command);
        let listens = wait_for(Duration::from_secs(5), || std::net::TcpStream::connect(addr).ok());
        assert!(
            listens.is_some(),
            "nginx does not listen on {addr}: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        nginx
    }

    /// wrk with one thread on the last CPU: a new connection for each request, `secs` long.
    pub fn wrk(&self, addr: SocketAddr, connections: u32, secs: u32) -> Command {
        let mut command = Command::new("taskset");
        let last = std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
        command.args(["-c", &last.to_string()]).arg(self.0.join("usr/bin/wrk"));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{secs}s")]);
        command.args(["-H", "Connection: close", "-H", "Accept-Encoding: gzip", &format!("http://{addr}/")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Connections that the server completes in a second under wrk, which waits for each answer before it asks again.
    ///
    /// # Panics
    ///
    /// Where wrk fails.
    pub fn closed_loop_per_sec(&self, addr: SocketAddr, connections: u32, secs: u32) -> f64 {
        let output = self.wrk(addr, connections, secs).stdout(Stdio::piped()).output().expect("wrk runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("wrk gave no rate: {said}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.0.join(program));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    fn libraries(&self) -> PathBuf {
        self.0.join("usr/lib/x86_64-linux-gnu")
    }
}
