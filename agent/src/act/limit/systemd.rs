//! systemd, asked over the system bus: which unit a cgroup is, and what its limits are to be.
//!
//! What systemd owns, it writes again whenever it sees fit, so that a value which only its cgroup's file has does not last. A property is set
//! for this boot alone, as `systemctl set-property --runtime` does, and leaves a file behind under /run ([`DropIn`]) that goes with the
//! limit. A connection is kept for the next question, of which a limit takes a dozen; one that does not answer is made anew, because the bus may have
//! been restarted in between.

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

/// There exactly where systemd runs this host: sd_booted(3).
const IS_RUNNING: &str = "/run/systemd/system";

/// Where properties that are set for this boot are kept: of units that have a file, and of those that were started without one.
const CONTROLS: [&str; 2] = ["/run/systemd/system.control", "/run/systemd/transient"];

/// It answers within milliseconds, unless it is reading every unit again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

const NAME: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// The manager of this host's units.
struct Systemd {
    runtime: Runtime,
    connection: Connection,
}

/// The connection, as long as it answers. Of the acting thread alone, in effect; a static, because no thread's end should have to end it.
static CONNECTED: Mutex<Option<Systemd>> = Mutex::new(None);

/// Asks over the connection that there is, or a new one where there is none or that one gives no answer.
fn ask<T>(question: impl Fn(&Systemd) -> io::Result<T>) -> io::Result<T> {
    let mut connected = CONNECTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = connected.as_ref().and_then(|systemd| question(systemd).ok()) {
        return Ok(answer);
    }
    // Not to be asked again if it does not answer now.
    *connected = None;
    let systemd = Systemd::connect()?;
    let answer = question(&systemd)?;
    *connected = Some(systemd);
    Ok(answer)
}

/// The unit whose own cgroup this is; `None` of one that belongs to none, or lies below a unit's and is its own affair.
///
/// # Errors
///
/// Where it cannot be told.
pub fn unit_of(cgroup: &str) -> io::Result<Option<String>> {
    ask(|systemd| systemd.unit_of(cgroup))
}

/// What a property of a unit is, one that is a number; that of a unit which is gone is not found.
///
/// # Errors
///
/// Where it cannot be told.
pub fn read(unit: &str, property: &str) -> io::Result<String> {
    let number = ask(|systemd| systemd.number(unit, property))?;
    number
        .map(|number| number.to_string())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no unit {unit}")))
}

/// Sets it for this boot.
///
/// # Errors
///
/// Where systemd does not take it.
pub fn write(unit: &str, property: &str, value: &str) -> io::Result<()> {
    let number = value.parse().map_err(io::Error::other)?;
    ask(|systemd| systemd.set_number(unit, property, number))
}

/// Whether systemd runs this host.
pub fn is_running() -> bool {
    Path::new(IS_RUNNING).is_dir()
}

impl Systemd {
    fn connect() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let build = async {
            // The bus is one that has to answer as well.
            timeout(ANSWERS_WITHIN, connection::Builder::system().method_timeout(ANSWERS_WITHIN).build()).await
        };
        let connection = runtime.block_on(build).map_err(told)?.map_err(told)?;
        Ok(Self { runtime, connection })
    }

    fn unit_of(&self, cgroup: &str) -> io::Result<Option<String>> {
        let Some(path) = self.object::<OwnedObjectPath>("GetUnitByControlGroup", &(cgroup,))? else { return Ok(None) };
        let unit = String::try_from(self.property(&path, "org.freedesktop.systemd1.Unit", "Id")?).map_err(told)?;
        let Some(interface) = interface(&unit) else { return Ok(None) };
        let own = String::try_from(self.property(&path, &interface, "ControlGroup")?).map_err(told)?;
        Ok((own == cgroup).then_some(unit))
    }

    /// A property of a unit's cgroup, `u64::MAX` where it has none; `None` where there is no such unit.
    fn number(&self, unit: &str, property: &str) -> io::Result<Option<u64>> {
        let Some(path) = self.object::<OwnedObjectPath>("GetUnit", &(unit,))? else { return Ok(None) };
        let interface = interface(unit).ok_or_else(|| io::Error::other(format!("{unit} has no cgroup")))?;
        u64::try_from(self.property(&path, &interface, property)?).map(Some).map_err(told)
    }

    fn set_number(&self, unit: &str, property: &str, number: u64) -> io::Result<()> {
        let properties = vec![(property, Variant::from(number))];
        self.call("/org/freedesktop/systemd1", MANAGER, "SetUnitProperties", &(unit, true, properties)).map(drop)
    }

    /// What a method of the manager gives; `None` where there is no such unit.
    fn object<T>(&self, method: &str, body: &(impl serde::Serialize + DynamicType)) -> io::Result<Option<T>>
    where
        T: for<'a> serde::Deserialize<'a> + Type,
    {
        match self.try_call("/org/freedesktop/systemd1", MANAGER, method, body) {
            Ok(message) => message.body().deserialize().map(Some).map_err(told),
            Err(zbus::Error::MethodError(name, ..)) if name.as_str() == NO_SUCH_UNIT => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    fn property(&self, path: &ObjectPath<'_>, interface: &str, name: &str) -> io::Result<OwnedVariant> {
        let message = self.call(path.as_str(), "org.freedesktop.DBus.Properties", "Get", &(interface, name))?;
        message.body().deserialize().map_err(told)
    }

    fn call(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> io::Result<zbus::Message> {
        self.try_call(path, interface, method, body).map_err(told)
    }

    fn try_call(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> zbus::Result<zbus::Message> {
        self.runtime.block_on(self.connection.call_method(Some(NAME), path, Some(interface), method, body))
    }
}

/// The file that a property of a unit is kept in for this boot, wherever that is.
#[derive(Debug)]
pub struct DropIn([PathBuf; 2]);

impl DropIn {
    /// That of a property of a unit. It is called as the property is where a unit is configured.
    pub fn of(unit: &str, property: &str) -> Self {
        let setting = if property == "CPUQuotaPerSecUSec" { "CPUQuota" } else { property };
        Self(CONTROLS.map(|control| Path::new(control).join(format!("{unit}.d/50-{setting}.conf"))))
    }

    /// Whether it is there.
    ///
    /// # Errors
    ///
    /// Where that cannot be told.
    pub fn is_there(&self) -> io::Result<bool> {
        self.0.iter().try_fold(false, |is_there, path| Ok(is_there || fs::exists(path)?))
    }

    /// Removes it, and its directory where nothing else is in it. systemd goes by what it was told last, which is the same.
    ///
    /// # Errors
    ///
    /// Where it is still there.
    pub fn remove(&self) -> io::Result<()> {
        for path in &self.0 {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(directory) = path.parent() {
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
    Some(format!("{NAME}.{kind}"))
}

fn told(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("systemd: {error}"))
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
            let [file, _] = DropIn::of("api.service", property).0;
            assert_eq!(file, Path::new("/run/systemd/system.control/api.service.d").join(name));
        }
    }
}
