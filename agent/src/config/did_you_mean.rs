//! What an operator may have meant by a name that does not exist.
//!
//! In order: a name that is right but belongs in another table, a name that is spelled alike, and
//! else all names that are known there, which are few.

use super::keys::KEYS;

/// Least likeness, 0 to 1, at which a name is suggested: `intervall` for `interval` is 0.89,
/// `timeout` for `target` 0.29.
const LIKENESS_MIN: f64 = 0.6;

/// Most bytes of a name that are compared: comparing costs the product of both lengths, and no key
/// is near this long.
const NAME_BYTES_MAX: usize = 64;

/// Names of the keys and tables directly in `table`, in order; the top level is `""`.
pub fn children(table: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let rest = match table {
            "" => Some(key.path),
            _ => key.path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Whether `path` is a table that holds keys or tables.
pub fn is_table(path: &str) -> bool {
    !children(path).is_empty()
}

/// `table.name`, or `name` at the top level.
pub fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Where the keys of `table` stand, in a sentence.
pub fn place(table: &str) -> String {
    if table.is_empty() { "at the top level".to_owned() } else { format!("in [{table}]") }
}

/// What to write in place of the key `name` in `table`, which does not exist.
pub fn for_key(table: &str, name: &str) -> String {
    if name.contains('.') && KEYS.iter().any(|key| key.path == name) {
        return format!("within quotes a dot is part of the name: write {name} without them");
    }
    let elsewhere: Vec<_> = KEYS
        .iter()
        .map(|key| key.split())
        .filter(|(_, known)| *known == name)
        .map(|(table, _)| place(table))
        .collect();
    if !elsewhere.is_empty() {
        return format!("{name:?} belongs {}", elsewhere.join(" or "));
    }
    match alike(table, name) {
        Some(known) => format!("did you mean {known:?}?"),
        None => all(table),
    }
}

/// What to write in place of the table `name` in `table`, which does not exist.
pub fn for_table(table: &str, name: &str) -> String {
    match alike(table, name) {
        Some(known) if is_table(&join(table, known)) => {
            format!("did you mean [{}]?", join(table, known))
        }
        Some(known) => format!("did you mean {known:?}?"),
        None => all(table),
    }
}

fn all(table: &str) -> String {
    format!("known {}: {}", place(table), children(table).join(", "))
}

/// The name in `table` that is spelled most like `name`, if any is.
fn alike(table: &str, name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(known, name);
    let best = children(table).into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= LIKENESS_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_recognised() {
        assert_eq!(for_key("sense", "intervall"), r#"did you mean "interval"?"#);
        assert_eq!(for_key("detect.leak", "warm-up"), r#"did you mean "warm_up"?"#);
        assert_eq!(for_key("detect.leak", "min_growth_bytes"), r#"did you mean "min_growth"?"#);
        assert_eq!(for_table("", "sens"), "did you mean [sense]?");
        assert_eq!(for_table("detect", "overlaod"), "did you mean [detect.overload]?");
        assert_eq!(for_table("", "mdoe"), r#"did you mean "mode"?"#);
    }

    #[test]
    fn a_name_in_the_wrong_table_is_sent_to_the_right_one() {
        assert_eq!(
            for_key("", "interval"),
            r#""interval" belongs in [sense] or in [detect.overload]"#
        );
        assert_eq!(for_key("detect.leak", "target"), r#""target" belongs in [detect.overload]"#);
        assert_eq!(for_key("sense", "mode"), r#""mode" belongs at the top level"#);
    }

    #[test]
    fn a_name_like_no_other_gets_the_list() {
        assert_eq!(
            for_key("", "treshold"),
            "known at the top level: mode, sense, detect, decide, act, kubernetes, serve, record"
        );
        assert_eq!(for_table("detect", "wobble"), "known in [detect]: leak, overload");
        assert_eq!(for_key("sense", &"x".repeat(1 << 20)), "known in [sense]: interval");
    }
}
