//! Cost of a connection with the programs on socket states attached, measured in one thread.
//!
//! The thread's CPU time is compared with and without them. It includes the kernel's path to a
//! program, but not the kernel's own counting of programs, which costs more than some of them do.
//! Programs are attached and detached between turns so short that other load on the machine affects
//! all alike.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, anyhow};
use spillway_agent::sense::{
    AcceptLatency, OutboundSensor, RequestSensor, Sensors, TcpListenerSensor, probes,
};

use crate::{Row, Target, far_client::FarClient, median, tell, thread_cpu_secs};

const TURNS: usize = 100;
/// Connections in a turn, about 5 ms. Each turn is preceded by a fraction of them to warm the
/// caches.
const CONNECTIONS: usize = 2500;

/// `BPF_RAW_TRACEPOINT_OPEN` of include/uapi/linux/bpf.h.
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;

/// Part of `union bpf_attr` that the command reads. The name is only for raw tracepoints; other
/// programs know their target.
#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

/// Measures connections of a server with remote clients, and connections with both ends here.
pub fn rows() -> anyhow::Result<Vec<Row>> {
    tell(&format!("connecting in {TURNS} turns without and with connection tracking"));
    // Runs in a new thread, which moves to its own network namespace.
    let far = || -> anyhow::Result<[Row; 3]> {
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
) -> anyhow::Result<[Row; 3]> {
    let watched = [
        None,
        Some(Programs::load(Watched::Listeners)?),
        Some(Programs::load(Watched::Requests)?),
        Some(Programs::load(Watched::Connects)?),
    ];
    let mut nanos: [Vec<f64>; 4] = Default::default();
    for turn in 0..TURNS {
        // The first in a turn may have an advantage, so the order rotates.
        for nth in (0..4).map(|nth| (nth + turn) % 4) {
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
    let [listeners, requests, all] = rest;
    let rows = [
        ("listeners", listeners),
        ("listeners and requests", requests),
        ("listeners, requests and connects", all),
    ];
    Ok(rows.map(row))
}

/// Probes that are attached to the path of a connection, each with those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    Listeners,
    Requests,
    Connects,
}

/// Programs on the path of a connection, loaded but not attached.
pub struct Programs(Vec<OwnedFd>);

impl Programs {
    /// Loads the programs of these probes.
    pub fn load(watched: Watched) -> anyhow::Result<Self> {
        let mut hooks = vec![TcpListenerSensor::ITER, AcceptLatency::FEXIT];
        if watched >= Watched::Requests {
            hooks.push(RequestSensor::SLOTS);
        }
        if watched >= Watched::Connects {
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

    /// Attaches the programs until the result is dropped.
    pub fn attach(&self) -> anyhow::Result<Vec<OwnedFd>> {
        let attached = self.0.iter().map(attach).collect::<io::Result<Vec<_>>>();
        attached.context("attaching a program a second time")
    }

    /// Returns true if the programs time each connection's wait for accept().
    fn are_exact(&self) -> bool {
        self.0.len() > 1
    }
}

/// Attaches a program to its target until the result is dropped.
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
