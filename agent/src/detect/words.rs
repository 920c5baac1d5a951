//! Sizes and spans as a colleague would say them. Only for people: machines get the numbers beside the sentence.

use std::fmt;

/// A size, as `1.9 GiB`.
pub(super) struct Size(pub f64);

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
pub(super) struct Span(pub f64);

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

/// Rounds for output, so that a verdict does not claim digits that nobody measured.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_well() {
        let sizes =
            [(4096.0, "4.0 KiB"), (134_217_728.0, "128.0 MiB"), (2_040_109_465.6, "1.9 GiB"), (1e15, "909.5 TiB")];
        for (bytes, expected) in sizes {
            assert_eq!(Size(bytes).to_string(), expected);
        }
        let spans = [(4.46, "4.5 s"), (32.0, "32 s"), (480.0, "8 min"), (8_280.0, "2.3 h"), (864_000.0, "10.0 days")];
        for (secs, expected) in spans {
            assert_eq!(Span(secs).to_string(), expected);
        }
    }
}
