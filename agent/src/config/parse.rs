//! Parser of the configuration, which reports every mistake at once.
//!
//! The text is parsed with recovery: a line that is not TOML does not hide mistakes on other lines.
//! Guesses of the recovery are not judged, though: nothing is reported about the options on a
//! broken line or below a broken table header, and rules that involve two options are checked only
//! if every line can be parsed.
//!
//! Refused: every name that is not an option or a table.

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
    options::{self, Config},
    validate::conflicts,
    value::{Fault, FoundValue, quote, with_article},
};

/// Parses the configuration in `text`, which came from `file`, a name for messages only.
///
/// # Errors
///
/// Returns every mistake, in file order.
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

/// Messages of the TOML parser for a key or table that is given twice, and for a string without
/// quotes. If the parser changed them, its own messages would be printed; tests/unit/config.rs
/// fails then.
const DUPLICATE: &str = "duplicate key";
const UNQUOTED: &str = "string values must be quoted";

/// State of the parser.
#[derive(Default)]
struct ParserState<'a> {
    lines: Lines<'a>,
    config: Config,
    faults: Vec<Fault>,
    /// Offset of each option that was set, in bytes.
    set: HashMap<&'static str, usize>,
    /// Options whose value was refused.
    refused: HashSet<&'static str>,
}

impl<'a> ParserState<'a> {
    /// Reads every option in the table at `path` and in the tables inside it.
    fn table(&mut self, path: &str, table: &'a DeTable<'a>) {
        for (name, value) in table.iter() {
            let (offset, name) = (name.span().start, name.get_ref().as_ref());
            let inner = join(path, name);
            // A quoted name may contain a dot or be empty: "sense.interval" in quotes is not a
            // path, and "" is not the top level.
            let known = !name.is_empty() && !name.contains('.');
            if let Some(key) = options::all().find(|key| known && key.path == inner) {
                self.set.insert(key.path, offset);
                let found = FoundValue { name: inner, value, text: self.lines.text };
                if let Err(faults) = key.set(&mut self.config, &found) {
                    self.refused.insert(key.path);
                    self.faults.extend(faults);
                }
            } else if known && is_table(&inner) {
                match value.get_ref() {
                    DeValue::Table(table) => self.table(&inner, table),
                    other => self.fault(
                        offset,
                        format!("{inner:?} is {}, not a table", with_article(other)),
                        format!("write [{inner}] on a line of its own, and its options below"),
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
            let message = format!("unknown option \"{}\" {}", quote(name), place(table));
            self.fault(offset, message, did_you_mean::for_key(table, name));
        }
    }

    /// Adds the conflicts between options, all of which have been read.
    fn conflicts(&mut self) {
        for conflict in conflicts(&self.config) {
            if conflict.keys.iter().any(|key| self.refused.contains(key)) {
                continue;
            }
            // The defaults do not conflict, so one of the options was set.
            let offset =
                conflict.keys.iter().find_map(|key| self.set.get(key)).copied().unwrap_or_default();
            self.fault(offset, conflict.message, conflict.hint);
        }
    }

    /// Adds the lines that are not TOML, and drops faults that follow from guesses about them.
    fn broken(&mut self, errors: &[toml::de::Error]) {
        // The first error on a line is the cause; the others mostly follow from it.
        let mut first = BTreeMap::new();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            first.entry(self.lines.number(offset)).or_insert((offset, error.message()));
        }
        let mut guessed: HashSet<usize> = first.keys().copied().collect();
        for (line, (_, message)) in &first {
            // A header that is given twice still says to which table the options below belong.
            if *message != DUPLICATE {
                guessed.extend(self.lines.below_header(*line));
            }
        }
        self.faults.retain(|fault| !guessed.contains(&self.lines.number(fault.offset)));
        for (line, (offset, message)) in first {
            let found = quote(without_secret(self.lines.get(line)));
            let (message, hint) = match message {
                DUPLICATE => {
                    (format!("given twice: {found}"), "give each option and each table once")
                }
                // By far the most likely mistake in a file of durations; the parser's own message
                // is about TOML's grammar.
                _ if message.starts_with(UNQUOTED) => (
                    format!("not a TOML value: {found}"),
                    r#"put words, durations and sizes in quotes: "5s""#,
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

/// Removes the value from a line that sets the path of a secret: by mistake it may be the secret
/// itself.
fn without_secret(line: &str) -> &str {
    let mut secrets = options::all().filter(|key| key.is_secret());
    match line.find('=') {
        Some(at) if secrets.any(|key| line[..at].trim_end().ends_with(key.split().1)) => {
            &line[..=at]
        }
        _ => line,
    }
}

/// Lines of a text by offset.
#[derive(Default)]
struct Lines<'a> {
    text: &'a str,
    /// Offset of each line, in bytes.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(offset, _)| offset + 1);
        // Only a non-empty rest after the last newline is a line.
        Self {
            text,
            starts: [0].into_iter().chain(ends.filter(|start| *start < text.len())).collect(),
        }
    }

    /// Returns the number, from 1, of the line with the byte at `offset`; past the end, of the last
    /// line.
    fn number(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Returns the line with a number; empty if there is none.
    fn get(&self, number: usize) -> &'a str {
        let start = self.starts.get(number - 1).copied().unwrap_or(self.text.len());
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        &self.text[start..end]
    }

    /// Returns the numbers of the lines below the header on line `number`, up to the next header;
    /// none if that line is not a header.
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

    fn errors(text: &str) -> String {
        parse(text, "x.toml").unwrap_err().to_string()
    }

    #[test]
    fn offsets_have_line_numbers() {
        let lines = Lines::new("a\nb\r\n\nc\n");
        let numbers: Vec<_> =
            [0, 1, 2, 4, 5, 6, 7, 99].into_iter().map(|offset| lines.number(offset)).collect();
        assert_eq!(numbers, [1, 1, 2, 2, 3, 4, 4, 4]);
        assert_eq!([1, 3, 4, 5].map(|number| lines.get(number)), ["a\n", "\n", "c\n", ""]);
        assert_eq!((Lines::new("").number(0), Lines::new("").get(1)), (1, ""));
    }

    #[test]
    fn a_table_ends_at_the_next_header() {
        let lines = Lines::new("[a\nx = 1\n\n  [b]\ny = 1\n");
        assert_eq!(lines.below_header(1), 2..4);
        assert_eq!(lines.below_header(4), 5..6);
        assert!(lines.below_header(2).is_empty());
    }

    #[test]
    fn a_refused_value_hides_no_other_mistake() {
        let errors = parse("mode = 1\n[sense]\ninterval = 'x'\n", "x.toml").unwrap_err();
        assert_eq!(
            errors.problems().iter().map(|problem| problem.line).collect::<Vec<_>>(),
            [Some(1), Some(3)]
        );
        assert_eq!(errors.file(), "x.toml");
    }

    #[test]
    fn a_value_that_may_be_a_secret_is_not_shown() {
        let text = "[act.page.pagerduty]\nrouting_key_file = \"s3cr3t\"\n[act.drain]\nsecret_file \
        = s3cr3t\n\
                    url = \"https://me:s3cr3t@lb/\"\n[act.page.webhook]\nurl \
                    = \"http://a/?token=s3cr3t\"\nsecret_file = \"s3cr3t\n\
                    [act.page.slack]\nurl_file = 7\n";
        let errors = errors(text);
        assert!(!errors.contains("s3cr3t"), "{errors}");
        for line in [2, 4, 5, 7, 8] {
            assert!(errors.contains(&format!("x.toml:{line}: ")), "{errors}");
        }
    }

    #[test]
    fn options_below_a_broken_header_are_not_judged() {
        assert_eq!(
            errors("[sense]\ninterval = '1s'\n[serve\nlisten = 3\nport = 5\n[decide]\nx = 1"),
            "x.toml:3: not TOML: [serve\n  hint: unclosed table, expected `]`\n\
             x.toml:7: unknown option \"x\" in [decide]\n  hint: options in [decide]: \
             limit_within, drain_within, \
             services, protected, allow, cooldown, max_actions_per_hour, flap_within"
        );
        assert_eq!(
            errors("[sense]\n[sense]\nx = 1"),
            "x.toml:2: given twice: [sense]\n  hint: give each option and each table once\n\
             x.toml:3: unknown option \"x\" in [sense]\n  hint: options in [sense]: interval"
        );
    }
}
