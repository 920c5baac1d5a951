//! `spillway record`: writes everything that the sensors report as a trace, or what the running
//! agent has sampled.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::anyhow;

use super::{CommandError, create_new, load};
use crate::{
    agent,
    clock::Clock,
    history::{FrameReader, Period},
    os::host,
    sense::Sensors,
    trace::TraceWriter,
};

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
    let recorded = agent::record(&config, duration, create(out)?, sensors)?;
    eprintln!(
        "recorded {} observations in {:.0} s to {}",
        recorded.observations,
        recorded.secs,
        out.display()
    );
    Ok(())
}

/// Writes what the agent has sampled in the `last` time of this boot. `-` writes to standard
/// output.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, there is no history of that time, the file
/// exists, or it cannot be written.
pub fn record_last(out: &Path, last: Duration, config: Option<&Path>) -> Result<(), CommandError> {
    let state_dir = load(config)?.record.state_dir;
    let to_secs = Clock::start().unix_ms() / 1_000;
    let period =
        Period { from_secs: to_secs.saturating_sub(last.as_secs()), to_secs, step_secs: 0 };
    let no_history = |error| CommandError::Failed(anyhow::Error::new(error));
    // Process ids of another boot are other processes.
    let boot_id = host::boot_id()?;
    let frames = FrameReader::open(&state_dir, period).map_err(no_history)?;
    let mut frames = frames.filter(|frame| frame.header.boot_id == boot_id).peekable();
    let Some(first) = frames.peek() else {
        return Err(CommandError::Failed(anyhow!(
            "the history below {} has nothing of the last {} of this boot\n  hint: the agent \
             samples once a minute while it runs",
            state_dir.display(),
            humantime::format_duration(Duration::from_secs(last.as_secs()))
        )));
    };
    let header = first.header.clone();
    // The first observations of a minute are older than its header.
    let start_t = first.observations().next().map_or(header.t, |observation| observation.t);
    let mut writer = TraceWriter::new(create(out)?, header.host, header.interval_secs)?;
    let (mut observations, mut minutes, mut last_t) = (0_u64, 0_u64, 0.0_f64);
    for frame in frames {
        minutes += 1;
        for mut observation in frame.observations() {
            // An agent that was restarted may have told the time a little differently.
            last_t = last_t.max(observation.t - start_t);
            observation.t = last_t;
            writer.write(&observation)?;
            observations += 1;
        }
    }
    writer.finish()?;
    eprintln!("wrote {observations} observations of {minutes} minutes to {}", out.display());
    Ok(())
}

/// Opens the output: a new file, or standard output.
fn create(out: &Path) -> Result<impl Write + use<>, CommandError> {
    let writer: Box<dyn Write> = if out == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(create_new(out)?)
    };
    Ok(BufWriter::new(writer))
}
