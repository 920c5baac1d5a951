//! Records for journald in its native protocol: a priority and fields beside the message.
//!
//! A record is one datagram to `/run/systemd/journal/socket`, of lines `NAME=value`; a value of
//! several lines has its length before it (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). Records
//! are sent by the thread of a [`NonblockingWriter`](super::nonblocking_writer::NonblockingWriter),
//! because journald may be stuck. Failure: without the socket, output goes to the streams as it
//! does elsewhere.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    os::unix::net::UnixDatagram,
    sync::Mutex,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::nonblocking_writer::NonblockingWriter;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Prefix of the agent's own fields.
const PREFIX: &str = "SPILLWAY_";

/// Maximum length of a field's name; journald ignores longer ones.
const NAME_BYTES_MAX: usize = 64;

/// Priority of a record, as in syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A person has to look now.
    Critical = 2,
    /// Something failed.
    Error = 3,
    /// Something may fail.
    Warning = 4,
    /// Something was changed.
    Notice = 5,
    /// Everything else that is of interest to an operator.
    Info = 6,
    /// Everything else.
    Debug = 7,
}

/// A record.
#[derive(Debug)]
pub struct JournalRecord(Vec<u8>);

/// Socket to journald, to which each write is one record.
#[derive(Debug)]
pub struct JournalSocket(UnixDatagram);

impl JournalRecord {
    /// Creates a record with a message.
    pub fn new(priority: Priority, message: &str) -> Self {
        let mut record = Self(Vec::with_capacity(message.len() + 128));
        record.push("PRIORITY", &(priority as u8).to_string());
        record.push("SYSLOG_IDENTIFIER", "spillway");
        record.push("MESSAGE", message);
        record
    }

    /// Adds a field, as `SPILLWAY_NAME`. An empty value is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            let is_of_name = |c: char| c.is_ascii_alphanumeric();
            let upper =
                name.chars().map(|c| if is_of_name(c) { c.to_ascii_uppercase() } else { '_' });
            let name: String = PREFIX.chars().chain(upper).take(NAME_BYTES_MAX).collect();
            self.push(&name, &value);
        }
        self
    }

    /// Bytes of the datagram.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl JournalSocket {
    /// Connects to journald.
    ///
    /// # Errors
    ///
    /// Returns an error if journald does not listen.
    pub fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        Ok(Self(socket))
    }
}

impl Write for JournalSocket {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.send(record)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log of the agent as records: each value of an event is a field too.
pub struct JournalLayer(Mutex<NonblockingWriter>);

impl JournalLayer {
    /// Sends records through this writer to a [`JournalSocket`].
    pub fn new(writer: NonblockingWriter) -> Self {
        Self(Mutex::new(writer))
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut values = EventValues::default();
        event.record(&mut values);
        let EventValues { mut message, fields } = values;
        for (name, value) in &fields {
            // Writing to a String cannot fail.
            let _ = write!(message, " {name}={value}");
        }
        let priority = match *event.metadata().level() {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            Level::DEBUG | Level::TRACE => Priority::Debug,
        };
        let record = JournalRecord::new(priority, &message);
        let record = fields.iter().fold(record, |record, (name, value)| record.with(name, value));
        let mut writer = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // It only counts what it cannot take.
        let _ = writer.write(record.bytes());
    }
}

/// Message and values of an event, as text.
#[derive(Default)]
struct EventValues {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl EventValues {
    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            // Of events from the `log` crate: its origin, which says nothing to an operator.
            name if name.starts_with("log.") => {}
            name => self.fields.push((name, value)),
        }
    }
}

impl Visit for EventValues {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_priority_message_and_fields() {
        let record = JournalRecord::new(Priority::Warning, "it leaks")
            .with("id", "leak-1-2")
            .with("cgroup", "")
            .with("exhaustion-secs", 7.5);
        assert_eq!(
            String::from_utf8_lossy(record.bytes()),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=spillway\nMESSAGE=it leaks\nSPILLWAY_ID=leak-1-2\n\
             SPILLWAY_EXHAUSTION_SECS=7.5\n"
        );
    }

    #[test]
    fn value_of_several_lines_has_its_length_and_forges_no_field() {
        let record = JournalRecord::new(Priority::Info, "a\nPRIORITY=0").with(&"n".repeat(99), "b");
        let mut expected = b"PRIORITY=6\nSYSLOG_IDENTIFIER=spillway\nMESSAGE\n".to_vec();
        expected.extend_from_slice(&12_u64.to_le_bytes());
        expected.extend_from_slice(b"a\nPRIORITY=0\nSPILLWAY_");
        expected.extend_from_slice(&[b'N'; NAME_BYTES_MAX - PREFIX.len()]);
        expected.extend_from_slice(b"=b\n");
        assert_eq!(record.bytes(), expected);
    }
}
