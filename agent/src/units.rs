//! Units for people: sizes, numbers and spans of time as text. Machines get the numbers beside the
//! sentence.

use std::fmt;

/// A size, as `1.9 GiB`.
pub(crate) struct Size(pub f64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 / 1024.0;
        let mut unit = 0;
        // 1023.95 would round to "1024.0".
        while value.abs() >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// A span of seconds, as `4.5 s`, `8 min` or `2.3 h`.
pub(crate) struct Span(pub f64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            secs if secs < 9.95 => write!(f, "{secs:.1} s"),
            secs if secs < 119.5 => write!(f, "{secs:.0} s"),
            secs if secs < 3_570.0 => write!(f, "{:.0} min", secs / 60.0),
            secs if secs < 172_000.0 => write!(f, "{:.1} h", secs / 3_600.0),
            secs => write!(f, "{:.1} days", secs / 86_400.0),
        }
    }
}

/// A number, as `1,024`.
pub(crate) struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.char_indices() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A rate, as `3/s`, `20/min` or `1.5/h`: by the shortest time in which there is more than one.
pub(crate) struct Frequency(pub f64);

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("s", 1.0), ("min", 60.0), ("h", 3_600.0), ("day", 86_400.0)];
        let shortest = units.iter().find(|(_, secs)| self.0 * secs >= 1.0);
        let (unit, secs) = shortest.unwrap_or(&units[units.len() - 1]);
        let number = rounded(self.0 * secs, 1);
        if number < 9.95 && number.fract() != 0.0 {
            write!(f, "{number:.1}/{unit}")
        } else {
            write!(f, "{number:.0}/{unit}")
        }
    }
}

/// Rounds for output, so that a verdict shows no digits that were not measured.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Returns the time of day of an RFC 3339 time, with its date if that is not the one of `at`.
pub(crate) fn clock_time(time: &str, at: &str) -> String {
    match (time.get(..10), time.get(11..16)) {
        (Some(date), Some(clock)) if at.get(..10) == Some(date) => format!("{clock} UTC"),
        _ => to_minute(time),
    }
}

/// Shortens a time of RFC 3339 to the minute.
pub(crate) fn to_minute(time: &str) -> String {
    shortened(time, 16)
}

/// Shortens a time of RFC 3339 to the second.
pub(crate) fn to_second(time: &str) -> String {
    shortened(time, 19)
}

/// Returns the date and the clock time up to a byte; the whole text if it is no such time.
fn shortened(time: &str, end: usize) -> String {
    match (time.get(..10), time.get(11..end)) {
        (Some(date), Some(clock)) => format!("{date} {clock} UTC"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_paces_read_well() {
        for (count, expected) in
            [(0, "0"), (999, "999"), (1_024, "1,024"), (1_048_576, "1,048,576")]
        {
            assert_eq!(Count(count).to_string(), expected);
        }
        for (per_sec, expected) in [
            (120.0, "120/s"),
            (1.0 / 3.0, "20/min"),
            (1.5 / 3_600.0, "1.5/h"),
            (1e-6, "0.1/day"),
            (3.0, "3/s"),
        ] {
            assert_eq!(Frequency(per_sec).to_string(), expected);
        }
    }

    #[test]
    fn times_are_as_short_as_they_can_be() {
        let (time, same, other) = ("2026-11-30T03:02:10.123Z", "2026-11-30", "2026-12-01");
        assert_eq!(clock_time(time, same), "03:02 UTC");
        assert_eq!(clock_time(time, other), "2026-11-30 03:02 UTC");
        assert_eq!(to_minute(time), "2026-11-30 03:02 UTC");
        assert_eq!(to_second(time), "2026-11-30 03:02:10 UTC");
        assert_eq!([to_minute("ä"), to_second("2026")], ["ä", "2026"]);
    }

    #[test]
    fn sizes_and_spans_read_well() {
        let sizes = [
            (4096.0, "4.0 KiB"),
            (134_217_728.0, "128.0 MiB"),
            (2_040_109_465.6, "1.9 GiB"),
            (1e15, "909.5 TiB"),
        ];
        for (bytes, expected) in sizes {
            assert_eq!(Size(bytes).to_string(), expected);
        }
        let spans = [
            (4.46, "4.5 s"),
            (32.0, "32 s"),
            (480.0, "8 min"),
            (8_280.0, "2.3 h"),
            (864_000.0, "10.0 days"),
        ];
        for (secs, expected) in spans {
            assert_eq!(Span(secs).to_string(), expected);
        }
    }
}
