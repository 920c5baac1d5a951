//! What is wrong with a configuration: every problem, where it is, and what to write instead.
//!
//! All problems are carried together because each costs its reader a round trip. A hint is not
//! optional: a message that cannot say what to do next is not finished.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// Everything that is wrong with one configuration, in file order; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
pub struct ConfigErrors {
    /// Where the text came from, as the operator named it.
    file: String,
    problems: Vec<ConfigProblem>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// Line in the file, from 1; `None` where the file as a whole is at fault.
    pub line: Option<usize>,
    /// What is wrong, with the value that was found.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl ConfigErrors {
    /// The `problems` of `file`, which the caller has put in file order.
    pub(crate) fn new(file: &str, problems: Vec<ConfigProblem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error without a problem");
        Self { file: file.to_owned(), problems }
    }

    /// Where the text came from, as the operator named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems in file order, at least one.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ConfigProblem { line, message, hint }) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file)?;
            if let Some(line) = line {
                write!(f, "{line}:")?;
            }
            write!(f, " {message}\n  hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors() -> ConfigErrors {
        let problem = |line, message: &str| ConfigProblem {
            line,
            message: message.to_owned(),
            hint: "try".to_owned(),
        };
        ConfigErrors::new(
            "x.toml",
            vec![problem(None, "is a riddle"), problem(Some(3), "so is this")],
        )
    }

    #[test]
    fn problems_stand_one_after_another_without_a_trailing_newline() {
        assert_eq!(
            errors().to_string(),
            "x.toml: is a riddle\n  hint: try\nx.toml:3: so is this\n  hint: try"
        );
    }

    #[test]
    fn json_carries_the_same_fields() {
        assert_eq!(
            serde_json::to_string(&errors()).unwrap(),
            r#"{"file":"x.toml","problems":[{"line":null,"message":"is a riddle","hint":"try"},{"line":3,"message":"so is this","hint":"try"}]}"#
        );
    }
}
