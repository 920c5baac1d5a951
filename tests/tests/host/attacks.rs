//! An unprivileged user who opens sockets and lets connections wait there causes no drain, no lower
//! weight and no page.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_tests::{
    ANY_PORT, Running, Scratch, is_root,
    receiver::{Form, Receiver},
    run_with, wait_for,
};

/// User id of `nobody`.
const NOBODY: u32 = 65_534;

/// Time within which an overload is claimed: after six seconds if a single connection waits, at
/// whatever severity, and sooner if several do.
const CLAIMED_WITHIN: Duration = Duration::from_secs(20);

/// Python program that serves one connection, which shows that it has started, and lets the others
/// wait forever. Argument 1 is the process name that it takes, argument 2 the number of waiting
/// connections.
const TCP: &str = "import socket,sys,time; open('/proc/self/comm','w').write(sys.argv[1])
s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen(8)
time.sleep(2); first=socket.create_connection(s.getsockname()); served=s.accept(); time.sleep(1)
c=[socket.create_connection(s.getsockname()) for _ in range(int(sys.argv[2]))]
print(s.getsockname()[1],flush=True); time.sleep(60)";

/// Same program with a UNIX socket that has an abstract name.
const UNIX: &str = "import socket,sys,time
s=socket.socket(socket.AF_UNIX); s.bind('\\0spillway-attack'); s.listen(8)
c=[]
for _ in range(8):
    one=socket.socket(socket.AF_UNIX); one.connect('\\0spillway-attack'); c.append(one)
print(0,flush=True); time.sleep(60)";

/// Python program whose listeners alternate between overload and recovery, as fast as overloads can
/// be claimed.
const FLAPS: &str = "import socket,time
all=[socket.socket() for _ in range(60)]
for s in all: s.bind(('127.0.0.1',0)); s.listen(8)
print(0,flush=True)
for turn in range(4):
    held=[socket.create_connection(s.getsockname()) for s in all for _ in range(5)]
    time.sleep(2)
    for s in all:
        for _ in range(5): s.accept()[0].close()
    del held
    time.sleep(1)
time.sleep(60)";

/// Process of the user `nobody` that attacks until it is dropped.
struct Attack(Child);

impl Attack {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.uid(NOBODY).gid(NOBODY).process_group(0);
        Self(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    fn python(script: &str, arguments: &[&str]) -> Self {
        Self::start("python3", &[&["-c", script], arguments].concat())
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        // SAFETY: signals the process group of a child that has not been reaped yet.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

fn lines(running: &Running) -> Vec<Value> {
    running.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn unprivileged_users_cannot_drain_weigh_or_page() {
    const TEST: &str = "unprivileged_users_cannot_drain_weigh_or_page";
    if !is_root(TEST) {
        return;
    }
    let (scratch, webhook) = (Scratch::make("attacks"), Receiver::start(Form::Webhook));
    let check: SocketAddr = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a loopback port is free");
    let text = format!(
        "mode = \"enforce\"\n{ANY_PORT}[act.limit]\nenabled = \
        false\n[act.drain.agent_check]\nlisten = \"{check}\"\n[act.page.webhook]\n\
         url = \"{}\"\nsecret_file = \"{}\"\n[record]\nstate_dir = \"{}\"\n",
        webhook.url("/"),
        scratch.secret("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").display(),
        scratch.0.join("state").display()
    );
    // Started before the agent: listeners that exist at its first scan prove nothing either.
    let early = Attack::python(TCP, &["sshd", "8"]);
    let mut command = run_with(&scratch.file("spillway.toml", &text));
    command.arg("--json");
    let running = Running::start(command);
    let attacks = [
        Attack::python(TCP, &["python3", "1"]),
        Attack::python(TCP, &["systemd", "8"]),
        Attack::python(UNIX, &[]),
        Attack::python(FLAPS, &[]),
        // In its own network namespace, if the kernel lets users create one.
        Attack::start(
            "unshare",
            &["-Urn", "sh", "-c", "ip link set lo up; exec python3 -c \"$0\" app 8", TCP],
        ),
    ];
    let pids: Vec<u32> = attacks[..2].iter().map(|attack| attack.0.id()).collect();
    let claimed = || {
        let seen = lines(&running);
        let is_claimed = |pid: &u32| {
            seen.iter().any(|line| line["verdict"] == "overload" && line["pid"] == *pid)
        };
        pids.iter().all(is_claimed).then_some(())
    };
    assert!(
        wait_for(CLAIMED_WITHIN, claimed).is_some(),
        "{pids:?} in {}{}",
        running.printed(),
        running.log()
    );
    // Long enough for any of them to become critical if it were a service.
    sleep(Duration::from_secs(11));
    let seen = lines(&running);
    let harmful: Vec<_> = seen
        .iter()
        .filter(|line| {
            line["severity"] != "info" && !line["severity"].is_null() || !line["decision"].is_null()
        })
        .collect();
    assert!(harmful.is_empty(), "{harmful:#?}");
    let mut answer = String::new();
    TcpStream::connect(check)
        .and_then(|mut stream| stream.read_to_string(&mut answer))
        .expect("the agent check answers");
    assert_eq!(answer, "ready 100%\n");
    assert!(running.get("/ready").starts_with("HTTP/1.1 200"), "the node left rotation");
    assert!(webhook.calls().is_empty(), "{:?}", webhook.calls());
    drop((early, attacks));
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}
