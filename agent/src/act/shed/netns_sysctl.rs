//! `net.ipv4.tcp_abort_on_overflow` of another network namespace.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it, so a thread enters the
//! namespace for each access. Numbers of namespaces are given again once they are free, so that a
//! process inside is found first, and the number is checked on the open file.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
};

use super::{
    error::ResetRefusal,
    proc_sockets::{netns_of, pids},
};
use crate::{
    os::{
        capabilities::{self, Capability},
        netns,
        proc_reader::unrestricted,
    },
    sense::{
        CgroupPaths,
        kubepods::{self, CgroupOwner},
    },
};

/// Name of the setting.
pub const NAME: &str = "net.ipv4.tcp_abort_on_overflow";
const FILE: &str = "/proc/sys/net/ipv4/tcp_abort_on_overflow";

/// A network namespace, by its inode number and a process inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignNetns {
    inode: u32,
    pid: u32,
}

/// Change of the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingChange {
    /// The setting was changed.
    Set,
    /// The setting stays, because it was not the opposite of the one wanted.
    Unexpected,
}

impl ForeignNetns {
    /// Finds a process in a namespace: `first`, or any other; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if none is found and some may not be read, so that one may be inside.
    pub fn find(inode: u32, first: u32) -> io::Result<Option<Self>> {
        let mut hidden = None;
        for pid in std::iter::once(first).chain(pids()?) {
            match netns_of(pid) {
                Ok(found) if found == inode => return Ok(Some(Self { inode, pid })),
                Err(error) if !has_ended(&error) => hidden = Some(error),
                _ => {}
            }
        }
        hidden.map_or(Ok(None), Err)
    }

    /// Checks that the namespace is a service's own: neither the host's nor the agent's, and every
    /// process inside belongs to the service's cgroup or to its pod.
    ///
    /// # Errors
    ///
    /// Returns the reason if it is not, or that is unknown.
    pub fn check_owner(self, cgroups: &CgroupPaths, cgroup: &str) -> Result<(), ResetRefusal> {
        let cannot = |pid: u32| {
            ResetRefusal::failed(format!("cannot read the network namespace of pid {pid}"))
        };
        for shared in [std::process::id(), 1] {
            if netns_of(shared).map_err(cannot(shared))? == self.inode {
                return Err(ResetRefusal::NotOwn);
            }
        }
        for pid in pids().map_err(ResetRefusal::failed("cannot list the processes"))? {
            match netns_of(pid) {
                Ok(found) if found == self.inode => {
                    let found = cgroups.of_process(pid);
                    if !belongs(&found, cgroup) {
                        return Err(ResetRefusal::Shared { pid, cgroup: found.to_string() });
                    }
                }
                Err(error) if !has_ended(&error) => return Err(cannot(pid)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether connections that find a queue full are reset.
    ///
    /// # Errors
    ///
    /// Returns an error if the namespace is gone or cannot be entered.
    pub fn resets(self) -> io::Result<bool> {
        self.inside(read)
    }

    /// Sets whether connections are reset, if the opposite is in effect, and reads it back.
    ///
    /// # Errors
    ///
    /// Returns an error if the namespace is gone or cannot be entered, or if the setting stays.
    pub fn set_resets(self, wanted: bool) -> io::Result<SettingChange> {
        self.inside(move || {
            if read()? == wanted {
                return Ok(SettingChange::Unexpected);
            }
            fs::write(FILE, if wanted { "1" } else { "0" })?;
            match read()? == wanted {
                true => Ok(SettingChange::Set),
                false => Err(io::Error::other("the kernel did not take it")),
            }
        })
    }

    fn inside<T: Send + 'static>(
        self,
        call: impl FnOnce() -> io::Result<T> + Send + Sync + Clone + 'static,
    ) -> io::Result<T> {
        // A thread in a Landlock domain may not write there, nor may the threads that it starts.
        unrestricted(move || {
            let file = File::open(format!("/proc/{}/ns/net", self.pid))?;
            if file.metadata()?.ino() as u32 != self.inode {
                return Err(io::ErrorKind::NotFound.into());
            }
            netns::inside(file, call.clone())
        })
    }
}

/// Returns whether the network namespace of this process resets connections that find an accept
/// queue full, instead of dropping their packets; `None` if that cannot be read.
pub fn resets_on_overflow() -> Option<bool> {
    unrestricted(read).ok()
}

/// Returns the reason for which the setting of no service can be changed; `None` if nothing is
/// known to prevent it.
pub fn reset_obstacle() -> Option<String> {
    if !capabilities::has(Capability::SysAdmin).unwrap_or(true) {
        return Some(
            "the agent needs CAP_SYS_ADMIN to enter the service's network namespace".to_owned(),
        );
    }
    // Opened for writing, and not written.
    let opened = unrestricted(|| File::options().write(true).open(FILE).map(drop));
    opened.err().map(|error| format!("cannot write {FILE}: {error}"))
}

fn read() -> io::Result<bool> {
    Ok(fs::read_to_string(FILE)?.trim() != "0")
}

fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Returns whether a cgroup is the service's, below it, or of the same pod.
fn belongs(found: &str, service: &str) -> bool {
    let is_below = || found.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'));
    let is_of_pod = || match kubepods::owner(service) {
        CgroupOwner::Pod(uid) => kubepods::owner(found) == CgroupOwner::Pod(uid),
        CgroupOwner::Host | CgroupOwner::Unnamed => false,
    };
    // Nothing distinguishes services in the root.
    service.len() > 1 && (found == service || is_below()) || is_of_pod()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_below_the_service_and_its_pod_belong_to_it() {
        const POD: &str = "/kubepods/burstable/pod0a1b2c3d-0000-4000-8000-000000000001";
        let (api, sidecar) = (format!("{POD}/api"), format!("{POD}/sidecar"));
        for (found, service, expected) in [
            ("/system.slice/a.service", "/system.slice/a.service", true),
            ("/system.slice/a.service/worker", "/system.slice/a.service", true),
            ("/system.slice/a.service.d", "/system.slice/a.service", false),
            ("/system.slice/b.service", "/system.slice/a.service", false),
            ("/system.slice/b.service", "/", false),
            ("/", "/", false),
            (&sidecar, &api, true),
            (&sidecar.replace("0001", "0002"), &api, false),
            ("/system.slice/b.service", &api, false),
        ] {
            assert_eq!(belongs(found, service), expected, "{found} of {service}");
        }
    }

    #[test]
    fn namespace_of_the_agent_is_never_a_services_own() {
        let pid = std::process::id();
        let inode = netns_of(pid).unwrap();
        let own = ForeignNetns::find(inode, u32::MAX).unwrap().unwrap();
        let cgroups = CgroupPaths::new(crate::sense::Hierarchy::detect());
        let refused = own.check_owner(&cgroups, &cgroups.of_process(pid));
        assert!(matches!(refused, Err(ResetRefusal::NotOwn)), "{refused:?}");
    }
}
