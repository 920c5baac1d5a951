//! Machines that run the checks, several at once, and their results as they arrive.
//!
//! Each machine's load says how many run beside each other. A machine that hangs is stopped; one
//! that ends early has failed. In both cases the end of its console is shown.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::report::Checked;
use crate::child::{self, Group};
use crate::progress::Progress;
use crate::{clock, signals};

/// Timeout of all checks of one kernel: they take some minutes under emulation, more if the machine
/// is busy, and one minute on hardware.
const LIMIT: Duration = Duration::from_mins(20);
const TICK: Duration = Duration::from_millis(100);
/// Number of console lines shown if the machine itself fails.
const TAIL_LINES: usize = 25;

/// Checks of a kernel, ready to start.
pub struct Machine {
    /// Name of the kernel.
    pub name: &'static str,
    /// Share of a real processor that it keeps busy, about.
    load: f64,
    command: Command,
    /// File for all output except the results.
    log: PathBuf,
    /// Files to remove once the machine has stopped.
    files: Vec<PathBuf>,
}

/// Size of a machine's drive in bytes. The file behind it is sparse.
const DRIVE_BYTES: u64 = 512 << 20;

/// Rate limits of the drive, like those of a small volume in a cloud: with a drive as fast as this
/// machine's, the emulated CPU would be the bottleneck.
const DRIVE_IOPS: u32 = 100;
const DRIVE_BYTES_PER_SEC: u32 = 16 << 20;

impl Machine {
    /// Creates an emulated machine, which keeps this share of a processor busy; `qemu` is the
    /// emulator, and the size gives the number of CPUs and the memory.
    pub fn emulated(
        (name, load): (&'static str, f64),
        mut qemu: Command,
        (cpus, memory): (u32, &str),
        vmlinuz: &Path,
        image: PathBuf,
        log: PathBuf,
        arguments: &str,
    ) -> Self {
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-nic",
            "none",
        ]);
        // Emulation works everywhere. A later CPU model offers AVX and `rep stosb` for clearing
        // memory, and the emulator runs both more slowly than the code that programs use without
        // them: the checks of processes' memory took 19 s of CPU with Haswell, 12 s with this
        // model. Errors in per-CPU counts show only with several CPUs. The CPUs take turns on one
        // thread: kernels change their own code while other CPUs run it, and with one thread per
        // CPU the emulator occasionally shows a CPU a breakpoint that has been removed.
        qemu.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            "Nehalem",
            "-smp",
            &cpus.to_string(),
            "-m",
            memory,
        ]);
        qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(&image);
        // On a busy machine the emulated timer is late, and a kernel that checks its timer gives
        // up. Mitigations of processors' flaws have nothing to mitigate here, and cost much:
        // separate page tables for the kernel make the emulator flush all translations at every
        // system call. Without the others, and without clearing all memory that the kernel hands
        // out, the checks of a kernel take 97 s of CPU instead of 110. No check depends on them.
        let append = format!(
            "console=ttyS0 panic=-1 loglevel=5 no_timer_check mitigations=off init_on_alloc=0 \
             {arguments}"
        );
        qemu.args(["-append", &append]);
        // The first port is the console, the second carries the results.
        qemu.args(["-serial", &format!("file:{}", console(&log).display()), "-serial", "stdio"]);
        Self { name, load, command: qemu, log, files: vec![image] }
    }

    /// Adds an empty drive, /dev/nvme0n1, for which Debian's kernels need no module. The file
    /// behind it is removed with the machine.
    pub fn with_drive(mut self, file: PathBuf) -> anyhow::Result<Self> {
        let made = File::create(&file).and_then(|drive| drive.set_len(DRIVE_BYTES));
        made.with_context(|| format!("{} cannot be created", file.display()))?;
        let place = file.display();
        let pace = format!(
            "throttling.iops-total={DRIVE_IOPS},throttling.bps-total={DRIVE_BYTES_PER_SEC}"
        );
        self.command.args([
            "-drive",
            &format!("if=none,id=drive,format=raw,cache=unsafe,file={place},{pace}"),
        ]);
        self.command.args(["-device", "nvme,drive=drive,serial=drive"]);
        self.files.push(file);
        Ok(self)
    }

    /// Creates the machine for the host itself, without emulation.
    pub fn host(name: &'static str, checks: &Path, log: PathBuf, arguments: &[String]) -> Self {
        let mut command = Command::new(checks);
        command.args(arguments);
        Self { name, load: 1.0, command, log, files: Vec::new() }
    }
}

/// Running machine.
struct Running {
    name: &'static str,
    load: f64,
    group: Group,
    lines: Receiver<String>,
    checked: Checked,
    start: Instant,
    log: PathBuf,
    files: Vec<PathBuf>,
}

/// Runs machines in this order, in parallel up to this load, and prints each result when it
/// arrives.
pub fn run(machines: Vec<Machine>, load_max: f64) -> anyhow::Result<Vec<(&'static str, Checked)>> {
    let mut waiting = VecDeque::from(machines);
    let mut running: Vec<Running> = Vec::new();
    let mut ended = Vec::new();
    let mut progress = Progress::new();
    let start = clock::now();
    loop {
        while let Some(machine) = waiting.pop_front() {
            let load: f64 = running.iter().map(|one| one.load).sum();
            if !running.is_empty() && load + machine.load > load_max {
                waiting.push_front(machine);
                break;
            }
            running.push(Running::start(machine)?);
        }
        if running.is_empty() {
            progress.clear();
            return Ok(ended);
        }
        signals::check().inspect_err(|_| progress.clear())?;
        let mut still = Vec::new();
        for mut machine in running {
            let end = machine.poll(&mut progress);
            match end {
                Some(how) => ended.push((machine.name, machine.end(how)?)),
                None => still.push(machine),
            }
        }
        running = still;
        let states: Vec<_> =
            running.iter().map(|one| format!("{} {}", one.name, one.checked.state())).collect();
        progress.show(&states.join(", "), start.elapsed(), "");
        thread::sleep(TICK);
    }
}

impl Running {
    fn start(machine: Machine) -> anyhow::Result<Self> {
        let Machine { name, load, mut command, log, files } = machine;
        let errors =
            File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut group = Group::spawn(&mut command)?;
        let (sender, lines) = channel();
        let stdout = group.child().stdout.take().context("standard output is piped")?;
        child::each_line(stdout, move |line| sender.send(line).is_ok());
        Ok(Self {
            name,
            load,
            group,
            lines,
            checked: Checked::default(),
            start: clock::now(),
            log,
            files,
        })
    }

    /// Prints new results; returns how the machine ended, if it did.
    fn poll(&mut self, progress: &mut Progress) -> Option<&'static str> {
        loop {
            match self.lines.try_recv() {
                Ok(line) => {
                    let line = serde_json::from_str(&line).ok();
                    if let Some(result) = line.and_then(|line| self.checked.take(&line)) {
                        progress.clear();
                        eprintln!("  {:<8}  {result}", self.name);
                    }
                }
                Err(TryRecvError::Empty) => {
                    break (self.start.elapsed() > LIMIT).then_some("hung and was stopped");
                }
                Err(TryRecvError::Disconnected) => break Some("ended early"),
            }
        }
    }

    /// Stops the machine if it still runs, and merges its logs.
    fn end(mut self, how: &str) -> anyhow::Result<Checked> {
        self.group.stop(Duration::from_secs(2));
        self.checked.secs = self.start.elapsed().as_secs_f64();
        let console = console(&self.log);
        if let Ok(output) = fs::read(&console) {
            // The emulator's own messages first, then the console: one file contains everything,
            // and ends with the part that matters.
            let text = [fs::read(&self.log).unwrap_or_default(), output].concat();
            fs::write(&self.log, text)
                .with_context(|| format!("{} cannot be written", self.log.display()))?;
            fs::remove_file(&console).ok();
        }
        if !self.checked.done {
            let after = self.checked.secs;
            let tail = tail(&self.log);
            self.checked.broken =
                Some(format!("it {how} after {after:.0} s; last output:\n    {tail}"));
        }
        self.checked.log.clone_from(&self.log);
        Ok(std::mem::take(&mut self.checked))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.stop(Duration::from_secs(2));
        fs::remove_file(console(&self.log)).ok();
        for file in &self.files {
            fs::remove_file(file).ok();
        }
    }
}

fn console(log: &Path) -> PathBuf {
    log.with_extension("console")
}

/// Returns the last lines of a file.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ")
}
