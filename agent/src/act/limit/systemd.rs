//! Client of systemd over the system bus: the unit of a cgroup, and its resource properties.
//!
//! systemd rewrites the files of its cgroups at any time, so a value that is only in a file does
//! not last. A property is set for this boot only, like `systemctl set-property --runtime`, which
//! leaves a file below /run ([`DropIn`]) that is removed with the limit. The connection is kept for
//! the next call, of which a limit makes a dozen; a broken one is replaced, because the bus may
//! have been restarted. Failure: if memory is short, systemd and the bus may wait half a minute for
//! their own pages; so every call has a timeout, which [`is_unresponsive`] tells from a refusal.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use zbus::{
    Connection, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, connection,
    zvariant::{DynamicType, Type},
};

use crate::os::StateDir;

/// Directory that exists if and only if systemd runs this host: sd_booted(3).
const SYSTEMD_DIR: &str = "/run/systemd/system";

/// Directories of properties that are set for this boot: of units with a file, and of transient
/// units.
const CONTROL_DIRS: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

const BUS_NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// systemd on this host.
struct Systemd {
    runtime: Runtime,
    connection: Connection,
}

/// Connection, kept while it works. Only the limit thread uses it; it is a static so that it
/// outlives the thread.
static CONNECTION: Mutex<Option<Systemd>> = Mutex::new(None);

/// Asks over the present connection, or over a new one if there is none or it is broken.
fn ask<T>(within: Duration, question: impl AsyncFn(&Connection) -> io::Result<T>) -> io::Result<T> {
    let mut connected = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(systemd) = connected.as_ref() {
        match systemd.ask(within, &question) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            // A late answer would be taken for that to the next question.
            Err(error) if is_unresponsive(&error) => {
                *connected = None;
                return Err(error);
            }
            answered => return answered,
        }
    }
    *connected = None;
    let systemd = Systemd::connect(within)?;
    let answered = systemd.ask(within, &question);
    if !answered.as_ref().is_err_and(is_unresponsive) {
        *connected = Some(systemd);
    }
    answered
}

/// Returns whether an error means that systemd did not answer.
pub fn is_unresponsive(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::NotConnected)
}

/// Returns the unit whose own cgroup this is; `None` if it has none, or is below that of a unit,
/// which manages it by itself.
///
/// # Errors
///
/// Returns an error if systemd does not answer in time.
pub fn unit_of(cgroup: &str, within: Duration) -> io::Result<Option<String>> {
    ask(within, async |systemd| unit_with(systemd, cgroup).await)
}

/// Reads a property that is a number. The error for a unit that is gone is `NotFound`.
///
/// # Errors
///
/// Returns an error if there is no such unit or property, or systemd does not answer in time.
pub fn read(unit: &str, property: &str, within: Duration) -> io::Result<String> {
    let number = ask(within, async |systemd| number(systemd, unit, property).await)?;
    number
        .map(|number| number.to_string())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no unit {unit}")))
}

/// Sets a property for this boot. After a timeout, systemd may still set it later.
///
/// # Errors
///
/// Returns an error if systemd rejects the value or does not answer in time.
pub fn write(unit: &str, property: &str, value: &str, within: Duration) -> io::Result<()> {
    let number: u64 = value.parse().map_err(io::Error::other)?;
    ask(within, async |systemd| set_number(systemd, unit, property, number).await)
}

/// Returns whether systemd runs this host.
pub fn is_running() -> bool {
    Path::new(SYSTEMD_DIR).is_dir()
}

impl Systemd {
    fn connect(within: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // The bus may be as slow as systemd.
        let build = async { timeout(within, connection::Builder::system().build()).await };
        let connection = runtime.block_on(build).map_err(|_| no_answer(within))?;
        let connection = connection.map_err(|error| {
            io::Error::new(io::ErrorKind::NotConnected, format!("systemd's bus: {error}"))
        })?;
        Ok(Self { runtime, connection })
    }

    fn ask<T>(
        &self,
        within: Duration,
        question: impl AsyncFn(&Connection) -> io::Result<T>,
    ) -> io::Result<T> {
        let asked = async { timeout(within, question(&self.connection)).await };
        self.runtime.block_on(asked).unwrap_or_else(|_| Err(no_answer(within)))
    }
}

async fn unit_with(systemd: &Connection, cgroup: &str) -> io::Result<Option<String>> {
    let path = object::<OwnedObjectPath>(systemd, "GetUnitByControlGroup", &(cgroup,)).await?;
    let Some(path) = path else { return Ok(None) };
    let id = property(systemd, &path, "org.freedesktop.systemd1.Unit", "Id").await?;
    let unit = String::try_from(id).map_err(bus_error)?;
    let Some(interface) = interface(&unit) else { return Ok(None) };
    let own = String::try_from(property(systemd, &path, &interface, "ControlGroup").await?)
        .map_err(bus_error)?;
    Ok((own == cgroup).then_some(unit))
}

/// Reads a property of a unit's cgroup, `u64::MAX` if not set; `None` if there is no such unit.
async fn number(systemd: &Connection, unit: &str, name: &str) -> io::Result<Option<u64>> {
    let Some(path) = object::<OwnedObjectPath>(systemd, "GetUnit", &(unit,)).await? else {
        return Ok(None);
    };
    let interface =
        interface(unit).ok_or_else(|| io::Error::other(format!("{unit} has no cgroup")))?;
    u64::try_from(property(systemd, &path, &interface, name).await?).map(Some).map_err(bus_error)
}

async fn set_number(
    systemd: &Connection,
    unit: &str,
    property: &str,
    number: u64,
) -> io::Result<()> {
    let properties = vec![(property, Variant::from(number))];
    call(systemd, MANAGER_PATH, MANAGER_INTERFACE, "SetUnitProperties", &(unit, true, properties))
        .await
        .map(drop)
        .map_err(call_error)
}

/// Calls a method of the manager; `None` if there is no such unit.
async fn object<T>(
    systemd: &Connection,
    method: &str,
    body: &(impl serde::Serialize + DynamicType),
) -> io::Result<Option<T>>
where
    T: for<'a> serde::Deserialize<'a> + Type,
{
    match call(systemd, MANAGER_PATH, MANAGER_INTERFACE, method, body).await {
        Ok(message) => message.body().deserialize().map(Some).map_err(bus_error),
        Err(zbus::Error::MethodError(name, ..)) if name.as_str() == NO_SUCH_UNIT => Ok(None),
        Err(error) => Err(call_error(error)),
    }
}

async fn property(
    systemd: &Connection,
    path: &ObjectPath<'_>,
    interface: &str,
    name: &str,
) -> io::Result<OwnedVariant> {
    let message =
        call(systemd, path.as_str(), "org.freedesktop.DBus.Properties", "Get", &(interface, name))
            .await;
    message.map_err(call_error)?.body().deserialize().map_err(bus_error)
}

async fn call(
    systemd: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &(impl serde::Serialize + DynamicType),
) -> zbus::Result<zbus::Message> {
    systemd.call_method(Some(BUS_NAME), path, Some(interface), method, body).await
}

/// Drop-in file of a unit in which a property is kept for this boot. It is searched only below
/// [`CONTROL_DIRS`], in directories that only root may write.
#[derive(Debug)]
pub struct DropIn {
    directories: [PathBuf; 2],
    name: String,
}

impl DropIn {
    /// Names the file of a property, which has the name of the setting in unit files.
    pub fn of(unit: &str, property: &str) -> Self {
        let setting = if property == "CPUQuotaPerSecUSec" { "CPUQuota" } else { property };
        Self {
            directories: CONTROL_DIRS.map(|control| Path::new(control).join(format!("{unit}.d"))),
            name: format!("50-{setting}.conf"),
        }
    }

    /// Returns whether the file exists.
    ///
    /// # Errors
    ///
    /// Returns an error if a directory cannot be read.
    pub fn exists(&self) -> io::Result<bool> {
        for directory in &self.directories {
            if StateDir::open(directory)?
                .map_or(Ok(false), |directory| directory.holds(&self.name))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the file, and its directory if that is empty then. systemd keeps the value that was
    /// set last, which is the original one.
    ///
    /// # Errors
    ///
    /// Returns an error if the file may still exist.
    pub fn remove(&self) -> io::Result<()> {
        for directory in &self.directories {
            if let Some(opened) = StateDir::open(directory)? {
                opened.remove(&self.name)?;
                // Fails if another property has a file in it.
                let _ = fs::remove_dir(directory);
            }
        }
        Ok(())
    }
}

/// Returns the bus interface with the cgroup properties of a unit's kind; `None` if it has none.
fn interface(unit: &str) -> Option<String> {
    const KINDS: [(&str, &str); 6] = [
        ("service", "Service"),
        ("scope", "Scope"),
        ("slice", "Slice"),
        ("socket", "Socket"),
        ("mount", "Mount"),
        ("swap", "Swap"),
    ];
    let (_, suffix) = unit.rsplit_once('.')?;
    let (_, kind) = KINDS.iter().find(|(name, _)| *name == suffix)?;
    Some(format!("{BUS_NAME}.{kind}"))
}

/// Converts the error of a call: a broken connection is no answer.
fn call_error(error: zbus::Error) -> io::Error {
    match error {
        zbus::Error::InputOutput(error) => {
            io::Error::new(io::ErrorKind::NotConnected, format!("systemd's bus: {error}"))
        }
        error => bus_error(error),
    }
}

fn bus_error(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("systemd: {error}"))
}

fn no_answer(within: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("systemd does not answer within {within:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_with_a_cgroup_are_recognized_by_kind() {
        assert_eq!(interface("api.service").as_deref(), Some("org.freedesktop.systemd1.Service"));
        assert_eq!(interface("docker-0a.scope").as_deref(), Some("org.freedesktop.systemd1.Scope"));
        assert_eq!(interface("-.slice").as_deref(), Some("org.freedesktop.systemd1.Slice"));
        assert_eq!(interface("logrotate.timer"), None);
        assert_eq!(interface("nothing"), None);
    }

    #[test]
    fn drop_in_path_is_that_of_set_property() {
        for (property, name) in [
            ("MemoryHigh", "50-MemoryHigh.conf"),
            ("MemorySwapMax", "50-MemorySwapMax.conf"),
            ("CPUQuotaPerSecUSec", "50-CPUQuota.conf"),
        ] {
            let drop_in = DropIn::of("api.service", property);
            assert_eq!(
                drop_in.directories[0],
                Path::new("/run/systemd/system.control/api.service.d")
            );
            assert_eq!(drop_in.name, name);
        }
    }
}
