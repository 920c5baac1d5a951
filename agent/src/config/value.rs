//! Readers of single values.
//!
//! A message names the option and quotes the value as the operator wrote it; the hint shows a form
//! that is accepted. Values are never coerced: a bare `5` is not five seconds, and `"240"` is not a
//! number.

use std::{
    fmt,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{Spanned, de::DeValue};

use super::{
    choice::Choice,
    network::{self, Network},
    pattern::Pattern,
    service::ServicePattern,
    units::{self, UnitError, range_text},
    url::{self, Plain},
};
use crate::net::secret::SecretSource;

/// Maximum length of a quoted value or line in a message, in characters: enough to recognize it,
/// and at most a line.
const QUOTE_CHARS_MAX: usize = 60;

/// Maximum length of a name: that of a host's name.
const NAME_CHARS_MAX: usize = 253;

/// Name of a kind of value, and examples of it.
struct ValueForm {
    noun: &'static str,
    hint: &'static str,
}

const NAME: ValueForm = ValueForm {
    noun: "a name",
    hint: r#"letters, digits, dots, dashes and underscores, in quotes: "web", "eu-1a""#,
};
const FLAG: ValueForm = ValueForm { noun: "a boolean", hint: "true or false, without quotes" };
const PATH: ValueForm =
    ValueForm { noun: "a path", hint: r#"an absolute path in quotes: "/var/lib/spillway""# };
const DURATION: ValueForm = ValueForm {
    noun: "a duration",
    hint: r#"a number with its unit in quotes: "5s", "100ms", "10m", "2h", "1h30m""#,
};
const DURATIONS: ValueForm = ValueForm {
    noun: "an array of durations",
    hint: r#"durations in brackets, shortest first: ["1m", "10m", "2h"]"#,
};
const SIZE: ValueForm = ValueForm {
    noun: "a size",
    hint: r#"a number with its unit in quotes: "64MiB", "1GiB", or "500MB""#,
};
const NUMBER: ValueForm =
    ValueForm { noun: "a number", hint: "a number without quotes: 240, 0.5 or 1e-6" };
const COUNT: ValueForm =
    ValueForm { noun: "a whole number", hint: "a whole number without quotes: 6" };
const PERCENT: ValueForm =
    ValueForm { noun: "a percentage", hint: r#"a whole percentage in quotes: "50%""# };
const PATTERN: ValueForm = ValueForm {
    noun: "a unit, cgroup, program, namespace or label",
    hint: concat!(
        r#"one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "#,
        r#""namespace:db-*", "pod:app=db""#
    ),
};
const PATTERNS: ValueForm = ValueForm {
    noun: "an array of units, cgroups, programs, namespaces and labels",
    hint: concat!(
        r#"each in quotes, in brackets: ["db-*.service", "/kubepods.slice/*", "#,
        r#""exe:/usr/bin/db", "namespace:db-*", "pod:app=db"]"#
    ),
};
const SERVICE: ValueForm = ValueForm {
    noun: "a unit, cgroup, pod or listener",
    hint: concat!(
        r#"one of "api.service", "/app", "pod:app=web", "namespace:shop", "#,
        r#""tcp:0.0.0.0:443", "unix:/run/app.sock""#
    ),
};
const SERVICES: ValueForm = ValueForm {
    noun: "an array of units, cgroups, pods and listeners",
    hint: r#"each in quotes, in brackets: ["api.service", "pod:app=web", "tcp:0.0.0.0:443"]"#,
};
const ADDRESS: ValueForm = ValueForm {
    noun: "an address",
    hint: r#"an IP address and a port in quotes: "127.0.0.1:9646" or "[::1]:9646""#,
};
const NETWORK: ValueForm =
    ValueForm { noun: "an IP network", hint: r#"one of "10.0.0.0/8", "fd00::/8", "192.0.2.7""# };
const NETWORKS: ValueForm = ValueForm {
    noun: "an array of IP networks",
    hint: r#"networks in quotes, in brackets: ["10.0.0.0/8", "fd00::/8"]"#,
};
const HOST_NAME: ValueForm =
    ValueForm { noun: "a host name", hint: r#"a name without a port: "node-1.example.com""# };
const HOST_NAMES: ValueForm = ValueForm {
    noun: "an array of host names",
    hint: r#"names in quotes, in brackets: ["node-1.example.com", "node-1.internal"]"#,
};
const URLS: ValueForm = ValueForm {
    noun: "an array of URLs",
    hint: r#"each in quotes, in brackets: ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]"#,
};
const URL: ValueForm = ValueForm {
    noun: "a URL",
    hint: concat!(
        r#"an https URL in quotes: "https://lb.internal/spillway"; "#,
        r#"http only to this host: "http://127.0.0.1:8080/""#
    ),
};
const SECRET: ValueForm = ValueForm {
    noun: "the path of a secret",
    hint: concat!(
        r#"a file that only its owner can read, or a systemd credential, in quotes: "#,
        r#""/etc/spillway/key", "credential:key""#
    ),
};

/// Value of an option that is not set.
pub const NONE: &str = "none";

/// A value that was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// Offset of the value in the text, in bytes.
    pub offset: usize,
    /// Description of the mistake.
    pub message: String,
    /// Advice.
    pub hint: String,
}

impl From<Fault> for Vec<Fault> {
    fn from(fault: Fault) -> Self {
        vec![fault]
    }
}

/// A value in the text.
pub struct FoundValue<'a> {
    /// Name in messages: the path of its option, or of an element of it.
    pub name: String,
    /// The value with its position in `text`.
    pub value: &'a Spanned<DeValue<'a>>,
    /// The whole text.
    pub text: &'a str,
}

impl FoundValue<'_> {
    /// Reads one of a few named values.
    pub fn choice<T: Choice>(&self) -> Result<T, Fault> {
        let name = self.string(&ValueForm { noun: T::NOUN, hint: T::HINT })?;
        let named = T::ALL.iter().find(|value| value.name() == name);
        named.copied().ok_or_else(|| self.fault(format!("{self} is not {}", T::NOUN), T::HINT))
    }

    /// Reads a name that may become part of a key or a URL.
    pub fn name(&self) -> Result<String, Fault> {
        let name = self.string(&NAME)?;
        let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(is_fit) {
            return Ok(name.to_owned());
        }
        Err(self.fault(format!("{self} is not a name"), NAME.hint))
    }

    /// Reads a boolean.
    pub fn flag(&self) -> Result<bool, Fault> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type(&FLAG))
    }

    /// Reads an absolute path: the working directory of a daemon is rarely known.
    pub fn path(&self) -> Result<PathBuf, Fault> {
        let path = Path::new(self.string(&PATH)?);
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        Err(self.fault(format!("{self} is not an absolute path"), PATH.hint))
    }

    /// Reads a duration within `range`.
    pub fn duration(&self, range: &RangeInclusive<Duration>) -> Result<Duration, Fault> {
        self.within(range, self.with_unit(&DURATION, units::duration)?, units::duration_text)
    }

    /// Reads durations, each within `range`; reports every element that is outside.
    pub fn durations(&self, range: &RangeInclusive<Duration>) -> Result<Vec<Duration>, Vec<Fault>> {
        self.each(&DURATIONS, |found| found.duration(range))
    }

    /// Reads patterns; reports every element that is not one.
    pub fn patterns(&self) -> Result<Vec<Pattern>, Vec<Fault>> {
        self.texts(&PATTERNS, &PATTERN, Pattern::new)
    }

    /// Reads IP networks; reports every element that is not one.
    pub fn networks(&self) -> Result<Vec<Network>, Vec<Fault>> {
        self.texts(&NETWORKS, &NETWORK, Network::new)
    }

    /// Reads host names; reports every element that is not one.
    pub fn host_names(&self) -> Result<Vec<String>, Vec<Fault>> {
        self.texts(&HOST_NAMES, &HOST_NAME, network::host_name)
    }

    /// Reads an array of strings, each by `read`; reports every element that it refuses.
    fn texts<T>(
        &self,
        all: &ValueForm,
        one: &ValueForm,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Vec<Fault>> {
        self.each(all, |found| {
            read(found.string(one)?)
                .map_err(|wrong| found.fault(format!("{found} {wrong}"), one.hint))
        })
    }

    /// Reads services; reports every element that is not one.
    pub fn services(&self) -> Result<Vec<ServicePattern>, Vec<Fault>> {
        self.each(&SERVICES, |found| {
            let text = found.string(&SERVICE)?;
            ServicePattern::new(text)
                .map_err(|wrong| found.fault(format!("{found} {wrong}"), SERVICE.hint))
        })
    }

    fn each<T>(
        &self,
        form: &ValueForm,
        read: impl Fn(&FoundValue<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Vec<Fault>> {
        let array = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type(form))?;
        let mut values = Vec::with_capacity(array.len());
        let mut faults = Vec::new();
        for (index, value) in array.iter().enumerate() {
            match read(&FoundValue {
                name: format!("{}[{index}]", self.name),
                value,
                text: self.text,
            }) {
                Ok(value) => values.push(value),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }

    /// Reads a whole number within `range`.
    pub fn count(&self, range: &RangeInclusive<u32>) -> Result<u32, Fault> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.wrong_type(&COUNT));
        };
        match i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|count| u32::try_from(count).ok())
        {
            Some(count) => self.within(range, count, |count| count.to_string()),
            // Above or below every range.
            None => Err(self.out_of(range, |count| count.to_string())),
        }
    }

    /// Reads a whole percentage within `range`.
    pub fn percent(&self, range: &RangeInclusive<u32>) -> Result<u32, Fault> {
        self.within(range, self.with_unit(&PERCENT, units::percent)?, units::percent_text)
    }

    /// Reads a value by `read`, or `"none"`.
    pub fn or_none<T>(
        &self,
        read: impl Fn(&Self) -> Result<T, Vec<Fault>>,
    ) -> Result<Option<T>, Vec<Fault>> {
        if self.value.get_ref().as_str() == Some(NONE) {
            return Ok(None);
        }
        let hint = |fault: Fault| Fault { hint: or_none(&fault.hint), ..fault };
        read(self).map(Some).map_err(|faults| faults.into_iter().map(hint).collect())
    }

    /// Reads a size within `range`, in bytes.
    pub fn size(&self, range: &RangeInclusive<u64>) -> Result<u64, Fault> {
        self.within(range, self.with_unit(&SIZE, units::size)?, units::size_text)
    }

    /// Reads a number within `range`, with or without a fraction.
    pub fn number(&self, range: &RangeInclusive<f64>) -> Result<f64, Fault> {
        let number = match self.value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|integer| integer as f64),
            _ => return Err(self.wrong_type(&NUMBER)),
        };
        // An integer that does not fit i128 is outside every range, and so is a NaN.
        self.within(range, number.unwrap_or(f64::INFINITY), units::number_text)
    }

    /// Reads an IP address and a port; a name is refused, because it may have several addresses.
    pub fn address(&self) -> Result<SocketAddr, Fault> {
        let not_an_address = |_| self.fault(format!("{self} is not an address"), ADDRESS.hint);
        self.string(&ADDRESS)?.parse().map_err(not_an_address)
    }

    /// Reads a URL.
    pub fn url(&self, plain: Plain) -> Result<String, Fault> {
        let text = self.string(&URL)?;
        url::check(text, plain).map_err(|wrong| self.fault(format!("{self} {wrong}"), URL.hint))?;
        Ok(text.to_owned())
    }

    /// Reads an array of URLs; reports every element that is not one.
    pub fn urls(&self, plain: Plain) -> Result<Vec<String>, Vec<Fault>> {
        self.each(&URLS, |found| found.url(plain))
    }

    /// Reads the path of a secret.
    pub fn secret(&self) -> Result<SecretSource, Fault> {
        // By mistake the value may be the secret itself, so it is not shown.
        SecretSource::new(self.string(&SECRET)?)
            .map_err(|wrong| self.fault(format!("{} {wrong}", self.name), SECRET.hint))
    }

    fn string(&self, form: &ValueForm) -> Result<&str, Fault> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type(form))
    }

    fn with_unit<T>(
        &self,
        form: &ValueForm,
        read: impl Fn(&str) -> Result<T, UnitError>,
    ) -> Result<T, Fault> {
        if matches!(self.value.get_ref(), DeValue::Integer(_) | DeValue::Float(_)) {
            return Err(self.fault(format!("{self} has no unit"), form.hint));
        }
        read(self.string(form)?).map_err(|refusal| match refusal {
            UnitError::NoUnit => self.fault(format!("{self} has no unit"), form.hint),
            UnitError::Form => self.fault(format!("{self} is not {}", form.noun), form.hint),
        })
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        range: &RangeInclusive<T>,
        value: T,
        text: impl Fn(T) -> String,
    ) -> Result<T, Fault> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.out_of(range, text))
    }

    fn out_of<T: Copy + PartialOrd>(
        &self,
        range: &RangeInclusive<T>,
        text: impl Fn(T) -> String,
    ) -> Fault {
        self.fault(
            format!("{self} is out of range"),
            format!("{} is accepted", range_text(range, text)),
        )
    }

    fn wrong_type(&self, form: &ValueForm) -> Fault {
        let found = with_article(self.value.get_ref());
        self.fault(format!("{self} is {found}, not {}", form.noun), form.hint)
    }

    fn fault(&self, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { offset: self.value.span().start, message: message.into(), hint: hint.into() }
    }
}

/// Shows the value as the operator wrote it: `sense.interval = "5"`, or `[sense.interval]` for a
/// table.
impl fmt::Display for FoundValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.get_ref().is_table() {
            return write!(f, "[{}]", self.name);
        }
        write!(f, "{} = {}", self.name, quote(self.text.get(self.value.span()).unwrap_or_default()))
    }
}

/// Adds `"none"` to a description of accepted values.
pub fn or_none(accepted: &str) -> String {
    format!("{accepted}, or \"{NONE}\"")
}

/// Names the type of `value`.
pub fn with_article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Returns the first line of `text` for a message: bounded, and without control characters that a
/// terminal would act on.
pub fn quote(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut quoted: String = shown(line)
        .chars()
        .take(QUOTE_CHARS_MAX)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if line.chars().nth(QUOTE_CHARS_MAX).is_some() || shown(line).len() < text.trim().len() {
        quoted.push('…');
    }
    quoted
}

/// Cuts a URL in a line before anything that may be a password or a token.
fn shown(line: &str) -> &str {
    match line.find("://") {
        Some(at) if line[at..].contains(['@', '?']) => &line[..at + 3],
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_one_bounded_line_without_control_characters() {
        assert_eq!(quote(" 5s \n"), "5s");
        assert_eq!(quote("[1,\n2]"), "[1,…");
        assert_eq!(quote("a\u{1b}[31m"), "a\u{fffd}[31m");
        assert_eq!(quote(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(quote(&"é".repeat(61)), "é".repeat(60) + "…");
        assert_eq!(quote(""), "");
        assert_eq!(quote("url = \"https://lb.internal/a\""), "url = \"https://lb.internal/a\"");
        for secret in ["https://me:password@lb.internal/", "https://lb.internal/?token=abc"] {
            assert_eq!(quote(secret), "https://…");
        }
    }

    #[test]
    fn every_hint_shows_accepted_values() {
        let quoted = |hint: &'static str| hint.split('"').skip(1).step_by(2);
        assert!(
            quoted(DURATION.hint)
                .chain(quoted(DURATIONS.hint))
                .all(|form| units::duration(form).is_ok())
        );
        assert!(quoted(SIZE.hint).all(|form| units::size(form).is_ok()));
        assert!(quoted(PERCENT.hint).all(|form| units::percent(form).is_ok()));
        assert!(
            quoted(PATTERN.hint)
                .chain(quoted(PATTERNS.hint))
                .all(|form| Pattern::new(form).is_ok())
        );
        assert!(
            quoted(SERVICE.hint)
                .chain(quoted(SERVICES.hint))
                .all(|form| ServicePattern::new(form).is_ok())
        );
        assert!(quoted(ADDRESS.hint).all(|form| form.parse::<SocketAddr>().is_ok()));
        let mut urls = quoted(URL.hint).chain(quoted(URLS.hint));
        assert!(urls.all(|form| url::check(form, Plain::Loopback).is_ok()));
        assert!(
            quoted(NETWORK.hint)
                .chain(quoted(NETWORKS.hint))
                .all(|form| Network::new(form).is_ok())
        );
        let mut names = quoted(HOST_NAME.hint).chain(quoted(HOST_NAMES.hint));
        assert!(names.all(|form| network::host_name(form).is_ok()));
        assert!(quoted(SECRET.hint).all(|form| SecretSource::new(form).is_ok()));
    }
}
