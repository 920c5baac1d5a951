//! Lists of the TCP sockets that processes hold, in every network namespace, by a pass of BPF.
//!
//! Other sources need more privilege: `sock_diag` has to enter each namespace, and the owners are
//! in `/proc/PID/fd`. A drain counts its connections through the list, and listeners that found no
//! room in the map are read from it. Failure: without BPF there is no list, and `sock_diag` is used
//! as far as the agent may.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::Arc,
};

use spillway_ebpf::{SocketSample, TCP_LISTEN};

use super::CgroupPaths;
use crate::bpf::{AttachContext, IterHandle, Unavailable, pass};

/// Lists sockets. Any thread may do so at any time.
#[derive(Debug)]
pub struct SocketList {
    iter: IterHandle,
}

impl SocketList {
    /// Attaches the iterator. Its offsets belong to the probe of TCP listeners.
    pub(super) fn attach(context: &mut AttachContext<'_>) -> Result<Self, Unavailable> {
        Ok(Self { iter: context.iter("list_sockets", "task_file")? })
    }

    /// Passes on every socket that listens or is established, once for each process that holds it,
    /// in order of pid. Returns the number of bytes at the end that were not a complete sample.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass failed.
    pub fn read(&self, each: impl FnMut(SocketSample)) -> io::Result<usize> {
        pass(&self.iter, &mut Vec::new(), each)
    }
}

/// Process that holds a socket, and its cgroup.
pub(super) struct SocketOwner {
    pub(super) pid: u32,
    pub(super) cgroup: Arc<str>,
}

/// Listeners of one list, each once, and the established connections if they are wanted.
pub(super) struct Listed {
    /// Listeners in order of their namespace.
    pub(super) listeners: Vec<SocketSample>,
    /// Owners of the listeners by inode.
    pub(super) owners: HashMap<u64, SocketOwner>,
    /// Namespace and port of each established connection by socket address.
    pub(super) established: HashMap<u64, (u32, u16)>,
    /// Number of bytes at the end that were not a complete sample.
    pub(super) rest: usize,
}

impl Listed {
    /// Lists the listeners of every namespace, and the established connections for whose namespace
    /// `wants_established` returns true.
    pub(super) fn read(
        list: &SocketList,
        cgroups: &CgroupPaths,
        wants_established: impl Fn(u32) -> bool,
    ) -> io::Result<Self> {
        let mut listed = Self {
            listeners: Vec::new(),
            owners: HashMap::new(),
            established: HashMap::new(),
            rest: 0,
        };
        let mut latest = None;
        listed.rest = list.read(|sample| {
            if sample.state == TCP_LISTEN {
                listed.add_listener(sample, &mut latest, cgroups);
            } else if wants_established(sample.netns) {
                listed.established.insert(sample.sock, (sample.netns, sample.port));
            }
        })?;
        listed.listeners.sort_by_key(|sample| sample.netns);
        Ok(listed)
    }

    /// Adds a listener, unless another process that holds it came before: of a master and its
    /// workers the master is the owner. `latest` caches the cgroup of the latest process.
    fn add_listener(
        &mut self,
        sample: SocketSample,
        latest: &mut Option<(u32, Arc<str>)>,
        cgroups: &CgroupPaths,
    ) {
        let Entry::Vacant(place) = self.owners.entry(sample.inode) else { return };
        let cgroup = match latest {
            Some((pid, cgroup)) if *pid == sample.pid => cgroup.clone(),
            _ => cgroups.of_process(sample.pid),
        };
        *latest = Some((sample.pid, cgroup.clone()));
        place.insert(SocketOwner { pid: sample.pid, cgroup });
        self.listeners.push(sample);
    }
}
