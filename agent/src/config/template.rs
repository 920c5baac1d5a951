//! The configuration file as it is shipped: every option with its default, commented out.
//!
//! The file is generated, so it cannot differ from the agent. Table headers are not commented out:
//! removing the `# ` before an option is enough to set it.

use super::options::{Config, TABLES};

/// Maximum length of a comment line, in characters.
const LINE_CHARS_MAX: usize = 100;

/// Returns the text of `configs/spillway.toml`, which means the same as [`Config::default`].
pub fn commented_defaults() -> String {
    let (mut text, mut config) = (String::new(), Config::default());
    for table in TABLES.iter().filter(|table| !table.options.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        comment(&mut text, table.doc());
        if !table.path.is_empty() {
            text.push_str(&format!("[{}]\n", table.path));
        }
        for option in table.options {
            text.push('\n');
            let range = option.range();
            let range = range.map(|range| format!(" Accepted: {range}.")).unwrap_or_default();
            comment(&mut text, &format!("{}{range}", option.doc()));
            let (_, name) = option.split();
            text.push_str(&format!("# {name} = {}\n", option.write(&mut config)));
        }
    }
    text
}

/// Appends `sentence` to `text` as comment lines, broken between words.
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
    use crate::config::{options, parse};

    #[test]
    fn the_file_means_the_defaults() {
        assert_eq!(parse(&commented_defaults(), "defaults").unwrap(), Config::default());
    }

    /// An option that is set to its printed default changes nothing, and so do all of them.
    #[test]
    fn every_printed_default_is_read_back() {
        let (text, mut config) = (commented_defaults(), Config::default());
        let mut uncommented = text.clone();
        for option in options::all() {
            let (_, name) = option.split();
            let (path, default) = (option.path, option.write(&mut config));
            let set = format!("\n{name} = {default}\n");
            let commented = format!("\n# {name} = {default}\n");
            assert!(text.contains(&commented), "{path} is missing");
            uncommented = uncommented.replacen(&commented, &set, 1);
            let alone = parse(&format!("{path} = {default}\n"), path).unwrap();
            assert_eq!(alone, Config::default());
        }
        assert_eq!(parse(&uncommented, "defaults").unwrap(), Config::default());
    }

    #[test]
    fn every_option_has_a_comment_with_its_range() {
        let text = commented_defaults();
        let interval = "# Time between two scans of all processes. Accepted: 100ms to 1m.\n\
                        # interval = \"1s\"\n";
        assert!(text.contains(interval), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120));
    }
}
