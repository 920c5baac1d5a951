//! Walks the text of a configuration along the table of keys, and gathers all that is wrong with
//! it.
//!
//! The text is read with recovery: a line that is not TOML does not hide the mistakes on other
//! lines. What recovery had to guess is not judged, though: nothing is reported about the keys of a
//! broken line, or of a table whose header is broken, and rules between keys wait until every line
//! can be read.
//!
//! Refused: everything the table of keys does not name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    did_you_mean::{self, is_table, join, place},
    error::{ConfigErrors, ConfigProblem},
    keys::KEYS,
    kind::ValueKind,
    schema::Config,
    validate::conflicts,
    value::{Fault, FoundValue, quote, with_article},
};

/// Reads the configuration in `text`, which came from `file`: a name for messages only.
///
/// # Errors
///
/// Everything that is wrong with it, in file order.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let (document, broken) = DeTable::parse_recoverable(text);
    let mut walk = ParserState {
        lines: Lines::new(text),
        config: Config::default(),
        ..ParserState::default()
    };
    walk.table("", document.get_ref());
    if broken.is_empty() {
        walk.conflicts();
    } else {
        walk.broken(&broken);
    }
    if walk.faults.is_empty() {
        Ok(walk.config)
    } else {
        Err(ConfigErrors::new(file, walk.problems()))
    }
}

/// How the parser words a key or table that is given twice, and a value that wants quotes. Were it
/// to change its words, the parser's own would be printed; tests/tests/unit/config.rs would tell.
const DUPLICATE: &str = "duplicate key";
const UNQUOTED: &str = "string values must be quoted";

/// What is known after part of the text was read.
#[derive(Default)]
struct ParserState<'a> {
    lines: Lines<'a>,
    config: Config,
    faults: Vec<Fault>,
    /// Where each key that was set stands, in bytes.
    set: HashMap<&'static str, usize>,
    /// Keys of which the value was refused.
    refused: HashSet<&'static str>,
}

impl<'a> ParserState<'a> {
    /// Reads every key of the table at `path`, and of the tables in it.
    fn table(&mut self, path: &str, table: &'a DeTable<'a>) {
        for (name, value) in table.iter() {
            let (offset, name) = (name.span().start, name.get_ref().as_ref());
            let inner = join(path, name);
            // A quoted name may hold a dot, or nothing: "sense.interval" in quotes is no path, and
            // "" not the top level.
            let known = !name.is_empty() && !name.contains('.');
            if let Some(key) = KEYS.iter().find(|key| known && key.path == inner) {
                self.set.insert(key.path, offset);
                let found = FoundValue { name: inner, value, text: self.lines.text };
                if let Err(faults) = key.kind.set(&mut self.config, &found) {
                    self.refused.insert(key.path);
                    self.faults.extend(faults);
                }
            } else if known && is_table(&inner) {
                match value.get_ref() {
                    DeValue::Table(table) => self.table(&inner, table),
                    other => self.fault(
                        offset,
                        format!("{inner:?} is {}, not a table", with_article(other)),
                        format!("write [{inner}], and its keys on the lines below"),
                    ),
                }
            } else {
                self.unknown(path, name, offset, value);
            }
        }
    }

    fn unknown(&mut self, table: &str, name: &str, offset: usize, value: &Spanned<DeValue<'_>>) {
        if value.get_ref().is_table() {
            let message = format!("unknown table [{}]", quote(&join(table, name)));
            self.fault(offset, message, did_you_mean::for_table(table, name));
        } else {
            let message = format!("unknown key \"{}\" {}", quote(name), place(table));
            self.fault(offset, message, did_you_mean::for_key(table, name));
        }
    }

    /// Adds what keys say together; they have all been read.
    fn conflicts(&mut self) {
        for conflict in conflicts(&self.config) {
            if conflict.keys.iter().any(|key| self.refused.contains(key)) {
                continue;
            }
            // The defaults agree, so that one of the keys was set; the first line is for a default
            // that does not.
            let offset =
                conflict.keys.iter().find_map(|key| self.set.get(key)).copied().unwrap_or_default();
            self.fault(offset, conflict.message, conflict.hint);
        }
    }

    /// Adds the lines that are not TOML, in place of what was made of them.
    fn broken(&mut self, errors: &[toml::de::Error]) {
        // The first error of a line is the cause, the rest mostly follow from it.
        let mut first = BTreeMap::new();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            first.entry(self.lines.number(offset)).or_insert((offset, error.message()));
        }
        let mut guessed: HashSet<usize> = first.keys().copied().collect();
        for (line, (_, message)) in &first {
            // A header that is merely given twice still says where its keys belong.
            if *message != DUPLICATE {
                guessed.extend(self.lines.below_header(*line));
            }
        }
        self.faults.retain(|fault| !guessed.contains(&self.lines.number(fault.offset)));
        for (line, (offset, message)) in first {
            let found = quote(without_secret(self.lines.get(line)));
            let (message, hint) = match message {
                DUPLICATE => {
                    (format!("given before: {found}"), "give each key and each table once")
                }
                // By far the likeliest slip in a file of durations; the parser's words for it are
                // about TOML's grammar.
                _ if message.starts_with(UNQUOTED) => (
                    format!("no value in TOML: {found}"),
                    r#"words, durations and sizes go in quotes: "5s""#,
                ),
                _ => (format!("not TOML: {found}"), message),
            };
            self.fault(offset, message, hint.to_owned());
        }
    }

    fn fault(&mut self, offset: usize, message: String, hint: String) {
        self.faults.push(Fault { offset, message, hint });
    }

    fn problems(mut self) -> Vec<ConfigProblem> {
        self.faults.sort_by_key(|fault| fault.offset);
        let problem = |Fault { offset, message, hint }| ConfigProblem {
            line: Some(self.lines.number(offset)),
            message,
            hint,
        };
        self.faults.into_iter().map(problem).collect()
    }
}

/// A line without its value, where that should be the place of a secret and may be the secret
/// itself.
fn without_secret(line: &str) -> &str {
    let mut secrets = KEYS.iter().filter(|key| matches!(key.kind, ValueKind::MaybeSecret(_)));
    match line.find('=') {
        Some(at) if secrets.any(|key| line[..at].trim_end().ends_with(key.split().1)) => {
            &line[..=at]
        }
        _ => line,
    }
}

/// The lines of a text, found by byte.
#[derive(Default)]
struct Lines<'a> {
    text: &'a str,
    /// Byte at which each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(offset, _)| offset + 1);
        // What follows the last newline is a line only if there is something.
        Self {
            text,
            starts: [0].into_iter().chain(ends.filter(|start| *start < text.len())).collect(),
        }
    }

    /// Number, from 1, of the line that holds the byte at `offset`; past the end, of the last line.
    fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// The line with this number; empty where there is none.
    fn get(&self, number: usize) -> &'a str {
        let start = self.starts.get(number - 1).copied().unwrap_or(self.text.len());
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        &self.text[start..end]
    }

    /// The lines below the header on line `number`, up to the next header; none where that line is
    /// no header.
    fn below_header(&self, number: usize) -> Range<usize> {
        let is_header = |number: &usize| self.get(*number).trim_start().starts_with('[');
        let below = number + 1..self.starts.len() + 1;
        if !is_header(&number) {
            return number..number;
        }
        number + 1..below.clone().find(is_header).unwrap_or(below.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        parse(text, "x.toml").unwrap_err().to_string()
    }

    #[test]
    fn bytes_are_found_on_their_lines() {
        let lines = Lines::new("a\nb\r\n\nc\n");
        let numbers: Vec<_> =
            [0, 1, 2, 4, 5, 6, 7, 99].into_iter().map(|offset| lines.number(offset)).collect();
        assert_eq!(numbers, [1, 1, 2, 2, 3, 4, 4, 4]);
        assert_eq!([1, 3, 4, 5].map(|number| lines.get(number)), ["a\n", "\n", "c\n", ""]);
        assert_eq!((Lines::new("").number(0), Lines::new("").get(1)), (1, ""));
    }

    #[test]
    fn below_a_header_ends_at_the_next() {
        let lines = Lines::new("[a\nx = 1\n\n  [b]\ny = 1\n");
        assert_eq!(lines.below_header(1), 2..4);
        assert_eq!(lines.below_header(4), 5..6);
        assert!(lines.below_header(2).is_empty());
    }

    #[test]
    fn a_refused_value_leaves_the_other_keys_judged() {
        let errors = parse("mode = 1\n[sense]\ninterval = 'x'\n", "x.toml").unwrap_err();
        assert_eq!(
            errors.problems().iter().map(|problem| problem.line).collect::<Vec<_>>(),
            [Some(1), Some(3)]
        );
        assert_eq!(errors.file(), "x.toml");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let text = "[act.page.pagerduty]\nrouting_key_file = \"s3cr3t\"\n[act.drain]\nsecret_file = s3cr3t\n\
                    url = \"https://me:s3cr3t@lb/\"\n[act.page.webhook]\nurl = \"http://a/?token=s3cr3t\"\nsecret_file = \"s3cr3t\n\
                    [act.page.slack]\nurl_file = 7\n";
        let told = told(text);
        assert!(!told.contains("s3cr3t"), "{told}");
        for line in [2, 4, 5, 7, 8] {
            assert!(told.contains(&format!("x.toml:{line}: ")), "{told}");
        }
    }

    #[test]
    fn a_broken_header_does_not_send_its_keys_elsewhere() {
        assert_eq!(
            told("[sense]\ninterval = '1s'\n[serve\nlisten = 3\nport = 5\n[decide]\nx = 1"),
            "x.toml:3: not TOML: [serve\n  hint: unclosed table, expected `]`\n\
             x.toml:7: unknown key \"x\" in [decide]\n  hint: known in [decide]: limit_within, drain_within, services, protected, allow, cooldown, max_actions_per_hour, flap_within"
        );
        assert_eq!(
            told("[sense]\n[sense]\nx = 1"),
            "x.toml:2: given before: [sense]\n  hint: give each key and each table once\n\
             x.toml:3: unknown key \"x\" in [sense]\n  hint: known in [sense]: interval"
        );
    }
}
