//! The privileges that an agent drops, the memory that it needs to start, its reactions to signals,
//! and its log on a full disk.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use spillway_agent::sense::{Hierarchy, Sensors};
use spillway_tests::{
    ANY_PORT, OwnCgroup, Running, Scratch, agent, find_metric, http_get, is_root, run_with, skip,
    wait_for,
};

const SOON: Duration = Duration::from_secs(5);

/// Memory limit under which an agent must be able to start.
const STARTS_IN_BYTES: u64 = 48 << 20;

#[test]
fn agent_starts_within_48_mib_with_every_probe() {
    let test = "agent_starts_within_48_mib_with_every_probe";
    if !is_root(test) {
        return;
    }
    let hierarchy = Hierarchy::detect();
    let Some(mount) = hierarchy.mount() else {
        return skip(test, "no cgroup file system is mounted");
    };
    let cgroup = match OwnCgroup::make(mount, "starts") {
        Ok(cgroup) => cgroup,
        Err(error) => return skip(test, &error.to_string()),
    };
    let limit = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    if let Err(error) = cgroup.set(limit, STARTS_IN_BYTES) {
        return skip(test, &format!("no memory controller: {error}"));
    }
    let probes = |doctor: &mut Command| {
        let output = doctor.output().expect("the agent runs");
        let found: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
                panic!("{error}: {:?}: {}", output.status, String::from_utf8_lossy(&output.stderr))
            });
        found["probes"].clone()
    };
    // A debug build has 70 MB of code, which is charged to the first cgroup that reads it. This one
    // is outside the limit.
    let free = probes(agent().args(["doctor", "--json"]));
    let mut limited = agent();
    limited.args(["doctor", "--json"]);
    assert_eq!(probes(cgroup.admit(&mut limited).expect("the process can join the cgroup")), free);

    let scratch = Scratch::make("starts");
    let mut command = run_with(&scratch.file("spillway.toml", &config(&scratch)));
    cgroup.admit(&mut command).expect("the process can join the cgroup");
    let (code, log) = Running::start(command).stop();
    assert_eq!(code, Some(0), "{log}");
    if let Ok(peak) =
        cgroup.get(if hierarchy.is_v1() { "memory.max_usage_in_bytes" } else { "memory.peak" })
    {
        println!("at most {} MiB", peak.trim().parse::<u64>().unwrap_or_default() >> 20);
    }
}

/// Unit file that is shipped with the agent, followed by its drop-ins.
const UNIT_FILE: &str = include_str!("../../../configs/systemd/spillway.service");
const ENFORCE: &str = include_str!("../../../configs/systemd/enforce.conf");
const WITHOUT_BPF: &str = include_str!("../../../configs/systemd/without-bpf.conf");

/// Exposures that `systemd-analyze security` of systemd 252 reports with each set of drop-ins, as
/// in configs/README.md, "Privileges". Newer versions of systemd weigh other settings too.
const EXPOSURES: [(&[&str], f64); 4] =
    [(&[], 2.0), (&[ENFORCE], 2.6), (&[WITHOUT_BPF], 2.6), (&[ENFORCE, WITHOUT_BPF], 3.2)];

#[test]
fn unit_exposure_is_at_most_as_documented() {
    let test = "unit_exposure_is_at_most_as_documented";
    for (drop_ins, max) in EXPOSURES {
        let scratch = Scratch::make("exposed");
        scratch.file("spillway.service", UNIT_FILE);
        fs::create_dir(scratch.0.join("spillway.service.d")).expect("the directory can be created");
        for (number, drop_in) in drop_ins.iter().enumerate() {
            scratch.file(&format!("spillway.service.d/{number}.conf"), drop_in);
        }
        let mut analyse = Command::new("systemd-analyze");
        analyse.args(["security", "--offline=true", "--no-pager", "spillway.service"]);
        // The colon adds the default path with systemd's own units.
        let path = format!("{}:", scratch.0.display());
        let Ok(output) = analyse.env("SYSTEMD_UNIT_PATH", path).output() else {
            return skip(test, "systemd-analyze is not installed");
        };
        let analysis = String::from_utf8_lossy(&output.stdout);
        let level = analysis.rsplit_once("exposure level for spillway.service: ");
        let level = level
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok())
            .unwrap_or_else(|| panic!("no exposure level in {analysis}"));
        assert!(level <= max, "the exposure is {level}, over {max}, with {drop_ins:?}: {analysis}");
    }
}

/// Compares with `/proc/PID/exe`, which needs CAP_SYS_PTRACE.
#[test]
fn programs_listed_by_bpf_match_proc() {
    let test = "programs_listed_by_bpf_match_proc";
    if !is_root(test) {
        return;
    }
    let sensors = Sensors::start();
    let Some(list) = sensors.program_list() else { return skip(test, "BPF lists no programs") };
    let scratch = Scratch::make("programs");
    let deep = (0..40).fold(scratch.0.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).expect("the directory can be created");
    let (program, gone) = (deep.join("sleep"), scratch.0.join("gone"));
    let sleep = which("sleep");
    for path in [&program, &gone] {
        fs::copy(&sleep, path).expect("the program can be copied");
    }
    let run = |path: &Path| Ends(Command::new(path).arg("60").spawn().expect("the program runs"));
    // A deep path, a deleted file, and a file on its own file system.
    let (deep, deleted) = (run(&program), run(&gone));
    fs::remove_file(&gone).expect("the file can be removed");
    let mount = scratch.0.join("mount");
    fs::create_dir(&mount).expect("the directory can be created");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mount).status();
    let _disk = SmallDisk(&mount);
    assert!(mounted.is_ok_and(|status| status.success()), "no file system can be mounted");
    fs::copy(&sleep, mount.join("sleep")).expect("the program can be copied");
    let elsewhere = run(&mount.join("sleep"));

    let pids: Vec<u32> = processes();
    // A process that calls exec meanwhile, as those of parallel tests do, has no single correct
    // answer.
    let before = programs_in_proc(&pids);
    let listed = list.programs(&pids).expect("BPF lists programs");
    let after = programs_in_proc(&pids);
    let mut compared = 0;
    for (pid, program) in before.iter().filter(|(pid, program)| after.get(pid) == Some(program)) {
        assert_eq!(listed.get(pid), Some(program), "pid {pid}");
        compared += 1;
    }
    assert!(compared > 4, "{compared} processes");
    let expected = [(&deep, &program), (&deleted, &gone), (&elsewhere, &mount.join("sleep"))];
    for (ends, path) in expected {
        assert_eq!(listed.get(&ends.0.id()), Some(path));
    }
    assert!(
        list.programs(&[u32::MAX >> 1]).expect("BPF lists programs").is_empty(),
        "a program of an unused pid"
    );
}

/// Reads the program of each process that has one.
fn programs_in_proc(pids: &[u32]) -> HashMap<u32, PathBuf> {
    let program = |pid: &u32| {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let path = path.as_os_str().as_bytes();
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        Some((*pid, PathBuf::from(OsString::from_vec(path.to_vec()))))
    };
    pids.iter().filter_map(program).collect()
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Finds a program in the search path and resolves links.
fn which(name: &str) -> PathBuf {
    let directories = ["/usr/bin", "/bin"].iter();
    let found = directories.map(|path| Path::new(path).join(name)).find(|path| path.exists());
    fs::canonicalize(found.expect("the program is installed")).expect("the link resolves")
}

#[test]
fn cap_bpf_and_cap_perfmon_are_enough_for_every_probe() {
    let test = "cap_bpf_and_cap_perfmon_are_enough_for_every_probe";
    if !is_root(test) {
        return;
    }
    let with = |capabilities: &str| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--bounding-set=-all,{capabilities}"), "--inh-caps=-all"]);
        command.arg(agent().get_program()).args(["doctor", "--json"]);
        let output = command.output().ok()?;
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .ok()
            .map(|found| found["probes"].clone())
    };
    let Some(all) = with("+all") else { return skip(test, "setpriv is not installed") };
    assert_eq!(with("+bpf,+perfmon"), Some(all.clone()));
    let unit = UNIT_FILE
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .expect("the unit has a bounding set");
    let unit = unit
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()));
    assert_eq!(
        with(&unit.collect::<Vec<_>>().join(",")),
        Some(all),
        "with the capabilities of the unit"
    );
}

fn config(scratch: &Scratch) -> String {
    format!("{ANY_PORT}[record]\nstate_dir = \"{}\"\n", scratch.0.join("state").display())
}

#[test]
fn every_thread_drops_unneeded_privileges() {
    let scratch = Scratch::make("confined");
    let running = Running::start(run_with(&scratch.file("spillway.toml", &config(&scratch))));
    std::thread::sleep(Duration::from_millis(500));
    let threads = fs::read_dir(format!("/proc/{}/task", running.pid())).expect("the agent runs");
    let mut seen = 0;
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).expect("the agent runs");
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.lines().any(|found| found == line), "no {line} in {status}");
        }
        seen += 1;
    }
    assert!(seen >= 3, "{seen} threads");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn invalid_file_at_sighup_changes_nothing() {
    let scratch = Scratch::make("hangup");
    let good = config(&scratch);
    let file = scratch.file("spillway.toml", &good);
    let running = Running::start(run_with(&file));
    let hangup = |text: &str, wanted: &str| {
        fs::write(&file, text).expect("the configuration can be written");
        running.signal(libc::SIGHUP);
        let logged = wait_for(SOON, || running.log().contains(wanted).then_some(()));
        assert!(logged.is_some(), "no {wanted} in {}", running.log());
        assert!(running.get("/healthz").starts_with("HTTP/1.1"), "the agent no longer serves");
    };
    hangup("[decide]\ncooldwon = \"1h\"\n[sense]\ninterval = 5\n", "cooldwon");
    assert!(running.log().contains("interval"), "an error is missing: {}", running.log());
    hangup(&format!("{good}[decide]\ncooldown = \"2h\"\n"), "SIGHUP: reloaded");
    hangup(
        &good.replace("[record]", "[sense]\ninterval = \"900ms\"\n[record]"),
        "settings=[sense]",
    );
    let (code, log) = running.stop_by(libc::SIGQUIT);
    assert_eq!(code, Some(0), "{log}");
}

/// File system of 64 KiB that is unmounted at the end of the test.
struct SmallDisk<'a>(&'a Path);

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Child that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn log_resumes_once_a_full_disk_has_room() {
    let test = "log_resumes_once_a_full_disk_has_room";
    if !is_root(test) {
        return;
    }
    let scratch = Scratch::make("full");
    let directory = scratch.0.join("disk");
    fs::create_dir(&directory).expect("the directory can be created");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(&directory)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip(test, "no file system can be mounted");
    }
    let _disk = SmallDisk(&directory);
    let (log, filler) = (directory.join("log"), directory.join("filler"));
    let config = scratch.file("spillway.toml", &config(&scratch));
    let mut command = run_with(&config);
    let log_file =
        File::options().append(true).create(true).open(&log).expect("the log can be created");
    command.args(["--no-bpf"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
    let running = Ends(command.spawn().expect("the agent runs"));
    let says = |wanted: &str| {
        let said =
            wait_for(SOON, || fs::read_to_string(&log).ok().filter(|log| log.contains(wanted)));
        said.unwrap_or_else(|| panic!("no {wanted} in {:?}", fs::read_to_string(&log)))
    };
    let hangup = || {
        // SAFETY: signals a child that has not been reaped yet.
        assert_eq!(unsafe { libc::kill(running.0.id() as i32, libc::SIGHUP) }, 0);
    };
    says("spillway is watching");
    // Fills the disk, and the rest of the log's last page, to the last byte.
    let _ = fs::write(&filler, vec![0; 64 << 10]);
    let rest = 4096 - fs::metadata(&log).expect("the log exists").len() % 4096;
    let mut padding = File::options().append(true).open(&log).expect("the log exists");
    std::io::Write::write_all(&mut padding, &vec![b'.'; rest as usize])
        .expect("the last page has room");
    let full = fs::metadata(&log).expect("the log exists").len();
    hangup();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::metadata(&log).expect("the log exists").len(), full, "the full log grew");
    fs::remove_file(&filler).expect("the file can be removed");
    hangup();
    says("SIGHUP: reloaded");
    let said = says("lines could not be written to stderr and were dropped");
    let (_, listen) = said.split_once("listen=").expect("the log has the address");
    let listen = listen.split_whitespace().next().and_then(|addr| addr.parse().ok());
    let dropped = wait_for(SOON, || {
        let metrics = http_get(listen.expect("the address is valid"), "/metrics").ok()?;
        find_metric(&metrics, "spillway_lines_dropped_total{stream=\"stderr\"}")
            .filter(|lines| *lines > 0.0)
    });
    assert!(dropped.is_some(), "dropped lines are not counted");
}
