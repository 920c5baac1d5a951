//! Durations and sizes as text: `"1h30m"`, `"64MiB"`.
//!
//! Durations are parsed by `humantime`, after a check of their form. Sizes are parsed here: the
//! crates for it take a bare `64` for bytes, `64M` for a power of ten, and round what does not fit,
//! and these are the mistakes that units should prevent.
//!
//! Refused: a number without a unit, whitespace between the two, fractions of a byte, anything
//! negative.

use std::{ops::RangeInclusive, time::Duration};

/// Reason why a text is not a duration or a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitError {
    /// A number without a unit, which could mean seconds or minutes.
    NoUnit,
    /// Not a number with a unit, or far too large.
    Form,
}

/// Maximum number of digits in a duration's numbers, and maximum length of a duration in bytes: see
/// [`duration`].
const DIGITS_MAX: usize = 9;
const DURATION_BYTES_MAX: usize = 32;

/// Units of size in bytes: powers of two have an `i`, powers of ten do not.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Parses a duration, such as `5s`, `100ms`, `1h30m` or `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    if is_bare_number(text) {
        return Err(UnitError::NoUnit);
    }
    // humantime 2.4 reads "1 2s" as 12 s, and panics if nanoseconds carry into the last second
    // that fits u64 ("18446744073709551615s1000000000ns"). Within these bounds no sum comes near:
    // 16 numbers of nine digits, in years, are 2^59 seconds.
    let long_number =
        text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > DIGITS_MAX);
    let spaced = text
        .chars()
        .zip(text.chars().skip(1))
        .any(|(c, next)| c.is_ascii_digit() && next.is_whitespace());
    if text.len() > DURATION_BYTES_MAX || long_number || spaced {
        return Err(UnitError::Form);
    }
    humantime::parse_duration(text).map_err(|_| UnitError::Form)
}

/// Parses a size, such as `64MiB` or `500MB`, and returns bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    if is_bare_number(text) {
        return Err(UnitError::NoUnit);
    }
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let count: u64 = digits.parse().map_err(|_| UnitError::Form)?;
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnitError::Form)?;
    count.checked_mul(*bytes).ok_or(UnitError::Form)
}

/// Parses a whole percentage, such as `50%`.
pub fn percent(text: &str) -> Result<u32, UnitError> {
    if is_bare_number(text) {
        return Err(UnitError::NoUnit);
    }
    let digits = text.strip_suffix('%').ok_or(UnitError::Form)?;
    // parse() would accept a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::Form);
    }
    digits.parse().map_err(|_| UnitError::Form)
}

fn is_bare_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok_and(f64::is_finite)
}

/// Formats a duration as [`duration`] parses it.
pub fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace("days", "d")
        .replace("day", "d")
        .replace(' ', "")
}

/// Formats a size as [`size`] parses it: in the largest power of two without a fraction.
pub fn size_text(bytes: u64) -> String {
    let exact = |unit: &&(&str, u64)| unit.1.is_power_of_two() && bytes.is_multiple_of(unit.1);
    // Bytes always divide; zero is written in bytes rather than in the largest unit.
    let (name, unit) = SIZE_UNITS
        .iter()
        .filter(exact)
        .max_by_key(|unit| unit.1)
        .filter(|_| bytes > 0)
        .unwrap_or(&SIZE_UNITS[0]);
    format!("{}{name}", bytes / unit)
}

/// Formats a percentage as [`percent`] parses it.
pub fn percent_text(count: u32) -> String {
    format!("{count}%")
}

/// Formats a number, a small one with an exponent.
pub fn number_text(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 { format!("{number:e}") } else { number.to_string() }
}

/// Formats a range, each end by `text`.
pub fn range_text<T: Copy>(range: &RangeInclusive<T>, text: impl Fn(T) -> String) -> String {
    format!("{} to {}", text(*range.start()), text(*range.end()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("1KB"), Ok(1_000));
        assert_eq!(size("7B"), Ok(7));
        assert_eq!(size("0B"), Ok(0));
    }

    #[test]
    fn percentages_are_whole_and_have_their_sign() {
        assert_eq!((percent("50%"), percent("0%")), (Ok(50), Ok(0)));
        assert_eq!(
            (percent("50"), percent("0.5")),
            (Err(UnitError::NoUnit), Err(UnitError::NoUnit))
        );
        for text in ["", "%", "50 %", "+5%", "-5%", "0.5%", "50%%", "99999999999%"] {
            assert_eq!(percent(text), Err(UnitError::Form), "{text:?}");
        }
    }

    #[test]
    fn bare_numbers_differ_from_other_mistakes() {
        for bare in ["5", "1.5", "-3", " 5 ", "1e9"] {
            assert_eq!(
                (duration(bare), size(bare)),
                (Err(UnitError::NoUnit), Err(UnitError::NoUnit)),
                "{bare:?}"
            );
        }
        for text in
            ["", " ", "5 parsecs", "5S", "s", "-5s", "1 2s", "5 s", "1h30", "1e3s", "inf", "nan"]
        {
            assert_eq!(duration(text), Err(UnitError::Form), "{text:?}");
        }
        for text in [
            "",
            "64M",
            "64mib",
            "64 MiB",
            "1.5GiB",
            "-1MiB",
            "MiB",
            "1MiB2KiB",
            "99999999999TiB",
            "64MiB ",
        ] {
            assert_eq!(size(text), Err(UnitError::Form), "{text:?}");
        }
    }

    #[test]
    fn huge_durations_are_refused_without_a_panic() {
        for text in ["18446744073709551615s1000000000ns", "18446744073709551615s", "9999999999s"] {
            assert_eq!(duration(text), Err(UnitError::Form), "{text:?}");
        }
        assert!(
            duration(&"999999999y".repeat(3)).is_ok(),
            "large, but a duration: the option's range refuses it"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-zA-Zµ. ]{0,40}|.{0,40}") {
            let _ = (duration(&text), size(&text));
        }

        #[test]
        fn durations_round_trip(millis in 0..10_000_000_000_u64) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(&duration_text(value)), Ok(value));
        }

        #[test]
        fn sizes_round_trip(bytes in any::<u64>(), shift in 0..64_u32) {
            prop_assert_eq!(size(&size_text(bytes >> shift << shift)), Ok(bytes >> shift << shift));
        }
    }
}
