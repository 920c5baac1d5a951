//! `spillway top`: the running agent in a terminal, second by second.
//!
//! This file is the edge: the terminal, the threads that wait for keys, reports and signals, and
//! the loop that draws. All the rest is pure: [`state`] turns keys and reports into a state, and
//! [`draw`] draws it. [`views`] lists the views and their columns.

mod cell;
mod details;
mod draw;
mod state;
mod table;
mod views;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal as _, Stdout},
    panic,
    path::{Path, PathBuf},
    process,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyEvent},
        execute,
        terminal::{
            EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
        },
    },
};

use super::{
    CommandError, load,
    pause::{pause_agent, resume_agent},
    status::{ANSWERS_WITHIN, ask_once},
};
use crate::{
    clock::Clock,
    signals::{Hangup, stopped},
    status::{StatusReport, client::ask},
};
use state::{TopState, TopWish};

/// Pause between an answer of the agent and the next question.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Time for the loop to end after a signal. It ends at once unless the terminal takes no output.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Set while the terminal is not itself. Restored twice, the cursor would go back to where it was,
/// and the next line over the message of a panic.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// News for the loop.
enum TopNews {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized(u16, u16),
    /// The terminal cannot be read.
    Unreadable(io::Error),
    /// The agent has answered.
    Answer(Box<StatusReport>),
    /// It has not, for this reason.
    NoAnswer(String),
    /// A request to pause or resume has this result.
    Done(Result<String, String>),
    /// A signal to stop has come.
    Stopped,
}

/// Shows the running agent until the person at the terminal quits.
///
/// # Errors
///
/// Returns an error if there is no terminal, the configuration is invalid, no agent answers at the
/// start, or the terminal fails.
pub fn top(config: Option<&Path>) -> Result<(), CommandError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CommandError::BadInput(anyhow!(
            "`spillway top` needs a terminal for its input and output\n  hint: `spillway status` \
             prints the state once, and `spillway status --json` as JSON"
        )));
    }
    let state_dir = load(config)?.record.state_dir;
    let (_, report) = ask_once(&state_dir)?;
    let has_colour = std::env::var_os("NO_COLOR").is_none();
    let (sender, news) = mpsc::channel();
    let mut screen = TopScreen::open(&sender)
        .context("cannot set up the terminal")
        .map_err(CommandError::Failed)?;
    let done = watch(&mut screen, &state_dir, report, &sender, &news, has_colour);
    // The terminal is itself again before an error is printed.
    drop(screen);
    done.context("the terminal failed").map_err(CommandError::Failed)
}

/// Draws the state and carries out wishes, until one is to quit or a signal comes.
fn watch(
    screen: &mut TopScreen,
    state_dir: &Path,
    report: StatusReport,
    sender: &Sender<TopNews>,
    news: &Receiver<TopNews>,
    has_colour: bool,
) -> io::Result<()> {
    let clock = Clock::start();
    let asks = ask_in_thread(state_dir.to_owned(), sender.clone())?;
    let mut state = TopState::new(report, size()?);
    loop {
        state.now = clock.now();
        screen.terminal.draw(|frame| draw::draw(&state, frame.buffer_mut(), has_colour))?;
        let mut next = loop {
            match news.recv_timeout(ASK_EVERY) {
                Ok(item) => break Some(item),
                // The time since which there is no answer goes on.
                Err(RecvTimeoutError::Timeout) if state.lost.is_some() => break None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        };
        state.now = clock.now();
        // Keys that are held down are drawn together.
        while let Some(item) = next {
            match item {
                TopNews::Key(key) => match state.press(key) {
                    TopWish::Nothing => {}
                    TopWish::Redraw => screen.wipe()?,
                    TopWish::Quit => return Ok(()),
                    wish @ (TopWish::Pause | TopWish::Resume) => {
                        request_in_thread(wish, state_dir.to_owned(), sender.clone())?;
                    }
                },
                TopNews::Resized(width, height) => state.resize((width, height)),
                TopNews::Unreadable(error) => return Err(error),
                TopNews::Answer(report) => state.take(*report),
                TopNews::NoAnswer(why) => state.lose(why, &time_of_day(&clock)),
                TopNews::Done(result) => {
                    state.done(result);
                    // The header is to say so too, now.
                    let _ = asks.send(());
                }
                TopNews::Stopped => return Ok(()),
            }
            next = news.try_recv().ok();
        }
    }
}

/// Returns the time of day in UTC, as `14:02:07`.
fn time_of_day(clock: &Clock) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(clock.unix_ms());
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.get(11..19).unwrap_or_default().to_owned()
}

/// Asks the agent once per second, and at once for each message to the sender that is returned,
/// until that is dropped.
fn ask_in_thread(state_dir: PathBuf, sender: Sender<TopNews>) -> io::Result<Sender<()>> {
    let (asks, asked) = mpsc::channel();
    spawn("top-ask", move || {
        while asked.recv_timeout(ASK_EVERY) != Err(RecvTimeoutError::Disconnected) {
            let news = match ask(&state_dir, ANSWERS_WITHIN) {
                Ok((_, report)) => TopNews::Answer(report.into()),
                Err(error) => TopNews::NoAnswer(one_line(&error.to_string(), "; ")),
            };
            if sender.send(news).is_err() {
                break;
            }
        }
    })?;
    Ok(asks)
}

/// Pauses the agent or lets it act again, which takes some seconds if it does not answer.
fn request_in_thread(wish: TopWish, state_dir: PathBuf, sender: Sender<TopNews>) -> io::Result<()> {
    spawn("top-request", move || {
        let result = match wish {
            TopWish::Pause => pause_agent(&state_dir),
            _ => resume_agent(&state_dir),
        };
        let result = result.map(|text| one_line(&text, " ")).map_err(|error| match error {
            CommandError::BadInput(error) | CommandError::Failed(error) => {
                one_line(&format!("{error:#}"), "; ")
            }
            CommandError::AlreadyReported | CommandError::OutputClosed => "it failed".to_owned(),
        });
        let _ = sender.send(TopNews::Done(result));
    })
}

/// Reads keys and sizes. A thread of its own, because a read can block within a key's sequence, and
/// returns nothing from a terminal that is gone.
fn read_in_thread(sender: Sender<TopNews>) -> io::Result<()> {
    spawn("top-keys", move || {
        loop {
            let news = match event::read() {
                Ok(Event::Key(key)) => TopNews::Key(key),
                Ok(Event::Resize(width, height)) => TopNews::Resized(width, height),
                Ok(_) => continue,
                Err(error) => TopNews::Unreadable(error),
            };
            let is_last = matches!(news, TopNews::Unreadable(_));
            if sender.send(news).is_err() || is_last {
                break;
            }
        }
    })
}

/// Waits for a signal to stop. If the loop does not end then, because the terminal takes no output,
/// the process does.
fn heed_signals_in_thread(sender: Sender<TopNews>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Before the terminal is changed.
    let (stopped, mut hangup) = {
        let _entered = runtime.enter();
        (stopped()?, Hangup::listen()?)
    };
    spawn("top-signals", move || {
        runtime.block_on(async {
            tokio::select! {
                () = stopped => {}
                () = hangup.received() => {}
            }
        });
        let _ = sender.send(TopNews::Stopped);
        thread::sleep(ENDS_WITHIN);
        let _ = disable_raw_mode();
        process::exit(1);
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Joins the lines of a message.
fn one_line(text: &str, separator: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(separator)
}

/// The terminal, which is itself again once this is dropped.
struct TopScreen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl TopScreen {
    /// Takes over the terminal, and starts to listen to it and to signals.
    fn open(sender: &Sender<TopNews>) -> io::Result<Self> {
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        heed_signals_in_thread(sender.clone())?;
        restore_on_panic();
        // From here on, whatever fails restores it.
        let mut screen = Self { terminal };
        IS_TAKEN.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        screen.wipe()?;
        read_in_thread(sender.clone())?;
        Ok(screen)
    }

    /// Clears the screen, so that everything is drawn anew. [`Terminal::clear`] would ask the
    /// terminal for the place of its cursor, and not every one answers.
    fn wipe(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }
}

impl Drop for TopScreen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal, as far as it still works.
fn restore() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

/// Restores the terminal before the message of a panic. One in another thread than the loop's ends
/// the process, because the loop would draw over the message.
fn restore_on_panic() {
    let print = panic::take_hook();
    let main = thread::current().id();
    panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
        if thread::current().id() != main {
            process::exit(101);
        }
    }));
}
