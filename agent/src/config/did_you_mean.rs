//! Hints for a name that is neither an option nor a table.
//!
//! In order: the table in which the name is an option, a name that is spelled alike, all names in
//! the table, which are few.

use super::options;

/// Minimum similarity, 0 to 1, at which a name is suggested: `intervall` for `interval` is 0.89,
/// `timeout` for `target` 0.29.
const SIMILARITY_MIN: f64 = 0.6;

/// Maximum length of a name that is compared, in bytes: the cost is the product of both lengths,
/// and the longest option is far shorter.
const NAME_BYTES_MAX: usize = 64;

/// Returns the names of the options and tables directly in `table`; the top level is `""`.
pub fn children(table: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for option in options::all() {
        let rest = match table {
            "" => Some(option.path),
            _ => option.path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Returns whether `path` is a table.
pub fn is_table(path: &str) -> bool {
    !children(path).is_empty()
}

/// Joins a path: `table.name`, or `name` at the top level.
pub fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Names the place of options of `table` in a sentence.
pub fn place(table: &str) -> String {
    if table.is_empty() { "at the top level".to_owned() } else { format!("in [{table}]") }
}

/// Returns a hint for the unknown option `name` in `table`.
pub fn for_key(table: &str, name: &str) -> String {
    if name.contains('.') && options::all().any(|option| option.path == name) {
        return format!("in quotes a dot is part of the name: write {name} without quotes");
    }
    let elsewhere: Vec<_> = options::all()
        .map(|option| option.split())
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

/// Returns a hint for the unknown table `name` in `table`.
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
    format!("options {}: {}", place(table), children(table).join(", "))
}

/// Returns the name in `table` that is most similar to `name`, if one is similar enough.
fn alike(table: &str, name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let similarity = |known: &&str| strsim::normalized_damerau_levenshtein(known, name);
    let best =
        children(table).into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(&best) >= SIMILARITY_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_is_recognized() {
        assert_eq!(for_key("sense", "intervall"), r#"did you mean "interval"?"#);
        assert_eq!(for_key("detect.leak", "warm-up"), r#"did you mean "warm_up"?"#);
        assert_eq!(for_key("detect.leak", "min_growth_bytes"), r#"did you mean "min_growth"?"#);
        assert_eq!(for_table("", "sens"), "did you mean [sense]?");
        assert_eq!(for_table("detect", "overlaod"), "did you mean [detect.overload]?");
        assert_eq!(for_table("", "mdoe"), r#"did you mean "mode"?"#);
    }

    #[test]
    fn a_name_in_the_wrong_table_is_directed_to_the_right_one() {
        assert_eq!(
            for_key("", "interval"),
            r#""interval" belongs in [sense] or in [detect.overload] or in [export.otlp]"#
        );
        assert_eq!(for_key("detect.leak", "target"), r#""target" belongs in [detect.overload]"#);
        assert_eq!(for_key("sense", "mode"), r#""mode" belongs at the top level"#);
    }

    #[test]
    fn a_name_similar_to_none_gets_the_list() {
        assert_eq!(
            for_key("", "treshold"),
            "options at the top level: mode, sense, detect, decide, act, fleet, kubernetes, serve, export, record"
        );
        assert_eq!(for_table("detect", "wobble"), "options in [detect]: leak, overload");
        assert_eq!(for_key("sense", &"x".repeat(1 << 20)), "options in [sense]: interval");
    }
}
