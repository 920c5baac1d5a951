//! The kinds of value a key may take: which reader each goes through, and the field it goes to.
//!
//! A kind holds the address of its field, so that a key cannot be read into a field of another
//! type, and its range, so that the generated file states the bounds that are really checked.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    network::Network,
    pattern::Pattern,
    schema::{Config, Mode},
    service::ServicePattern,
    units,
    url::Plain,
    value::{Fault, FoundValue, or_none},
};
use crate::net::secret::SecretSource;

/// The place in a [`Config`] to which a key's value goes.
type Field<T> = fn(&mut Config) -> &mut T;

/// The values that a key takes, and the field they go to.
pub enum ValueKind {
    /// `"observe"` or `"enforce"`.
    Mode(Field<Mode>),
    /// `true` or `false`.
    Flag(Field<bool>),
    /// A duration within a range.
    Duration(Field<Duration>, RangeInclusive<Duration>),
    /// Durations, each within a range.
    Durations(Field<Vec<Duration>>, RangeInclusive<Duration>),
    /// A size in bytes within a range.
    Size(Field<u64>, RangeInclusive<u64>),
    /// A size within a range, or `"none"`.
    MaybeSize(Field<Option<u64>>, RangeInclusive<u64>),
    /// A number without a unit within a range.
    Number(Field<f64>, RangeInclusive<f64>),
    /// A whole number within a range.
    Count(Field<u32>, RangeInclusive<u32>),
    /// A whole number within a range, or `"none"`.
    MaybeCount(Field<Option<u32>>, RangeInclusive<u32>),
    /// Whole percents within a range.
    Percent(Field<u32>, RangeInclusive<u32>),
    /// Whole percents within a range, or `"none"`.
    MaybePercent(Field<Option<u32>>, RangeInclusive<u32>),
    /// Units, cgroups, programs and pods.
    Patterns(Field<Vec<Pattern>>),
    /// Units, cgroups, pods and listeners.
    Services(Field<Vec<ServicePattern>>),
    /// An absolute path.
    Path(Field<PathBuf>),
    /// An absolute path, or `"none"`.
    MaybePath(Field<Option<PathBuf>>),
    /// Where a secret is, or `"none"`.
    MaybeSecret(Field<Option<SecretSource>>),
    /// An IP address and a port.
    Address(Field<SocketAddr>),
    /// An IP address and a port, or `"none"`.
    MaybeAddress(Field<Option<SocketAddr>>),
    /// IP networks.
    Networks(Field<Vec<Network>>),
    /// Names of hosts.
    HostNames(Field<Vec<String>>),
    /// A web address.
    Url(Field<String>, Plain),
    /// A web address, or `"none"`.
    MaybeUrl(Field<Option<String>>, Plain),
}

impl ValueKind {
    /// Puts what was found into its field of `config`.
    ///
    /// # Errors
    ///
    /// All that is wrong with the value; the field is then as it was.
    pub fn set(&self, config: &mut Config, found: &FoundValue<'_>) -> Result<(), Vec<Fault>> {
        match self {
            Self::Mode(field) => *field(config) = found.mode()?,
            Self::Flag(field) => *field(config) = found.flag()?,
            Self::Duration(field, range) => *field(config) = found.duration(range)?,
            Self::Durations(field, range) => *field(config) = found.durations(range)?,
            Self::Size(field, range) => *field(config) = found.size(range)?,
            Self::MaybeSize(field, range) => {
                *field(config) = found.or_none(|found| found.size(range))?
            }
            Self::Number(field, range) => *field(config) = found.number(range)?,
            Self::Count(field, range) => *field(config) = found.count(range)?,
            Self::MaybeCount(field, range) => {
                *field(config) = found.or_none(|found| found.count(range))?
            }
            Self::Percent(field, range) => *field(config) = found.percent(range)?,
            Self::MaybePercent(field, range) => {
                *field(config) = found.or_none(|found| found.percent(range))?
            }
            Self::Patterns(field) => *field(config) = found.patterns()?,
            Self::Services(field) => *field(config) = found.services()?,
            Self::Path(field) => *field(config) = found.path()?,
            Self::MaybePath(field) => *field(config) = found.or_none(FoundValue::path)?,
            Self::MaybeSecret(field) => *field(config) = found.or_none(FoundValue::secret)?,
            Self::Address(field) => *field(config) = found.address()?,
            Self::MaybeAddress(field) => *field(config) = found.or_none(FoundValue::address)?,
            Self::Networks(field) => *field(config) = found.networks()?,
            Self::HostNames(field) => *field(config) = found.host_names()?,
            Self::Url(field, plain) => *field(config) = found.url(*plain)?,
            Self::MaybeUrl(field, plain) => {
                *field(config) = found.or_none(|found| found.url(*plain))?
            }
        }
        Ok(())
    }

    /// The range as words, `1s to 5m`, for the generated file; `None` where there is none.
    pub fn range_text(&self) -> Option<String> {
        match self {
            Self::Mode(_)
            | Self::Flag(_)
            | Self::Patterns(_)
            | Self::Services(_)
            | Self::Path(_)
            | Self::Address(_)
            | Self::Url(..) => None,
            Self::MaybePath(_)
            | Self::MaybeAddress(_)
            | Self::MaybeSecret(_)
            | Self::MaybeUrl(..) => None,
            Self::Networks(_) | Self::HostNames(_) => None,
            Self::Duration(_, range) | Self::Durations(_, range) => {
                Some(units::range_text(range, units::duration_text))
            }
            Self::Size(_, range) => Some(units::range_text(range, units::size_text)),
            Self::MaybeSize(_, range) => Some(or_none(&units::range_text(range, units::size_text))),
            Self::Number(_, range) => Some(units::range_text(range, units::number_text)),
            Self::Count(_, range) => Some(units::range_text(range, |count| count.to_string())),
            Self::MaybeCount(_, range) => {
                Some(or_none(&units::range_text(range, |count| count.to_string())))
            }
            Self::Percent(_, range) => Some(units::range_text(range, units::percent_text)),
            Self::MaybePercent(_, range) => {
                Some(or_none(&units::range_text(range, units::percent_text)))
            }
        }
    }
}
