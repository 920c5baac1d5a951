//! Kinds of value that an option may have: how each is read from TOML and written as TOML.

use std::{
    marker::PhantomData, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use super::{
    choice::Choice,
    network::Network,
    pattern::Pattern,
    service::ServicePattern,
    units::{duration_text, number_text, percent_text, range_text, size_text},
    url::Plain,
    value::{Fault, FoundValue, NONE, or_none},
};
use crate::net::secret::SecretSource;

/// A kind of value.
pub trait Kind: Sync {
    /// Type of the value in the configuration.
    type Value;

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// Returns everything that is wrong with the value.
    fn read(&self, found: &FoundValue<'_>) -> Result<Self::Value, Vec<Fault>>;

    /// Writes a value as TOML, as [`Kind::read`] reads it.
    fn write(&self, value: &Self::Value) -> String;

    /// Describes the range of values, such as `1s to 5m`; `None` if there is none.
    fn range(&self) -> Option<String> {
        None
    }

    /// Returns whether the value is the path of a secret, and may by mistake be the secret itself.
    fn is_secret(&self) -> bool {
        false
    }
}

/// One of a few named values.
pub struct OneOf<T>(pub PhantomData<T>);

impl<T: Choice> Kind for OneOf<T> {
    type Value = T;

    fn read(&self, found: &FoundValue<'_>) -> Result<T, Vec<Fault>> {
        Ok(found.choice()?)
    }

    fn write(&self, value: &T) -> String {
        quoted(value.name())
    }
}

/// A name of a group, node, zone or user.
pub struct Name;

impl Kind for Name {
    type Value = String;

    fn read(&self, found: &FoundValue<'_>) -> Result<String, Vec<Fault>> {
        Ok(found.name()?)
    }

    fn write(&self, name: &String) -> String {
        quoted(name)
    }
}

/// `true` or `false`.
pub struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(&self, found: &FoundValue<'_>) -> Result<bool, Vec<Fault>> {
        Ok(found.flag()?)
    }

    fn write(&self, flag: &bool) -> String {
        flag.to_string()
    }
}

/// A duration within a range.
pub struct DurationIn(pub RangeInclusive<Duration>);

impl Kind for DurationIn {
    type Value = Duration;

    fn read(&self, found: &FoundValue<'_>) -> Result<Duration, Vec<Fault>> {
        Ok(found.duration(&self.0)?)
    }

    fn write(&self, duration: &Duration) -> String {
        quoted(duration_text(*duration))
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, duration_text))
    }
}

/// Durations, each within a range.
pub struct DurationsIn(pub RangeInclusive<Duration>);

impl Kind for DurationsIn {
    type Value = Vec<Duration>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<Duration>, Vec<Fault>> {
        found.durations(&self.0)
    }

    fn write(&self, durations: &Vec<Duration>) -> String {
        array(durations.iter().map(|duration| duration_text(*duration)))
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, duration_text))
    }
}

/// A size in bytes within a range.
pub struct SizeIn(pub RangeInclusive<u64>);

impl Kind for SizeIn {
    type Value = u64;

    fn read(&self, found: &FoundValue<'_>) -> Result<u64, Vec<Fault>> {
        Ok(found.size(&self.0)?)
    }

    fn write(&self, bytes: &u64) -> String {
        quoted(size_text(*bytes))
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, size_text))
    }
}

/// A number without a unit within a range.
pub struct NumberIn(pub RangeInclusive<f64>);

impl Kind for NumberIn {
    type Value = f64;

    fn read(&self, found: &FoundValue<'_>) -> Result<f64, Vec<Fault>> {
        Ok(found.number(&self.0)?)
    }

    fn write(&self, number: &f64) -> String {
        number_text(*number)
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, number_text))
    }
}

/// A whole number within a range.
pub struct CountIn(pub RangeInclusive<u32>);

impl Kind for CountIn {
    type Value = u32;

    fn read(&self, found: &FoundValue<'_>) -> Result<u32, Vec<Fault>> {
        Ok(found.count(&self.0)?)
    }

    fn write(&self, count: &u32) -> String {
        count.to_string()
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, |count| count.to_string()))
    }
}

/// A whole number of percent within a range.
pub struct PercentIn(pub RangeInclusive<u32>);

impl Kind for PercentIn {
    type Value = u32;

    fn read(&self, found: &FoundValue<'_>) -> Result<u32, Vec<Fault>> {
        Ok(found.percent(&self.0)?)
    }

    fn write(&self, percent: &u32) -> String {
        quoted(percent_text(*percent))
    }

    fn range(&self) -> Option<String> {
        Some(range_text(&self.0, percent_text))
    }
}

/// Units, cgroups, programs and pods.
pub struct Patterns;

impl Kind for Patterns {
    type Value = Vec<Pattern>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<Pattern>, Vec<Fault>> {
        found.patterns()
    }

    fn write(&self, patterns: &Vec<Pattern>) -> String {
        array(patterns.iter().map(Pattern::to_string))
    }
}

/// Units, cgroups, pods and listeners.
pub struct ServiceList;

impl Kind for ServiceList {
    type Value = Vec<ServicePattern>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<ServicePattern>, Vec<Fault>> {
        found.services()
    }

    fn write(&self, services: &Vec<ServicePattern>) -> String {
        array(services.iter().map(ServicePattern::to_string))
    }
}

/// An absolute path.
pub struct AbsolutePath;

impl Kind for AbsolutePath {
    type Value = PathBuf;

    fn read(&self, found: &FoundValue<'_>) -> Result<PathBuf, Vec<Fault>> {
        Ok(found.path()?)
    }

    fn write(&self, path: &PathBuf) -> String {
        quoted(path.display())
    }
}

/// The file or credential that has a secret.
pub struct SecretFile;

impl Kind for SecretFile {
    type Value = SecretSource;

    fn read(&self, found: &FoundValue<'_>) -> Result<SecretSource, Vec<Fault>> {
        Ok(found.secret()?)
    }

    fn write(&self, secret: &SecretSource) -> String {
        quoted(secret)
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// An IP address and a port.
pub struct Address;

impl Kind for Address {
    type Value = SocketAddr;

    fn read(&self, found: &FoundValue<'_>) -> Result<SocketAddr, Vec<Fault>> {
        Ok(found.address()?)
    }

    fn write(&self, address: &SocketAddr) -> String {
        quoted(address)
    }
}

/// IP networks.
pub struct Networks;

impl Kind for Networks {
    type Value = Vec<Network>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<Network>, Vec<Fault>> {
        found.networks()
    }

    fn write(&self, networks: &Vec<Network>) -> String {
        array(networks.iter().map(Network::to_string))
    }
}

/// Host names.
pub struct HostNames;

impl Kind for HostNames {
    type Value = Vec<String>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<String>, Vec<Fault>> {
        found.host_names()
    }

    fn write(&self, names: &Vec<String>) -> String {
        array(names.iter().cloned())
    }
}

/// A URL.
pub struct Url(pub Plain);

impl Kind for Url {
    type Value = String;

    fn read(&self, found: &FoundValue<'_>) -> Result<String, Vec<Fault>> {
        Ok(found.url(self.0)?)
    }

    fn write(&self, url: &String) -> String {
        quoted(url)
    }
}

/// URLs.
pub struct Urls(pub Plain);

impl Kind for Urls {
    type Value = Vec<String>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Vec<String>, Vec<Fault>> {
        found.urls(self.0)
    }

    fn write(&self, urls: &Vec<String>) -> String {
        array(urls.iter().cloned())
    }
}

/// Another kind, or `"none"`.
pub struct OrNone<K>(pub K);

impl<K: Kind> Kind for OrNone<K> {
    type Value = Option<K::Value>;

    fn read(&self, found: &FoundValue<'_>) -> Result<Self::Value, Vec<Fault>> {
        found.or_none(|found| self.0.read(found))
    }

    fn write(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| quoted(NONE), |value| self.0.write(value))
    }

    fn range(&self) -> Option<String> {
        self.0.range().map(|range| or_none(&range))
    }

    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
}

/// Writes a string as TOML, which has all escapes of JSON.
fn quoted(text: impl ToString) -> String {
    serde_json::Value::from(text.to_string()).to_string()
}

/// Writes strings as a TOML array.
fn array(texts: impl Iterator<Item = String>) -> String {
    format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "))
}
