//! Real file systems that a real process fills: what the sensor says of their space, their inodes
//! and the process.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use spillway_agent::{
    bpf::Probe,
    sense::{CountFact, CountedResource, Fact, FileSystemSensor, Sensors},
};
use spillway_tests::{
    Running, Scratch, Script, Workload, is_root, run_with, sensors_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// Size of the file systems.
const SIZE_BYTES: u64 = 64 * MIB;

/// File system that is unmounted when dropped.
struct Mounted {
    point: PathBuf,
    /// Dropped last.
    _scratch: Scratch,
}

impl Mounted {
    /// Makes an ext4 in a file, and mounts it.
    fn ext4(name: &str, size_bytes: u64) -> Result<Self, String> {
        let scratch = Scratch::make(name);
        let image = scratch.0.join("image");
        let file = fs::File::create(&image).expect("making the image");
        file.set_len(size_bytes).expect("sizing the image");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "5"]).arg(&image))?;
        Self::mount(scratch, Command::new("mount").args(["-o", "loop"]).arg(&image))
    }

    /// Mounts a tmpfs with a size.
    fn tmpfs(name: &str) -> Result<Self, String> {
        let size = format!("size={SIZE_BYTES}");
        let mut command = Command::new("mount");
        Self::mount(Scratch::make(name), command.args(["-t", "tmpfs", "-o", &size]).arg("spillway"))
    }

    fn mount(scratch: Scratch, command: &mut Command) -> Result<Self, String> {
        let point = scratch.0.join("a disk");
        fs::create_dir(&point).expect("making the mount point");
        run(command.arg(&point))?;
        Ok(Self { point, _scratch: scratch })
    }

    fn subject(&self) -> &str {
        self.point.to_str().expect("the path is UTF-8")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, so that it goes even if a failed test has left a process in it.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.point));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}

/// Returns what a reading says of a resource of the file system at `subject`.
fn count(
    sensors: &mut Sensors,
    t: f64,
    resource: &CountedResource,
    subject: &str,
) -> Option<CountFact> {
    let mut seen = Vec::new();
    sensors.scan_processes(t, &mut seen);
    let mut counts = seen.into_iter().filter_map(|one| match one.fact {
        Fact::Count(fact) if fact.resource == *resource && &*fact.subject == subject => Some(fact),
        _ => None,
    });
    let found = counts.next();
    assert_eq!(counts.next(), None, "one fact a file system");
    found
}

/// Fills a file system by a process that writes one file, and another that it deletes.
fn fill(mounted: &Mounted, sensors: &mut Sensors, resource: &CountedResource) {
    let (subject, mut t) = (mounted.subject(), 0.0);
    let before = count(sensors, t, resource, subject).expect("it is counted");
    let limit = before.limit.expect("it has a limit");
    assert!(limit <= SIZE_BYTES && limit > SIZE_BYTES / 4 * 3, "{before:?}");
    assert!(before.used < 8 * MIB && before.culprits.is_empty(), "{before:?}");
    let script = "exec 3>app.log 4>gone.log; rm gone.log; head -c 16M /dev/zero >&3; \
         head -c 8M /dev/zero >&4; sync app.log; echo {}; exec sleep 60";
    let writer =
        Workload::start(Command::new("sh").args(["-c", script]).current_dir(&mounted.point));
    t += 10.0;
    let after = count(sensors, t, resource, subject).expect("it is counted");
    let grown = after.used.saturating_sub(before.used);
    assert!((24 * MIB..26 * MIB).contains(&grown), "{before:?} {after:?}");
    assert_eq!(after.limit, Some(limit));
    let named = |name: &str, bytes: u64| {
        let culprit = after.culprits.iter().find(|culprit| &*culprit.name == name);
        let culprit = culprit.unwrap_or_else(|| panic!("{name} is not in {after:?}"));
        assert_eq!(culprit.pid, Some(writer.pid()), "{after:?}");
        assert!((bytes..bytes + MIB).contains(&culprit.used), "{after:?}");
    };
    named(&format!("{subject}/app.log"), 16 * MIB);
    named(&format!("{subject}/gone.log (deleted)"), 8 * MIB);
    writer.stop();
    fs::remove_file(mounted.point.join("app.log")).expect("removing the file");
    t += 10.0;
    let freed = count(sensors, t, resource, subject).expect("it is counted");
    assert!(freed.used < 8 * MIB && freed.culprits.is_empty(), "{freed:?}");
}

#[test]
fn writer_is_the_culprit_of_the_disk_it_fills() {
    let test = "writer_is_the_culprit_of_the_disk_it_fills";
    if !is_root(test) {
        return;
    }
    let mounted = match Mounted::ext4("disk-filled", SIZE_BYTES) {
        Ok(mounted) => mounted,
        Err(reason) => return skip(test, &reason),
    };
    let Some(mut sensors) = sensors_with(Probe::OpenFiles, test) else { return };
    fill(&mounted, &mut sensors, &CountedResource::DiskBytes);
}

#[test]
fn writer_is_the_culprit_of_the_tmpfs_it_fills() {
    let test = "writer_is_the_culprit_of_the_tmpfs_it_fills";
    if !is_root(test) {
        return;
    }
    let mounted = match Mounted::tmpfs("tmpfs-filled") {
        Ok(mounted) => mounted,
        Err(reason) => return skip(test, &reason),
    };
    let Some(mut sensors) = sensors_with(Probe::OpenFiles, test) else { return };
    fill(&mounted, &mut sensors, &CountedResource::TmpfsBytes);
}

#[test]
fn small_files_use_inodes_until_it_is_unmounted() {
    let test = "small_files_use_inodes_until_it_is_unmounted";
    if !is_root(test) {
        return;
    }
    let mounted = match Mounted::ext4("disk-inodes", SIZE_BYTES)
        .or_else(|_| Mounted::tmpfs("tmpfs-inodes"))
    {
        Ok(mounted) => mounted,
        Err(reason) => return skip(test, &reason),
    };
    let mut sensors = Sensors::without_bpf("the test needs none");
    assert!(sensors.get::<FileSystemSensor>().is_some());
    let (subject, resource) = (mounted.subject().to_owned(), CountedResource::DiskInodes);
    let before = count(&mut sensors, 0.0, &resource, &subject).expect("it is counted");
    for number in 0..1_000 {
        fs::write(mounted.point.join(number.to_string()), "x").expect("writing a file");
    }
    let after = count(&mut sensors, 10.0, &resource, &subject).expect("it is counted");
    assert_eq!((after.used - before.used, after.limit), (1_000, before.limit));
    drop(mounted);
    assert_eq!(count(&mut sensors, 20.0, &resource, &subject), None);
}

/// Claims of exhaustion that an agent has printed about a file system.
fn claims(running: &Running, mounted: &Mounted) -> Vec<Value> {
    let printed = running.printed();
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["verdict"] == "exhaustion" && line["subject"] == mounted.subject())
        .collect()
}

#[test]
fn disk_that_a_log_fills_is_foretold_and_a_rotated_one_not() {
    let test = "disk_that_a_log_fills_is_foretold_and_a_rotated_one_not";
    if !is_root(test) {
        return;
    }
    let disks = Mounted::ext4("log-fills", 512 * MIB)
        .and_then(|filled| Ok((filled, Mounted::tmpfs("log-rotated")?)));
    let (filled, rotated) = match disks {
        Ok(disks) => disks,
        Err(reason) => return skip(test, &reason),
    };
    if sensors_with(Probe::OpenFiles, test).is_none() {
        return;
    }
    let scratch = Scratch::make("disk-agent");
    let mut command = run_with(&scratch.file("spillway.toml", "mode = \"observe\"\n"));
    command.arg("--json");
    let running = Running::start(command);
    // Some 3 MiB a second, which takes a sixth of the disk in half a minute.
    let (log, kept) = (filled.point.join("app.log"), rotated.point.join("log"));
    let writer = Script::start(&format!(
        "while head -c 1572864 /dev/zero; do sleep 0.5; done > '{}'",
        log.display()
    ));
    let _rotation = Script::start(&format!(
        "while :; do for i in 1 2 3 4 5 6 7 8; do head -c 1048576 /dev/zero; sleep 1; done > '{}'; done",
        kept.display()
    ));
    let raised =
        wait_for(Duration::from_secs(150), || claims(&running, &filled).into_iter().next());
    let raised =
        raised.unwrap_or_else(|| panic!("no claim: {}{}", running.printed(), running.log()));
    assert_eq!((&raised["resource"], &raised["state"]), (&"disk_bytes".into(), &"raised".into()));
    let number = |name: &str| raised[name].as_f64().unwrap_or_else(|| panic!("{name}: {raised}"));
    assert!((0.1..0.9).contains(&(number("used") / number("limit"))), "{raised}");
    let per_sec = number("growth_per_sec");
    assert!((0.5..4.0).contains(&(per_sec / MIB as f64)), "{raised}");
    let left_secs = (number("limit") - number("used")) / per_sec;
    assert!((0.9..1.1).contains(&(number("exhaustion_secs") / left_secs)), "{raised}");
    assert_eq!(raised["culprit"]["pid"], writer.pid(), "{raised}");
    let name = raised["culprit"]["name"].as_str().unwrap_or_default();
    assert!(name.ends_with("app.log"), "{raised}");
    assert_eq!(claims(&running, &rotated), [Value::Null; 0], "a rotated log is no exhaustion");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}
