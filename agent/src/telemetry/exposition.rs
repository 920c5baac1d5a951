//! Metrics as the encoder writes them, in OpenMetrics text, read back.
//!
//! The registry can be read in no other way. Its text is trusted as far as its form goes, and its
//! label values are not: others choose them.

/// Metrics of one name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ExposedFamily {
    /// Name without the suffix of its samples.
    pub(super) name: String,
    /// Type, such as `counter`.
    pub(super) kind: String,
    /// Explanation.
    pub(super) help: String,
    /// Unit, such as `seconds`; empty without one.
    pub(super) unit: String,
    /// Samples, in the order of the text.
    pub(super) samples: Vec<ExposedSample>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExposedSample {
    /// Name with its suffix.
    pub(super) name: String,
    /// Names and values of its labels, in the order of the text.
    pub(super) labels: Vec<(String, String)>,
    /// Value.
    pub(super) value: f64,
}

/// Reads the families of OpenMetrics text. A line that is none of them is left out.
pub(super) fn families(text: &str) -> Vec<ExposedFamily> {
    let mut families: Vec<ExposedFamily> = Vec::new();
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            // The type of a family comes before its samples.
            if let Some((family, sample)) = families.last_mut().zip(sample(line)) {
                family.samples.push(sample);
            }
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name)) = (words.next(), words.next()) else { continue };
        let rest = words.next().unwrap_or("");
        if families.last().is_none_or(|family| family.name != name) {
            families.push(ExposedFamily { name: name.to_owned(), ..ExposedFamily::default() });
        }
        let Some(family) = families.last_mut() else { continue };
        match what {
            "HELP" => family.help = unescaped(rest),
            "TYPE" => rest.clone_into(&mut family.kind),
            "UNIT" => rest.clone_into(&mut family.unit),
            _ => {}
        }
    }
    families.retain(|family| !family.samples.is_empty());
    families
}

fn sample(line: &str) -> Option<ExposedSample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(ExposedSample { name: name.to_owned(), labels, value })
}

/// Reads labels up to the closing brace; returns them and the rest of the line.
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let end = closing_quote(rest)?;
        labels.push((name.to_owned(), unescaped(&rest[..end])));
        text = &rest[end + 1..];
        text = text.strip_prefix(',').unwrap_or(text);
    }
}

/// Returns the place of the first quote that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use prometheus_client::{
        encoding::text::encode,
        metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
        registry::{Registry, Unit},
    };

    use super::*;

    type Labels = Vec<(String, String)>;

    #[test]
    fn metrics_are_read_as_the_encoder_writes_them() {
        let mut registry = Registry::with_prefix("a");
        registry.register("build", "Version", Info::new([("version", "1")]));
        let seen = Counter::<u64>::default();
        seen.inc_by(7);
        registry.register("seen", "Seen", seen);
        let memory = Family::<Labels, Gauge>::default();
        let label = |value: &str| vec![("cgroup".to_owned(), value.to_owned())];
        memory.get_or_create(&label("/a\"b\\c\nd")).set(-3);
        registry.register_with_unit("memory", "Memory, in use", Unit::Bytes, memory);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let read = families(&text);
        let of = |name: &str| read.iter().find(|one| one.name == name).unwrap();
        let sample = |family: &ExposedFamily| family.samples[0].clone();
        assert_eq!((&*of("a_build").kind, sample(of("a_build")).value), ("info", 1.0));
        assert_eq!(sample(of("a_seen")).name, "a_seen_total");
        let memory = of("a_memory_bytes");
        assert_eq!(
            (&*memory.kind, &*memory.unit, &*memory.help),
            ("gauge", "bytes", "Memory, in use.")
        );
        let ExposedSample { labels, value, .. } = sample(memory);
        assert_eq!((labels, value), (label("/a\"b\\c\nd"), -3.0));
    }

    proptest! {
        #[test]
        fn labels_of_any_text_are_read_back(values in prop::collection::vec(any::<String>(), 0..4)) {
            let escape = |value: &String| {
                value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
            };
            let written: Vec<_> =
                values.iter().map(|value| format!("a=\"{}\"", escape(value))).collect();
            let line = format!("# TYPE x gauge\nx{{{}}} 2.5\n", written.join(","));
            // Other ends of lines than the escaped one end a sample, as they do for any reader.
            prop_assume!(!values.iter().any(|value| value.contains('\r')));
            let read = families(&line);
            let read: Vec<_> =
                read[0].samples[0].labels.iter().map(|(_, value)| value.clone()).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn any_text_is_harmless(text in any::<String>()) {
            families(&text);
        }
    }
}
