//! What a connection costs with the programs at its sockets' states, all of it in one thread.
//!
//! The thread's CPU time tells, with them against without: the way to a program is a part of it,
//! and the kernel's own counting of programs, which takes more than some of them do, is not. They
//! are attached and taken away between turns so short that whatever else a machine does meets all
//! alike.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, anyhow};
use spillway_agent::sense::{AcceptLatency, OutboundSensor, Sensors, TcpListenerSensor, probes};

use crate::{Row, Target, far_client::FarClient, median, tell, thread_cpu_secs};

const TURNS: usize = 100;
/// Connections in a turn: some 5 ms of them. Before them a part as many, until caches are as warm
/// as they leave them themselves.
const CONNECTIONS: usize = 2500;

/// `BPF_RAW_TRACEPOINT_OPEN` of include/uapi/linux/bpf.h.
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;

/// The part of `union bpf_attr` that it reads. A name is for raw tracepoints alone; others know
/// where they attach to.
#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

/// Measures it, at a server whose clients are elsewhere and with both ends here.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    tell(&format!("connecting in {TURNS} turns without and with what follows connections"));
    // In a thread of its own, since that moves to a network namespace of its own.
    let far = || -> anyhow::Result<[Row; 2]> {
        let mut client = FarClient::start()?;
        measure("at its server's end", Some(Target::AtMost(500.0)), || client.connect())
    };
    let far =
        thread::spawn(far).join().map_err(|_| anyhow!("the far client's thread panicked"))??;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let near = measure("both its ends", None, || {
        let client = TcpStream::connect(addr)?;
        drop((listener.accept()?, client));
        Ok(())
    })?;
    Ok(far.into_iter().chain(near).collect())
}

fn measure(
    ends: &str,
    target: Option<Target>,
    mut connect: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<[Row; 2]> {
    let watched = [
        None,
        Some(Programs::load(Connects::Unwatched)?),
        Some(Programs::load(Connects::Watched)?),
    ];
    let mut nanos: [Vec<f64>; 3] = Default::default();
    for turn in 0..TURNS {
        // Whoever goes first in a turn may be favoured: take turns at that, too.
        for nth in (0..3).map(|nth| (nth + turn) % 3) {
            let attached = watched[nth].as_ref().map(Programs::attach).transpose()?;
            (0..CONNECTIONS / 5).try_for_each(|_| connect())?;
            let before = thread_cpu_secs()?;
            (0..CONNECTIONS).try_for_each(|_| connect())?;
            nanos[nth].push((thread_cpu_secs()? - before) * 1e9 / CONNECTIONS as f64);
            drop(attached);
        }
    }
    let [without, rest @ ..] = nanos;
    let is_exact = watched.iter().flatten().any(Programs::are_exact);
    let exact = if is_exact { "exact waits included" } else { "exact waits refused here" };
    let detail = format!("of {:.1} µs; {exact}", median(&mut without.clone()) / 1e3);
    let row = |(what, with): (&str, Vec<f64>)| {
        let mut longer: Vec<_> =
            with.iter().zip(&without).map(|(with, without)| with - without).collect();
        Row {
            what: format!("a connection, {ends}, takes longer with {what} watched"),
            measured: median(&mut longer),
            unit: "ns",
            target,
            detail: detail.clone(),
        }
    };
    let [listeners, both] = rest;
    Ok([("listeners", listeners), ("listeners and connects", both)].map(row))
}

/// Whether connects are followed beside listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connects {
    Watched,
    Unwatched,
}

/// The programs that connections meet, loaded and not attached.
pub struct Programs(Vec<OwnedFd>);

impl Programs {
    /// Those of the kernel's side that watches listeners alone, or connects as well.
    pub fn load(connects: Connects) -> anyhow::Result<Self> {
        let mut hooks = vec![TcpListenerSensor::ITER, AcceptLatency::FEXIT];
        if connects == Connects::Watched {
            hooks.push(OutboundSensor::STATES);
        }
        let chains = probes();
        let all = chains.iter().flat_map(|chain| chain.fallbacks).map(|fallback| fallback.hook);
        let unwanted: Vec<_> = all.filter(|hook| !hooks.contains(hook)).collect();
        let sensors = Sensors::start_without(&unwanted);
        let met = sensors
            .bpf()
            .programs()
            .filter(|(name, _)| *name == "socket_state" || name.starts_with("accept_exit"));
        let fds = met
            .filter_map(|(_, program)| program.fd().ok())
            .map(|fd| fd.as_fd().try_clone_to_owned());
        Ok(Self(fds.collect::<io::Result<_>>()?))
    }

    /// Attaches them, until what this gives is dropped.
    pub fn attach(&self) -> anyhow::Result<Vec<OwnedFd>> {
        let attached = self.0.iter().map(attach).collect::<io::Result<Vec<_>>>();
        attached.context("a program cannot be attached a second time")
    }

    /// Whether they time each connection's wait for accept().
    fn are_exact(&self) -> bool {
        self.0.len() > 1
    }
}

/// Attaches a program to where it belongs, until what this gives is dropped.
fn attach(program: &OwnedFd) -> io::Result<OwnedFd> {
    let open = RawTracepointOpen { name: 0, prog_fd: program.as_raw_fd() as u32, reserved: 0 };
    // SAFETY: the kernel reads so many bytes of `open`, which lives until it returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_RAW_TRACEPOINT_OPEN,
            &raw const open,
            size_of::<RawTracepointOpen>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
