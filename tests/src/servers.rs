//! nginx, HAProxy, wrk and others as packaged by Debian. `cargo xtask test` unpacks them into the
//! user's cache without installing them, so that no service is ever enabled on this machine.
//! `SPILLWAY_SERVERS` names the directory.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::{OwnCgroup, in_real_time, skip, wait_for};

/// Time that a program gets to end after SIGTERM before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

const ALERTMANAGER: &str = "usr/bin/prometheus-alertmanager";
const PROMTOOL: &str = "usr/bin/promtool";
const CADDY: &str = "usr/bin/caddy";
const GUNICORN: &str = "usr/bin/gunicorn";
const UVICORN: &str = "usr/bin/uvicorn";
const ETCD: &str = "usr/bin/etcd";

/// WSGI application whose workers are stuck while there is a file of that name beside it.
const APP: &str = "import os, time
def app(environ, start_response):
    while os.path.exists('stuck'):
        time.sleep(0.02)
    if os.path.exists('slow'):
        time.sleep(0.2)
    start_response('200 OK', [])
    return [b'ok']
";

/// Program that parses OpenMetrics text strictly, and prints the number of its families.
const PARSE_OPENMETRICS: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(len(list(parse(sys.stdin.read()))))
";

/// ASGI application that keeps its loop with `work()` at each request.
const ASGI_APP: &str = "
async def app(scope, receive, send):
    work()
    headers = [(b'content-length', b'2')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'ok'})
";

/// Use that a server makes of its time for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Waits for something else.
    Waits,
    /// Computes for so much processor time.
    Computes,
}

/// Program without a ready line. It and its children end when it is dropped and when this thread
/// ends.
pub struct Program(Child);

impl Program {
    /// Starts the program.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let die_with_parent = || {
            // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
            let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
            if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(die_with_parent) };
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?} did not start: {error}")))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns true while the process is running.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Reads the piped standard output until the program ends.
    ///
    /// # Panics
    ///
    /// Panics if the output cannot be read.
    pub fn said(mut self) -> String {
        let mut said = String::new();
        let mut output = self.0.stdout.take().expect("stdout should be piped");
        output.read_to_string(&mut said).expect("reading the program's output");
        said
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

/// Directory of the unpacked packages and settings for running their programs.
#[derive(Debug, Clone)]
pub struct Servers {
    root: PathBuf,
    ahead: bool,
}

impl Servers {
    /// Finds the directory named by `SPILLWAY_SERVERS`.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason to skip the test if a program is missing.
    pub fn find() -> Result<Self, String> {
        let root = env::var_os("SPILLWAY_SERVERS").map(PathBuf::from);
        let root = root.ok_or(
            "needs nginx, HAProxy, Caddy, gunicorn, uvicorn, wrk, Alertmanager, promtool, etcd \
             and kubectl, which `cargo xtask test` unpacks where there is apt-get",
        )?;
        let nginx_and_haproxy = ["usr/sbin/nginx", "usr/sbin/haproxy"];
        let others = [
            "usr/bin/wrk",
            "usr/bin/kubectl",
            CADDY,
            PROMTOOL,
            ALERTMANAGER,
            ETCD,
            GUNICORN,
            UVICORN,
        ];
        match [&nginx_and_haproxy[..], &others]
            .concat()
            .iter()
            .map(|name| root.join(name))
            .find(|file| !file.is_file())
        {
            Some(missing) => Err(format!("{} is missing", missing.display())),
            None => Ok(Self { root, ahead: false }),
        }
    }

    /// Root directory of the unpacked packages.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs the programs ahead of everything else on this machine.
    pub fn ahead(self) -> Self {
        Self { ahead: true, ..self }
    }

    /// Returns true if programs run ahead of everything else.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Starts nginx with one worker on the first CPU and its own files in `dir`. It serves `page`
    /// compressed at `/`, so the page's size sets the cost of a connection. All other settings are
    /// defaults, including the backlog of 511.
    ///
    /// # Panics
    ///
    /// Panics if nginx does not listen within five seconds.
    pub fn nginx(&self, dir: &Path, addr: SocketAddr, page: &[u8]) -> Program {
        self.nginx_with(dir, addr, page, 1, "")
    }

    /// Starts nginx with this number of workers and these parameters of `listen`.
    ///
    /// # Panics
    ///
    /// Panics if nginx does not listen within five seconds.
    pub fn nginx_with(
        &self,
        dir: &Path,
        addr: SocketAddr,
        page: &[u8],
        workers: u32,
        listen: &str,
    ) -> Program {
        let www = dir.join("www");
        fs::create_dir_all(&www).expect("making a directory");
        fs::write(www.join("index.html"), page).expect("writing the page");
        let server = format!("server {{ listen {addr} {listen}; root {}; }}", www.display());
        listening(&mut self.nginx_serving(dir, workers, &server), addr)
    }

    /// Starts nginx with one worker in a cgroup, before an upstream. Its connections with clients
    /// stay open, and each request takes one to the upstream. `/file` has `file_bytes` bytes, of
    /// which it sends 1 MiB a second.
    ///
    /// # Panics
    ///
    /// Panics if nginx does not listen within five seconds.
    pub fn nginx_before(
        &self,
        dir: &Path,
        addr: SocketAddr,
        upstream: SocketAddr,
        file_bytes: usize,
        cgroup: &OwnCgroup,
    ) -> Program {
        fs::create_dir_all(dir).expect("making a directory");
        fs::write(dir.join("file"), vec![b'.'; file_bytes]).expect("writing the file");
        let server = format!(
            "server {{ listen {addr}; location / {{ proxy_pass http://{upstream}; }} \
             location /file {{ root {}; limit_rate 1m; }} }}",
            dir.display()
        );
        let mut command = self.nginx_serving(dir, 1, &server);
        cgroup.admit(&mut command).expect("the process can join the cgroup");
        listening(&mut command, addr)
    }

    /// Starts nginx with one worker before these nodes, each with these parameters, and with these
    /// directives of its location.
    ///
    /// # Panics
    ///
    /// Panics if nginx does not listen within five seconds.
    pub fn nginx_balancing(
        &self,
        dir: &Path,
        addr: SocketAddr,
        nodes: &[SocketAddr],
        of_node: &str,
        directives: &str,
    ) -> Program {
        let nodes: String = nodes.iter().map(|node| format!("server {node} {of_node}; ")).collect();
        let http = format!(
            "upstream nodes {{ {nodes} }} server {{ listen {addr}; \
             location / {{ proxy_pass http://nodes; {directives} }} }}"
        );
        listening(&mut self.nginx_serving(dir, 1, &http), addr)
    }

    /// Returns a command that runs nginx with these blocks of `http` and its own files in `dir`.
    fn nginx_serving(&self, dir: &Path, workers: u32, http: &str) -> Command {
        let (at, config) = (dir.display(), dir.join("nginx.conf"));
        fs::create_dir_all(dir).expect("making a directory");
        let temporary = nginx_temporary(dir);
        let text = format!(
            "daemon off; user root; worker_processes {workers}; worker_cpu_affinity 1; \
             worker_rlimit_nofile 16384;\n\
             pid {at}/nginx.pid;\n\
             events {{ worker_connections 8192; }}\n\
             http {{ access_log off; gzip on; gzip_types *; gzip_comp_level 9; default_type \
             text/html;\n{temporary}\
             {http} }}\n"
        );
        fs::write(&config, text).expect("writing the configuration");
        let mut command = self.command(self.root.join("usr/sbin/nginx"));
        command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(&config);
        command
    }

    /// Starts HAProxy with one thread and its own files in `dir`. It responds to each connection
    /// after `held` and serves `maxconn` at once; more wait in its backlog of 511. Its capacity is
    /// `maxconn / held`, whatever the CPUs do.
    ///
    /// # Panics
    ///
    /// Panics if HAProxy does not listen within five seconds.
    pub fn haproxy(&self, dir: &Path, addr: SocketAddr, maxconn: u32, held: Duration) -> Program {
        fs::create_dir_all(dir).expect("making a directory");
        let (config, held_ms) = (dir.join("haproxy.cfg"), held.as_millis());
        let text = format!(
            "global\n  nbthread 1\n  maxconn 4096\n\
             defaults\n  mode http\n  timeout client 10s\n  timeout connect 1s\n  timeout server \
             10s\n  \
             timeout tarpit {held_ms}ms\n\
             frontend answers\n  bind {addr}\n  maxconn {maxconn}\n  backlog 511\n  option \
             httpclose\n  \
             http-request tarpit deny_status 200\n"
        );
        fs::write(&config, text).expect("writing the configuration");
        let mut command = self.command(self.root.join("usr/sbin/haproxy"));
        command.arg("-db").arg("-f").arg(&config);
        listening(&mut command, addr)
    }

    /// Starts gunicorn with this number of sync workers on `socket`, a UNIX listener, and its own
    /// files in `dir`. Its workers are stuck while `dir` has a file named `stuck`, and take 200 ms for
    /// a request while it has one named `slow`.
    ///
    /// # Panics
    ///
    /// Panics if gunicorn does not listen within ten seconds.
    pub fn gunicorn(&self, dir: &Path, socket: &Path, workers: u32) -> Program {
        let mut command =
            self.gunicorn_command(dir, &format!("unix:{}", socket.display()), workers);
        let server = Program::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let listens = wait_for(Duration::from_secs(10), || UnixStream::connect(socket).ok());
        assert!(listens.is_some(), "gunicorn did not listen on {}", socket.display());
        server
    }

    /// Starts the same server on a TCP listener.
    ///
    /// # Panics
    ///
    /// Panics if gunicorn does not listen within five seconds.
    pub fn gunicorn_at(&self, dir: &Path, addr: SocketAddr, workers: u32) -> Program {
        listening(&mut self.gunicorn_command(dir, &addr.to_string(), workers), addr)
    }

    fn gunicorn_command(&self, dir: &Path, bind: &str, workers: u32) -> Command {
        fs::create_dir_all(dir).expect("making a directory");
        fs::write(dir.join("app.py"), APP).expect("writing the application");
        let mut command = self.python(GUNICORN);
        command.arg("--chdir").arg(dir);
        command.args([format!("--bind={bind}"), format!("--workers={workers}")]);
        command.args(["--timeout=120", "--log-level=error", "app:app"]);
        command
    }

    /// Starts uvicorn, an event loop on one thread, with its own files in `dir`. Each request keeps
    /// the loop for `takes`, so that its capacity is one request in that time at most.
    ///
    /// # Panics
    ///
    /// Panics if uvicorn does not listen within five seconds.
    pub fn uvicorn(&self, dir: &Path, addr: SocketAddr, work: Work, takes: Duration) -> Program {
        fs::create_dir_all(dir).expect("making a directory");
        let secs = takes.as_secs_f64();
        let work = match work {
            Work::Waits => format!("time.sleep({secs})"),
            Work::Computes => format!(
                "until = time.thread_time() + {secs}\n    while time.thread_time() < until: pass"
            ),
        };
        let app = format!("import time\ndef work():\n    {work}\n{ASGI_APP}");
        fs::write(dir.join("app.py"), app).expect("writing the application");
        let mut command = self.python(UVICORN);
        command.args(["--lifespan=off", "--log-level=error", "--host"]).arg(addr.ip().to_string());
        command.arg(format!("--port={}", addr.port())).arg("--app-dir").arg(dir).arg("app:app");
        listening(&mut command, addr)
    }

    /// Runs etcd with these arguments.
    pub fn etcd(&self) -> Command {
        self.command(self.root.join(ETCD))
    }

    /// Finds the directory. Returns `None` and reports that the test is skipped without it.
    pub fn find_or_skip(test: &str) -> Option<Self> {
        Self::find().inspect_err(|reason| skip(test, reason)).ok()
    }

    /// Runs promtool with an input.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be run.
    pub fn promtool(&self, args: &[&str], input: &str) -> Output {
        run_with_input(self.command(self.root.join(PROMTOOL)).args(args), input)
    }

    /// Parses OpenMetrics text with Prometheus's own library, which prints the number of families.
    ///
    /// # Panics
    ///
    /// Panics if Python cannot be run.
    pub fn parse_openmetrics(&self, text: &str) -> Output {
        run_with_input(self.python_of("python3").args(["-c", PARSE_OPENMETRICS]), text)
    }

    /// Runs a program of Debian's Python packages.
    fn python(&self, program: &str) -> Command {
        self.python_of(self.root.join(program))
    }

    fn python_of(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command.env("PYTHONPATH", self.root.join("usr/lib/python3/dist-packages"));
        command
    }

    /// Starts Alertmanager with its own files in `dir`, without peers or receivers. It reads
    /// templates from one fixed path only; they are mounted there for this process alone, which
    /// needs root.
    ///
    /// # Panics
    ///
    /// Panics if Alertmanager does not listen within five seconds.
    pub fn alertmanager(&self, dir: &Path, addr: SocketAddr) -> Program {
        let config = dir.join("alertmanager.yml");
        fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n")
            .expect("writing the configuration");
        let mut command = self.command("unshare");
        let within = "mount --bind \"$1/usr/share\" /usr/share && shift && exec \"$@\"";
        command
            .args(["--mount", "sh", "-c", within, "sh"])
            .arg(&self.root)
            .arg(self.root.join(ALERTMANAGER));
        command
            .arg("--config.file")
            .arg(&config)
            .arg("--storage.path")
            .arg(dir.join("alertmanager"));
        command
            .args(["--cluster.listen-address=", "--log.level=warn"])
            .arg(format!("--web.listen-address={addr}"));
        listening(&mut command, addr)
    }

    /// Starts HAProxy with a configuration of the test's own and waits until it listens on `addr`.
    ///
    /// # Panics
    ///
    /// Panics if HAProxy does not listen within five seconds.
    pub fn haproxy_with(&self, config: &Path, addr: SocketAddr) -> Program {
        let mut command = self.command(self.root.join("usr/sbin/haproxy"));
        command.arg("-db").arg("-f").arg(config);
        listening(&mut command, addr)
    }

    /// Starts nginx with a configuration of the test's own and its files in `dir`, and waits until
    /// it listens on `addr`. Returns the command that reloads it too.
    ///
    /// # Panics
    ///
    /// Panics if nginx does not listen within five seconds.
    pub fn nginx_of(&self, dir: &Path, config: &Path, addr: SocketAddr) -> (Program, String) {
        let mut command = self.command(self.root.join("usr/sbin/nginx"));
        command.arg("-p").arg(dir).arg("-c").arg(config).arg("-e").arg(dir.join("error.log"));
        let libraries = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value?.to_str()?)));
        let arguments = command.get_args().filter_map(OsStr::to_str);
        let program = command.get_program().to_string_lossy();
        let words = ["env".to_owned()].into_iter().chain(libraries);
        let words = words.chain([program.into_owned()]).chain(arguments.map(str::to_owned));
        let reload = words.chain(["-s".to_owned(), "reload".to_owned()]).collect::<Vec<_>>();
        (listening(&mut command, addr), reload.join(" "))
    }

    /// Starts Caddy with a configuration and its files in `dir`, and waits until it listens on
    /// `addr`.
    ///
    /// # Panics
    ///
    /// Panics if Caddy does not listen within five seconds.
    pub fn caddy(&self, dir: &Path, config: &Path, addr: SocketAddr) -> Program {
        let mut command = self.command(self.root.join(CADDY));
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("HOME", dir).stderr(Stdio::null());
        listening(&mut command, addr)
    }

    /// Errors and warnings of HAProxy about a configuration; empty if it accepts it silently.
    ///
    /// # Panics
    ///
    /// Panics if HAProxy cannot be run.
    pub fn haproxy_objects_to(&self, config: &Path) -> String {
        let mut command = self.command(self.root.join("usr/sbin/haproxy"));
        let output =
            command.args(["-c", "-q", "-f"]).arg(config).output().expect("running haproxy");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() { said } else { format!("{}: {said}", output.status) }
    }

    /// Output of kubectl for manifests on its standard input, without an API server.
    ///
    /// # Panics
    ///
    /// Panics if kubectl fails.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(self.root.join("usr/bin/kubectl"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starting kubectl");
        child
            .stdin
            .take()
            .expect("stdin should be piped")
            .write_all(input.as_bytes())
            .expect("writing to kubectl");
        let output = child.wait_with_output().expect("waiting for kubectl");
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("kubectl should print UTF-8")
    }

    /// Runs wrk with one thread on the last CPU for `secs`, with a new connection for each request.
    pub fn wrk(&self, addr: SocketAddr, connections: u32, secs: u32) -> Command {
        let mut command = self.keep_alive_wrk(addr, connections, secs);
        command.args(["-H", "Connection: close", "-H", "Accept-Encoding: gzip"]);
        command
    }

    /// Runs wrk in the same way, on connections that stay open.
    pub fn keep_alive_wrk(&self, addr: SocketAddr, connections: u32, secs: u32) -> Command {
        let mut command = self.command("taskset");
        let last = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
        command.args(["-c", &last.to_string()]).arg(self.root.join("usr/bin/wrk"));
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{secs}s")]);
        command.arg(format!("http://{addr}/"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Connections per second that the server completes under wrk, which waits for each response
    /// before its next request.
    ///
    /// # Panics
    ///
    /// Panics if wrk fails.
    pub fn closed_loop_per_sec(&self, addr: SocketAddr, connections: u32, secs: u32) -> f64 {
        let output =
            self.wrk(addr, connections, secs).stdout(Stdio::piped()).output().expect("wrk runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let rate =
            said.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("wrk gave no rate: {said}"))
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|part| self.root.join(part).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        if self.ahead {
            in_real_time(&mut command);
        }
        command
    }
}

/// Returns the directives by which nginx keeps temporary files in a directory of the test.
pub fn nginx_temporary(dir: &Path) -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
        .concat()
}

/// Runs a program with an input, until it ends.
fn run_with_input(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The programs read their whole input before they print.
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // One that fails before that says why.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("waiting for the program")
}

/// Starts a server that prints nothing and waits until it listens.
pub(crate) fn listening(command: &mut Command, addr: SocketAddr) -> Program {
    listening_with(command.stdout(Stdio::null()).stderr(Stdio::null()), addr)
}

/// Starts a server and waits until it listens.
pub(crate) fn listening_with(command: &mut Command, addr: SocketAddr) -> Program {
    let server = Program::start(command);
    let listens = wait_for(Duration::from_secs(5), || TcpStream::connect(addr).ok());
    assert!(listens.is_some(), "{command:?} did not listen on {addr}");
    server
}
