//! The configuration file as it is shipped: every key with its default, commented out.
//!
//! It is generated so that it cannot say anything the agent does not do. Table headers stand
//! uncommented: removing the `# ` of one key is then enough to set it.

use super::keys::{KEYS, TABLES};

/// Most characters of a line of comment.
const LINE_CHARS_MAX: usize = 100;

/// The text of `configs/spillway.toml`: valid, empty but for its tables, and thus equal to
/// [`Config::default`].
///
/// [`Config::default`]: super::Config
pub fn commented_defaults() -> String {
    let mut text = String::new();
    for table in TABLES {
        if !text.is_empty() {
            text.push('\n');
        }
        comment(&mut text, table.doc);
        if !table.path.is_empty() {
            text.push_str(&format!("[{}]\n", table.path));
        }
        for key in KEYS.iter().filter(|key| key.split().0 == table.path) {
            text.push('\n');
            let range = key
                .kind
                .range_text()
                .map(|range| format!(" Accepted: {range}."))
                .unwrap_or_default();
            comment(&mut text, &format!("{}{range}", key.doc));
            text.push_str(&format!("# {} = {}\n", key.split().1, key.default));
        }
    }
    text
}

/// Adds `sentence` to `text` as lines of comment, broken between words.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS_MAX {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    /// [`commented_defaults`] with every key set.
    fn uncommented_defaults() -> String {
        let mut text = commented_defaults();
        for key in KEYS {
            let set = format!("\n{} = {}\n", key.split().1, key.default);
            let commented = set.replacen('\n', "\n# ", 1);
            assert!(text.contains(&commented), "{} is missing", key.path);
            text = text.replacen(&commented, &set, 1);
        }
        text
    }

    #[test]
    fn the_file_as_it_stands_is_the_defaults() {
        assert_eq!(parse(&commented_defaults(), "defaults").unwrap(), Config::default());
    }

    #[test]
    fn every_default_of_the_table_is_that_of_the_schema() {
        assert_eq!(parse(&uncommented_defaults(), "defaults").unwrap(), Config::default());
        // One by one, so that no row mends what another breaks.
        for key in KEYS {
            let text = format!("{} = {}\n", key.path, key.default);
            assert_eq!(parse(&text, key.path).unwrap(), Config::default());
        }
    }

    #[test]
    fn every_key_has_a_comment_with_its_range() {
        let text = commented_defaults();
        assert!(
            text.contains("# Time between two scans of every process. Accepted: 100ms to 1m.\n# interval = \"1s\"\n"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 120));
    }
}
