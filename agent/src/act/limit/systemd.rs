//! systemd, asked over the system bus: which unit a cgroup is, and what its limits are to be.
//!
//! What systemd owns, it writes again whenever it sees fit, so that a value which only its cgroup's
//! file has does not last. A property is set for this boot alone, as `systemctl set-property
//! --runtime` does, and leaves a file behind under /run ([`DropIn`]) that goes with the limit. A
//! connection is kept for the next question, of which a limit takes a dozen; one that is broken is
//! made anew, because the bus may have been restarted in between. Failure: where memory is short
//! systemd and the bus wait for their own pages, for half a minute; whoever asks says how long he
//! waits, and [`is_silent`] tells that from a no.

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

/// There exactly where systemd runs this host: sd_booted(3).
const SYSTEMD_DIR: &str = "/run/systemd/system";

/// Where properties that are set for this boot are kept: of units that have a file, and of those
/// that were started without one.
const CONTROL_DIRS: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

const BUS_NAME: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// The manager of this host's units.
struct Systemd {
    runtime: Runtime,
    connection: Connection,
}

/// The connection, as long as it answers. Of the acting thread alone, in effect; a static, because
/// no thread's end should have to end it.
static CONNECTION: Mutex<Option<Systemd>> = Mutex::new(None);

/// Asks over the connection that there is, or a new one where there is none or that one is broken.
fn ask<T>(within: Duration, question: impl AsyncFn(&Connection) -> io::Result<T>) -> io::Result<T> {
    let mut connected = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(systemd) = connected.as_ref() {
        match systemd.ask(within, &question) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            // An answer that comes late would be the next question's.
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

/// Whether an error says that there was no answer, rather than no.
pub fn is_unresponsive(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::NotConnected)
}

/// The unit whose own cgroup this is; `None` of one that belongs to none, or lies below a unit's
/// and is its own affair.
///
/// # Errors
///
/// Returns an error if it cannot be told in time.
pub fn unit_of(cgroup: &str, within: Duration) -> io::Result<Option<String>> {
    ask(within, async |systemd| unit_with(systemd, cgroup).await)
}

/// What a property of a unit is, one that is a number; that of a unit which is gone is not found.
///
/// # Errors
///
/// Returns an error if it cannot be told in time.
pub fn read(unit: &str, property: &str, within: Duration) -> io::Result<String> {
    let number = ask(within, async |systemd| number(systemd, unit, property).await)?;
    number
        .map(|number| number.to_string())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no unit {unit}")))
}

/// Sets it for this boot. What is not answered in time may be done later.
///
/// # Errors
///
/// Returns an error if systemd does not take it, or does not say so in time.
pub fn write(unit: &str, property: &str, value: &str, within: Duration) -> io::Result<()> {
    let number: u64 = value.parse().map_err(io::Error::other)?;
    ask(within, async |systemd| set_number(systemd, unit, property, number).await)
}

/// Whether systemd runs this host.
pub fn is_running() -> bool {
    Path::new(SYSTEMD_DIR).is_dir()
}

impl Systemd {
    fn connect(within: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // The bus is one that has to answer as well.
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

/// A property of a unit's cgroup, `u64::MAX` where it has none; `None` where there is no such unit.
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

/// The file that a property of a unit is kept in for this boot, wherever that is. It is looked for
/// below [`CONTROLS`] alone, in directories that only root may write.
#[derive(Debug)]
pub struct DropIn {
    directories: [PathBuf; 2],
    name: String,
}

impl DropIn {
    /// That of a property of a unit. It is called as the property is where a unit is configured.
    pub fn of(unit: &str, property: &str) -> Self {
        let setting = if property == "CPUQuotaPerSecUSec" { "CPUQuota" } else { property };
        Self {
            directories: CONTROL_DIRS.map(|control| Path::new(control).join(format!("{unit}.d"))),
            name: format!("50-{setting}.conf"),
        }
    }

    /// Whether it is there.
    ///
    /// # Errors
    ///
    /// Returns an error if that cannot be told.
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

    /// Removes it, and its directory where nothing else is in it. systemd goes by what it was told
    /// last, which is the same.
    ///
    /// # Errors
    ///
    /// Returns an error if it is still there.
    pub fn remove(&self) -> io::Result<()> {
        for directory in &self.directories {
            if let Some(opened) = StateDir::open(directory)? {
                opened.remove(&self.name)?;
                // Of another property's file it says that it is not empty.
                let _ = fs::remove_dir(directory);
            }
        }
        Ok(())
    }
}

/// Where a unit's properties of cgroups are, by its kind; `None` of one that has no cgroup.
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

/// Of a call: a connection that broke says neither yes nor no.
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
    io::Error::new(io::ErrorKind::TimedOut, format!("systemd gives no answer within {within:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_cgroup_is_known_by_its_kind() {
        assert_eq!(interface("api.service").as_deref(), Some("org.freedesktop.systemd1.Service"));
        assert_eq!(interface("docker-0a.scope").as_deref(), Some("org.freedesktop.systemd1.Scope"));
        assert_eq!(interface("-.slice").as_deref(), Some("org.freedesktop.systemd1.Slice"));
        assert_eq!(interface("logrotate.timer"), None);
        assert_eq!(interface("nothing"), None);
    }

    #[test]
    fn a_drop_in_is_where_set_property_puts_it() {
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
