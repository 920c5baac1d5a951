//! Mistakes in a configuration, each with its line and a hint.
//!
//! All mistakes are reported at once, because each report costs the reader a round trip. A hint is
//! mandatory: a message without advice is not finished.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

/// All mistakes in a configuration, in file order; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
pub struct ConfigErrors {
    /// Name of the file, as the operator gave it.
    file: String,
    problems: Vec<ConfigProblem>,
}

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// Line in the file, from 1; `None` if the file as a whole is the problem.
    pub line: Option<usize>,
    /// Description with the value that was found.
    pub message: String,
    /// Advice.
    pub hint: String,
}

impl ConfigErrors {
    /// Makes an error of the `problems` in `file`, which are in file order.
    pub(crate) fn new(file: &str, problems: Vec<ConfigProblem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error without a problem");
        Self { file: file.to_owned(), problems }
    }

    /// Name of the file, as the operator gave it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Mistakes in file order, at least one.
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
    fn problems_are_lines_without_a_trailing_newline() {
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
