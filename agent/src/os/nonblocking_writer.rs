//! Writers to standard output and standard error that never block their caller.
//!
//! The reader of a stream may be stuck: under memory pressure journald waits for its own pages, and
//! an agent that writes to a full pipe waits with it. So a thread writes each stream, and a line is
//! dropped if [`LINES_MAX`] lines wait already. Dropped lines are counted, and logged once lines
//! can be written again. Failure: a line that cannot be written, for example because the disk is
//! full, is dropped, and the next one is tried. If the reader is gone, that is logged once and
//! nothing more is written. At exit, [`NonblockingWriter::drain`] waits briefly for the rest.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use crate::clock::Clock;

/// Maximum number of waiting lines: more than the agent writes in a busy hour.
const LINES_MAX: usize = 1_024;

/// Message to the thread.
enum Message {
    Line(Vec<u8>),
    /// A request to confirm that everything sent before it is written.
    Flush(Sender<()>),
}

/// Number of lines for one stream that were not written.
#[derive(Debug, Clone)]
pub struct DroppedLines {
    stream: &'static str,
    total: Arc<AtomicU64>,
}

/// Writer of one stream; clones write to the same stream.
#[derive(Clone)]
pub struct NonblockingWriter {
    messages: SyncSender<Message>,
    dropped: DroppedLines,
    is_closed: Arc<AtomicBool>,
}

impl DroppedLines {
    fn new(stream: &'static str) -> Self {
        Self { stream, total: Arc::default() }
    }

    /// Name of the stream.
    pub fn stream(&self) -> &'static str {
        self.stream
    }

    /// Number of lines since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }
}

impl NonblockingWriter {
    /// Starts a thread that writes to `stream`, which logs and metrics call `name`.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses another thread.
    pub fn start(name: &'static str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (messages, received) = sync_channel(LINES_MAX);
        let dropped = DroppedLines::new(name);
        let writer = Self { messages, dropped: dropped.clone(), is_closed: Arc::default() };
        let is_closed = writer.is_closed.clone();
        thread::Builder::new().name("spillway-write".to_owned()).spawn(move || {
            if let Err(error) = write_all(stream, &received, &dropped) {
                is_closed.store(true, Ordering::Relaxed);
                tracing::warn!(
                    %error,
                    "the reader of {name} is gone: nothing more is written to it\n  \
                     hint: restart the agent to connect another reader"
                );
            }
        })?;
        Ok(writer)
    }

    /// Lines that were not written.
    pub fn dropped(&self) -> DroppedLines {
        self.dropped.clone()
    }

    /// Waits until all lines sent so far are written, for at most about `limit`.
    pub fn drain(&self, limit: Duration) {
        let clock = Clock::start();
        let (confirm, confirmed) = channel();
        let mut flush = Message::Flush(confirm);
        // The channel may be full for now.
        while let Err(TrySendError::Full(unsent)) = self.messages.try_send(flush) {
            if clock.now() > limit.as_secs_f64() {
                return;
            }
            flush = unsent;
            thread::sleep(Duration::from_millis(1));
        }
        let _ = confirmed.recv_timeout(limit);
    }
}

impl Write for NonblockingWriter {
    /// Takes one complete line, without waiting.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.is_closed.load(Ordering::Relaxed)
            || self.messages.try_send(Message::Line(line.to_vec())).is_err()
        {
            self.dropped.count();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(
    mut stream: impl Write,
    messages: &Receiver<Message>,
    dropped: &DroppedLines,
) -> io::Result<()> {
    let name = dropped.stream();
    let mut reported_total = 0;
    let mut last_error = None::<io::Error>;
    // Whether a line was cut off, so that the next one must not continue it.
    let mut is_torn = false;
    for message in messages {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(confirm) => {
                let _ = confirm.send(());
                continue;
            }
        };
        if let Err(error) = write_line(&mut stream, &line, &mut is_torn) {
            dropped.count();
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Err(error);
            }
            last_error = Some(error);
            continue;
        }
        let total = dropped.total();
        let lines = total - reported_total;
        reported_total = total;
        match last_error.take() {
            Some(error) => tracing::warn!(
                lines,
                %error,
                "lines could not be written to {name} and were dropped\n  \
                 hint: check the free space of the disk that {name} is written to"
            ),
            None if lines > 0 => tracing::warn!(
                lines,
                "the reader of {name} was too slow: lines were dropped\n  \
                 hint: check the load of the program that reads {name}"
            ),
            None => {}
        }
    }
    Ok(())
}

/// Writes one line, or as much of it as the stream takes.
fn write_line(stream: &mut impl Write, line: &[u8], is_torn: &mut bool) -> io::Result<()> {
    if *is_torn {
        stream.write_all(b"\n")?;
        *is_torn = false;
    }
    let mut rest = line;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = &rest[written..];
                *is_torn = !rest.is_empty();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, PipeWriter, pipe},
        sync::mpsc::RecvTimeoutError,
    };

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A pipe without a reader yet, so full that no line has room.
    fn full_pipe() -> (BufReader<io::PipeReader>, PipeWriter) {
        let (reader, mut writer) = pipe().unwrap();
        let size = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
        writer.write_all(&vec![b'\n'; size as usize]).unwrap();
        (BufReader::new(reader), writer)
    }

    #[test]
    fn writers_never_wait_and_dropped_lines_are_counted() {
        let (reader, writer) = full_pipe();
        let mut writer = NonblockingWriter::start("pipe", writer).unwrap();
        let (done, ends) = channel();
        let writes = {
            let mut writer = writer.clone();
            thread::spawn(move || {
                for number in 0..LINES_MAX + 100 {
                    write_number(&mut writer, number);
                }
                drop(done);
            })
        };
        assert_eq!(
            ends.recv_timeout(LONG),
            Err::<(), _>(RecvTimeoutError::Disconnected),
            "a write waited for the reader"
        );
        writes.join().unwrap();
        // The thread holds at most one line, which waits for the reader.
        let dropped = writer.dropped().total();
        assert!((99..=100).contains(&dropped), "{dropped} were dropped");

        let kept = LINES_MAX + 100 - dropped as usize;
        let lines = thread::spawn(move || {
            let numbers =
                reader.lines().map(Result::unwrap).filter_map(|line| line.parse::<usize>().ok());
            numbers.collect::<Vec<_>>()
        });
        writer.drain(LONG);
        write_number(&mut writer, 9_999);
        writer.drain(LONG);
        drop(writer);
        let lines = lines.join().unwrap();
        assert_eq!(
            lines[..kept],
            (0..kept).collect::<Vec<_>>()[..],
            "lines that had room, in order"
        );
        assert_eq!(lines[kept..], [9_999], "then the line that came when there was room again");
    }

    /// Stream with room for some bytes, such as a file on a disk that is nearly full.
    #[derive(Clone)]
    struct Disk {
        room: Arc<AtomicU64>,
        holds: Arc<std::sync::Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room.load(Ordering::Relaxed) as usize);
            self.room.fetch_sub(taken as u64, Ordering::Relaxed);
            self.holds.lock().unwrap().extend(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_again_once_a_full_disk_has_room() {
        let disk = Disk { room: Arc::new(AtomicU64::new(3)), holds: Arc::default() };
        let mut writer = NonblockingWriter::start("disk", disk.clone()).unwrap();
        for number in 10..14 {
            write_number(&mut writer, number);
        }
        write_number(&mut writer, 555);
        writer.drain(LONG);
        assert_eq!(*disk.holds.lock().unwrap(), b"10\n", "the other lines have no room");
        disk.room.store(2, Ordering::Relaxed);
        write_number(&mut writer, 666);
        writer.drain(LONG);
        disk.room.store(100, Ordering::Relaxed);
        write_number(&mut writer, 777);
        writer.drain(LONG);
        assert_eq!(
            *disk.holds.lock().unwrap(),
            b"10\n66\n777\n",
            "no line continues one that was cut off"
        );
        assert_eq!(writer.dropped().total(), 5, "11, 12, 13, 555 and half of 666");
    }

    fn write_number(writer: &mut NonblockingWriter, number: usize) {
        writer.write_all(format!("{number}\n").as_bytes()).unwrap();
    }

    #[test]
    fn exit_waits_for_neither_a_stuck_nor_a_closed_reader() {
        let (reader, writer) = full_pipe();
        let mut stuck = NonblockingWriter::start("pipe", writer).unwrap();
        write_number(&mut stuck, 1);
        let clock = Clock::start();
        stuck.drain(Duration::from_millis(50));
        assert!(clock.now() < LONG.as_secs_f64());
        drop(reader);
        // The thread ends with that line, and takes no more.
        while !stuck.is_closed.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        write_number(&mut stuck, 2);
        stuck.drain(LONG);
        assert_eq!(stuck.dropped().total(), 2);
    }
}
