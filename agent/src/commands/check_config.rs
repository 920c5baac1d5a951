//! `spillway check-config`: reports every problem of a configuration file at once.

use std::path::Path;

use anyhow::anyhow;
use serde_json::json;

use super::CommandError;
use crate::{
    act::{FileProblem, check_files},
    config::{self, Config, ConfigErrors, ConfigProblem},
};

/// Checks a file and the files that it names; without one, prints every option with its default.
///
/// # Errors
///
/// Returns an error if the file has any problem; it lists all of them.
pub fn check_config(file: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let Some(file) = file else {
        print!("{}", config::commented_defaults());
        return Ok(());
    };
    match config::load(file).and_then(|config| check_named_files(file, &config).map(|()| config)) {
        Ok(config) if json => {
            let notices = config::notices(&config);
            println!("{}", json!({ "file": file, "problems": [], "notices": notices }));
        }
        Ok(config) => {
            println!("{}: ok", file.display());
            for ConfigProblem { message, hint, .. } in config::notices(&config) {
                println!("{}: note: {message}\n  hint: {hint}", file.display());
            }
        }
        Err(errors) if json => {
            println!("{}", serde_json::to_string(&errors)?);
            let count = errors.problems().len();
            return Err(CommandError::BadInput(anyhow!("{}: {count} problems", file.display())));
        }
        Err(errors) => return Err(CommandError::BadInput(errors.into())),
    }
    Ok(())
}

/// Checks secrets and certificates. A systemd credential exists only inside its service, so it is
/// mentioned but is not a problem here.
fn check_named_files(file: &Path, config: &Config) -> Result<(), ConfigErrors> {
    let (unknown, wrong): (Vec<_>, Vec<_>) =
        check_files(config).into_iter().partition(|problem| problem.is_unknown);
    for FileProblem { key, message, .. } in unknown {
        eprintln!("{}: {key} is not checked: {message}", file.display());
    }
    let problem = |FileProblem { key, message, hint, .. }| ConfigProblem {
        line: None,
        message: format!("{key}: {message}"),
        hint,
    };
    let problems: Vec<_> = wrong.into_iter().map(problem).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors::new(&file.display().to_string(), problems))
    }
}
