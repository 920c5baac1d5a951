//! `spillway record`: writes everything that the sensors report as a trace.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use super::{CommandError, create_new, load};
use crate::{agent, sense::Sensors};

/// Records for `duration`, or until a signal asks to stop. `-` writes to standard output.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, the file exists, or it cannot be written.
pub fn record(
    out: &Path,
    duration: Duration,
    config: Option<&Path>,
    sensors: impl FnOnce() -> Sensors,
) -> Result<(), CommandError> {
    let config = load(config)?;
    let to_stdout = out == Path::new("-");
    let writer: Box<dyn Write> =
        if to_stdout { Box::new(io::stdout().lock()) } else { Box::new(create_new(out)?) };
    let recorded = agent::record(&config, duration, BufWriter::new(writer), sensors)?;
    eprintln!(
        "recorded {} observations in {:.0} s to {}",
        recorded.observations,
        recorded.secs,
        out.display()
    );
    Ok(())
}
