//! Trust in files: attacks by a local user or by a file placed in the state directory. Attackers
//! run as `nobody`, the agent is the real one, and nothing may hang.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use spillway_tests::{ANY_PORT, Running, Scratch, agent, is_root, now, run_with, wait_for};

const NOBODY: u32 = 65_534;

/// Time limit of each command, whatever it finds.
const WITHIN: Duration = Duration::from_secs(1);

/// Time that a busy machine needs to start a process.
const SLACK: Duration = Duration::from_secs(2);

/// State directory, its configuration, and a file of root's that must not be written.
struct Host {
    scratch: Scratch,
    state_dir: PathBuf,
    victim: PathBuf,
    config: PathBuf,
}

impl Host {
    /// Creates a host without a state directory, whose path is below the scratch directory.
    fn new(test: &str) -> Self {
        let scratch = Scratch::make(test);
        let state_dir = scratch.0.join("state");
        Self::with(scratch, state_dir)
    }

    fn with(scratch: Scratch, state_dir: PathBuf) -> Self {
        let victim = scratch.file("victim", "root:*:0\n");
        let key = scratch.secret("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let text = format!(
            "mode = \"enforce\"\n{ANY_PORT}[record]\nstate_dir = \"{}\"\n[decide]\nallow = \
            [\"/no/such\"]\n\
             [act.page.webhook]\nurl = \"https://127.0.0.1:1/\"\nsecret_file = \"{}\"\n",
            state_dir.display(),
            key.display()
        );
        let config = scratch.file("spillway.toml", &text);
        Self { scratch, state_dir, victim, config }
    }

    /// Runs a command that must end at once.
    fn spillway(&self, command: &str) -> Output {
        let mut command_line = agent();
        command_line.args([command, "--config"]).arg(&self.config);
        ends(command_line, command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// Makes the state directory as an agent does.
    fn make(&self) {
        for directory in [&self.state_dir, &self.path("journal")] {
            fs::create_dir(directory).expect("making a directory");
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
                .expect("setting a mode");
        }
    }

    fn is_untouched(&self) {
        assert_eq!(fs::read_to_string(&self.victim).expect("reading a test file"), "root:*:0\n");
    }
}

/// Runs a command that must end within the time limit.
fn ends(mut command: Command, name: &str) -> Output {
    let began = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the agent");
    if wait_for(WITHIN + SLACK, || child.try_wait().expect("waiting for the process")).is_none() {
        child.kill().expect("killing the process");
        panic!("`spillway {name}` hangs: {:?}", child.wait_with_output());
    }
    let output = child.wait_with_output().expect("waiting for the agent");
    println!("spillway {name}: {:?} after {:?}", output.status.code(), began.elapsed());
    output
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a script as `nobody`.
fn as_nobody(script: &str) {
    let mut command = Command::new("sh");
    let status = command
        .args(["-ec", script])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .status()
        .expect("starting sh");
    assert!(status.success(), "{script}");
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .expect("reading the boot id")
        .trim()
        .to_owned()
}

/// Directory of `nobody` in /tmp, removed at the end of the test.
struct Planted(PathBuf);

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn state_directory_of_another_user_is_not_trusted() {
    if !is_root("state_directory_of_another_user_is_not_trusted") {
        return;
    }
    let planted =
        Planted(std::env::temp_dir().join(format!("spillway-nobodys-{}", std::process::id())));
    let host = Host::with(Scratch::make("planted"), planted.0.join("state"));
    let (state_dir, victim) = (host.state_dir.display(), host.victim.display());
    // An entry for the file's own directory, as left by an agent, and a link at each path that the
    // agent writes.
    let directory = host.scratch.0.join("cgroup");
    fs::create_dir(&directory).expect("making a directory");
    fs::write(directory.join("memory.high"), "4096\n").expect("writing a test file");
    let entry = format!(
        "{{\"spillway_journal\":1,\"boot_id\":\"{}\",\"directory\":\"{}\",\"inode\":7,\"unit\":{{\"name\":\"a.service\"}},\
         \"incidents\":[],\"changes\":[{{\"file\":\"memory.high\",\"prior\":\"max\",\"wanted\":[\"4096\"]}}]}}",
        boot_id(),
        directory.display()
    );
    as_nobody(&format!(
        "umask 022; mkdir -p {state_dir}/journal; printf '%s' '{entry}' > \
         {state_dir}/journal/cgroup-7.json; \
         for name in operator.new paused lock drain.new drain.lock spool.redb; do ln -s {victim} \
         {state_dir}/$name; done"
    ));
    for command in ["undo", "pause", "drain", "undrain", "resume"] {
        let output = host.spillway(command);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        let text = said(&output);
        assert!(
            text.contains("belongs to user 65534") && text.contains("hint: chown"),
            "{command}: {text}"
        );
    }
    let mut command = run_with(&host.config);
    command.arg("--no-bpf");
    let running = Running::start(command);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("nothing will be limited") && log.contains("belongs to user 65534"),
        "{log}"
    );
    host.is_untouched();
    assert_eq!(
        fs::read_to_string(directory.join("memory.high")).expect("reading a test file"),
        "4096\n"
    );
    assert_eq!(fs::symlink_metadata(host.path("paused")).expect("reading metadata").uid(), NOBODY);
}

#[test]
fn journal_entry_for_a_non_cgroup_writes_nothing() {
    if !is_root("journal_entry_for_a_non_cgroup_writes_nothing") {
        return;
    }
    let host = Host::new("no-cgroup");
    host.make();
    let target = host.scratch.0.join("target");
    fs::create_dir(&target).expect("making a directory");
    for file in ["memory.high", "cgroup.subtree_control", "cgroup.procs"] {
        fs::write(target.join(file), "4096\n").expect("writing a test file");
    }
    let inode = fs::metadata(&target).expect("reading metadata").ino();
    let entry = |inode: u64, directory: &Path, rest: &str, file: &str| {
        let (boot_id, directory) = (boot_id(), directory.display());
        let text = format!(
            "{{\"spillway_journal\":1,\"boot_id\":\"{boot_id}\",\"directory\":\"{directory}\",\"inode\":{inode},{rest}\
             \"incidents\":[],\"changes\":[{{\"file\":\"{file}\",\"prior\":\"max\",\"wanted\":[\"4096\"]}}]}}"
        );
        fs::write(host.path(&format!("journal/cgroup-{inode}.json")), text)
            .expect("writing a test file");
    };
    let unit = "\"unit\":{\"name\":\"spillway-no-such.service\"},";
    entry(inode, &target, "\"split\":{\"subtree_control\":\"\"},", "memory.high");
    entry(1, &target, unit, "memory.high");
    entry(2, &host.scratch.0, unit, "victim");
    entry(3, Path::new("/sys/fs/cgroup"), unit, "../../../etc/passwd");
    entry(4, &target, "\"unit\":{\"name\":\"../../../tmp/x.service\"},", "MemoryHigh");
    symlink(&target, host.scratch.0.join("link")).expect("making a link");
    entry(5, &host.scratch.0.join("link"), unit, "memory.high");
    let output = host.spillway("undo");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for wrong in [
        "not on a cgroup file system",
        "\"victim\" is no file that Spillway changes",
        "is a symbolic link",
    ] {
        assert!(text.contains(wrong), "{wrong}: {text}");
    }
    host.is_untouched();
    for file in ["memory.high", "cgroup.subtree_control", "cgroup.procs"] {
        assert_eq!(
            fs::read_to_string(target.join(file)).expect("reading a test file"),
            "4096\n",
            "{file}: {text}"
        );
    }
    assert_eq!(said(&host.spillway("undo")), text, "every undo should report it");
    // A journal that is not the state directory's own is rejected; the drain is undone all the
    // same.
    fs::rename(host.path("journal"), host.scratch.0.join("journal")).expect("renaming a directory");
    symlink(host.scratch.0.join("journal"), host.path("journal")).expect("making a link");
    let drained = "{\"spillway_drain\":1,\"phase\":\"drained\",\"is_out\":true,\"since_ms\":1,\"cause\":null,\"request\":null}";
    fs::write(host.path("drain.json"), drained).expect("writing a test file");
    let output = host.spillway("undo");
    let text = said(&output);
    assert!(
        text.contains("journal is a symbolic link")
            && text.contains("the agent undrains this node"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(
        fs::read_to_string(host.path("operator")).expect("reading a test file"),
        "undrain\n"
    );
}

#[test]
fn pipes_and_endless_devices_never_hang() {
    if !is_root("pipes_and_endless_devices_never_hang") {
        return;
    }
    let host = Host::new("hangs");
    host.make();
    let names = [
        "journal/cgroup-1.json",
        "operator",
        "drain.json",
        "lock",
        "drain.lock",
        "spool.redb",
        "operator.new",
        "drain.new",
    ];
    let make = |script: &str| {
        let status = Command::new("sh").args(["-ec", script]).status().expect("running sh");
        assert!(status.success(), "{script}");
    };
    for how in ["mkfifo $0", "mknod $0 c 1 5", "ln -s /dev/zero $0"] {
        for name in names {
            let path = host.path(name);
            make(&format!(
                "rm -f {0}; {1}",
                path.display(),
                how.replace("$0", &path.display().to_string())
            ));
        }
        for _ in 0..2 {
            let output = host.spillway("undo");
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{how}: {text}");
            assert!(text.contains("cgroup-1.json") && text.contains("drain.json"), "{how}: {text}");
        }
        let mut command = run_with(&host.config);
        command.arg("--no-bpf");
        let running = Running::start(command);
        let (code, log) = running.stop();
        assert_eq!(code, Some(0), "{how}: {log}");
        for said in ["nothing will be limited", "regular file"] {
            assert!(log.contains(said), "{how}: {log}");
        }
        // A file of that name is replaced and never opened.
        for (command, exits) in [("drain", 1), ("pause", 0), ("resume", 0)] {
            let output = host.spillway(command);
            assert_eq!(output.status.code(), Some(exits), "{how}: {}", said(&output));
        }
        for entry in fs::read_dir(&host.state_dir).expect("reading a directory").flatten() {
            if entry.file_name().to_string_lossy().contains("unreadable") {
                fs::remove_file(entry.path()).expect("removing a test file");
            }
        }
    }
    for how in ["mkfifo", "zero"] {
        let path = host.scratch.0.join(how);
        match how {
            "mkfifo" => make(&format!("mkfifo {}", path.display())),
            _ => symlink("/dev/zero", &path).expect("making a link"),
        }
        let mut command = agent();
        command.arg("check-config").arg(&path);
        let output = ends(command, "check-config");
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("has to be a regular file"), "{}", said(&output));
    }
}

#[test]
fn links_in_the_state_directory_are_not_followed() {
    if !is_root("links_in_the_state_directory_are_not_followed") {
        return;
    }
    let host = Host::new("links");
    host.make();
    for name in
        ["operator.new", "operator", "paused", "lock", "drain.lock", "drain.new", "spool.redb"]
    {
        symlink(&host.victim, host.path(name)).expect("making a link");
    }
    // No agent runs that could drain.
    for (command, exits) in [("drain", 1), ("pause", 0)] {
        let output = host.spillway(command);
        assert_eq!(output.status.code(), Some(exits), "{command}: {}", said(&output));
        host.is_untouched();
    }
    assert_eq!(fs::read_to_string(host.path("operator")).expect("reading a test file"), "drain\n");
    assert!(fs::symlink_metadata(host.path("operator")).expect("reading metadata").is_file());
    let mut command = run_with(&host.config);
    command.arg("--no-bpf");
    let (code, log) = Running::start(command).stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("is a symbolic link"), "{log}");
    host.is_untouched();
    assert_eq!(host.spillway("resume").status.code(), Some(0));
    host.is_untouched();
    assert!(!host.path("paused").exists());
}

#[test]
fn files_of_another_version_are_kept_and_reported() {
    if !is_root("files_of_another_version_are_kept_and_reported") {
        return;
    }
    let host = Host::new("versions");
    host.make();
    let entry = "{\"spillway_journal\":2,\"boot\":\"another\",\"everything\":[\"else\"]}";
    fs::write(host.path("journal/cgroup-7.json"), entry).expect("writing a test file");
    let drained = "{\"spillway_drain\":9,\"where\":\"out\"}";
    fs::write(host.path("drain.json"), drained).expect("writing a test file");
    let undo = || {
        let output = host.spillway("undo");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        for expected in
            ["format version 2 is not supported", "cgroup-7.json", "drain.json", "hint: "]
        {
            assert!(said(&output).contains(expected), "{expected}: {}", said(&output));
        }
    };
    undo();
    undo();
    let mut command = run_with(&host.config);
    command.arg("--no-bpf");
    let (code, log) = Running::start(command).stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("cgroup-7.json") && log.contains("it is of version 9"), "{log}");
    undo();
    assert_eq!(
        fs::read_to_string(host.path("journal/cgroup-7.json")).expect("reading a test file"),
        entry
    );
    assert_eq!(
        fs::read_to_string(host.path("drain.json.unreadable")).expect("reading a test file"),
        drained
    );
}

#[test]
fn configuration_writable_by_others_is_refused_to_root() {
    if !is_root("configuration_writable_by_others_is_refused_to_root") {
        return;
    }
    let host = Host::new("config");
    let check = |path: &Path| {
        let mut command = agent();
        command.arg("check-config").arg(path);
        ends(command, "check-config")
    };
    assert_eq!(check(&host.config).status.code(), Some(0));
    let link = host.scratch.0.join("link.toml");
    symlink("spillway.toml", &link).expect("making a link");
    assert_eq!(
        check(&link).status.code(),
        Some(0),
        "a link of root's should be followed, as in Kubernetes mounts"
    );
    let refused = |path: &Path, why: &str| {
        let output = check(path);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            said(&output).contains(why) && said(&output).contains("hint: "),
            "{}",
            said(&output)
        );
        assert_eq!(
            ends(
                {
                    let mut run = run_with(path);
                    run.arg("--no-bpf");
                    run
                },
                "run"
            )
            .status
            .code(),
            Some(2)
        );
    };
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("setting a mode")
    };
    set(&host.config, 0o666);
    refused(&host.config, "has mode 0666");
    set(&host.config, 0o644);
    set(&host.scratch.0, 0o777);
    refused(&host.config, "users other than its owner can write to it");
    set(&host.scratch.0, 0o755);
    chown(&host.config, Some(NOBODY), None).expect("changing the owner");
    refused(&host.config, "belongs to user 65534");
    // A user may endanger their own account.
    set(&host.config, 0o666);
    let mut own = agent();
    own.args(["undo", "--config"]).arg(&host.config).uid(NOBODY).gid(NOBODY);
    let output = ends(own, "undo");
    assert!(said(&output).starts_with("nothing to undo"), "{}", said(&output));
}

#[test]
fn secrets_are_checked_before_they_are_needed() {
    let host = Host::new("secrets");
    let text = fs::read_to_string(&host.config).expect("reading a test file");
    let (key, ca) = (host.scratch.0.join("key"), host.scratch.0.join("ca.crt"));
    let text = format!(
        "{text}[act.page.slack]\nurl_file = \"{0}/slack\"\n[act.page.pagerduty]\nrouting_key_file \
        = \"credential:pd\"\n\
         [act.page]\nca_file = \"{1}\"\n",
        host.scratch.0.display(),
        ca.display()
    );
    fs::write(&host.config, text).expect("writing a test file");
    fs::write(&key, "whsec_c2hvcnQ=").expect("writing a test file");
    let check = || {
        let mut command = agent();
        command.arg("check-config").arg(&host.config).env_remove("CREDENTIALS_DIRECTORY");
        ends(command, "check-config")
    };
    let output = check();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for wrong in [
        "act.page.slack.url_file: ",
        "No such file or directory",
        "act.page.webhook.secret_file: ",
        "line 1 is not a key",
        "act.page.ca_file: ",
        "act.page.pagerduty.routing_key_file is not checked",
    ] {
        assert!(text.contains(wrong), "{wrong}: {text}");
    }
    assert!(!text.contains("c2hvcnQ"), "{text}");
    let mut command = run_with(&host.config);
    command.arg("--no-bpf").env_remove("CREDENTIALS_DIRECTORY");
    let (code, log) = Running::start(command).stop();
    assert_eq!(code, Some(0), "watching should not need secrets: {log}");
    for key in
        ["slack.url_file", "webhook.secret_file", "page.ca_file", "pagerduty.routing_key_file"]
    {
        assert!(log.contains(key), "{key}: {log}");
    }
}

#[test]
fn systemds_credentials_and_inherited_descriptors_hold_secrets() {
    let host = Host::new("credentials");
    let credentials = host.scratch.0.join("credentials");
    fs::create_dir(&credentials).expect("making a directory");
    fs::write(credentials.join("slack"), "https://hooks.internal/x\n")
        .expect("writing a test file");
    let text = fs::read_to_string(&host.config).expect("reading a test file");
    let text = text.replace(&host.scratch.0.join("key").display().to_string(), "/proc/self/fd/0");
    fs::write(&host.config, format!("{text}[act.page.slack]\nurl_file = \"credential:slack\"\n"))
        .expect("writing a test file");
    for mode in [0o400, 0o440] {
        fs::set_permissions(credentials.join("slack"), fs::Permissions::from_mode(mode))
            .expect("writing a test file");
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o500))
            .expect("setting a mode");
        let key = fs::File::open(host.scratch.0.join("key")).expect("opening a test file");
        let mut command = agent();
        command
            .arg("check-config")
            .arg(&host.config)
            .env("CREDENTIALS_DIRECTORY", &credentials)
            .stdin(key);
        let output = command.output().expect("starting the agent");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        fs::set_permissions(&credentials, fs::Permissions::from_mode(0o700))
            .expect("setting a mode");
    }
}
