//! Lines for standard output and standard error that nobody waits for.
//!
//! Whoever reads what an agent says may be stuck: where memory is short the journal waits for its
//! own pages, a full pipe takes nothing more, and an agent that writes to it itself stands with it.
//! So each stream has a thread that writes, and a line for it is left out when [`LINES_MAX`] wait
//! already. How many were left out is said in their place. Failure: a line that the stream does not
//! take, such as a file's on a full disk, is left out, and the next one is tried. A reader that
//! went away is told of once, in the log, and no more is written to it. Cold start: what waits at
//! the end is written, if that is soon done.

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

/// Lines that wait at most: more than an agent says in an hour in which much happens.
const LINES_MAX: usize = 1_024;

/// Message to the thread.
enum Piece {
    Line(Vec<u8>),
    /// Say when you come to this.
    Mark(Sender<()>),
}

/// One stream; its clones write to the same.
#[derive(Clone)]
pub struct NonblockingWriter {
    pieces: SyncSender<Piece>,
    left_out: Arc<AtomicU64>,
    is_closed: Arc<AtomicBool>,
}

impl NonblockingWriter {
    /// Starts its thread, which writes to `stream`, called `name`, whatever it takes.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be had.
    pub fn start(name: &'static str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, taken) = sync_channel(LINES_MAX);
        let outlet = Self { pieces, left_out: Arc::default(), is_closed: Arc::default() };
        let (left_out, is_closed) = (outlet.left_out.clone(), outlet.is_closed.clone());
        thread::Builder::new().name("spillway-write".to_owned()).spawn(move || {
            if let Err(error) = write_all(name, stream, &taken, &left_out) {
                is_closed.store(true, Ordering::Relaxed);
                tracing::warn!(%error, "{name} is closed; the agent goes on without it");
            }
        })?;
        Ok(outlet)
    }

    /// Waits until all that was handed on so far is written, for about `limit` at most.
    pub fn drain(&self, limit: Duration) {
        let clock = Clock::start();
        let (said, came) = channel();
        let mut mark = Piece::Mark(said);
        // There may be no room for it yet.
        while let Err(TrySendError::Full(back)) = self.pieces.try_send(mark) {
            if clock.now() > limit.as_secs_f64() {
                return;
            }
            mark = back;
            thread::sleep(Duration::from_millis(1));
        }
        let _ = came.recv_timeout(limit);
    }
}

impl Write for NonblockingWriter {
    /// Takes a whole line, at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.is_closed.load(Ordering::Relaxed)
            && self.pieces.try_send(Piece::Line(line.to_vec())).is_err()
        {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(
    name: &str,
    mut stream: impl Write,
    pieces: &Receiver<Piece>,
    left_out: &AtomicU64,
) -> io::Result<()> {
    let mut failed = None::<io::Error>;
    // Whether a line was cut off, so that the next one must not continue it.
    let mut is_torn = false;
    for piece in pieces {
        let line = match piece {
            Piece::Line(line) => line,
            Piece::Mark(said) => {
                let _ = said.send(());
                continue;
            }
        };
        if let Err(error) = put_line(&mut stream, &line, &mut is_torn) {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Err(error);
            }
            left_out.fetch_add(1, Ordering::Relaxed);
            failed = Some(error);
            continue;
        }
        let left_out = left_out.swap(0, Ordering::Relaxed);
        match failed.take() {
            Some(error) => {
                tracing::warn!(left_out, %error, "{name} took no lines for a while; they were left \
                                                  out")
            }
            None if left_out > 0 => {
                tracing::warn!(left_out, "whoever reads {name} was too slow; lines were left out");
            }
            None => {}
        }
    }
    Ok(())
}

/// Writes one line, or as much of it as the stream takes.
fn put_line(stream: &mut impl Write, line: &[u8], is_torn: &mut bool) -> io::Result<()> {
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

    /// A pipe that nobody reads yet, with so much in it that no line has room.
    fn full() -> (BufReader<io::PipeReader>, PipeWriter) {
        let (reader, mut writer) = pipe().unwrap();
        let size = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
        writer.write_all(&vec![b'\n'; size as usize]).unwrap();
        (BufReader::new(reader), writer)
    }

    #[test]
    fn writers_never_wait_and_dropped_lines_are_counted() {
        let (reader, writer) = full();
        let mut outlet = NonblockingWriter::start("a full pipe", writer).unwrap();
        let (done, ends) = channel();
        let writes = {
            let mut outlet = outlet.clone();
            thread::spawn(move || {
                for number in 0..LINES_MAX + 100 {
                    writeln_at_once(&mut outlet, number);
                }
                drop(done);
            })
        };
        assert_eq!(
            ends.recv_timeout(LONG),
            Err::<(), _>(RecvTimeoutError::Disconnected),
            "it waits for the reader"
        );
        writes.join().unwrap();
        // The thread has taken one at most, which waits for the reader.
        let left_out = outlet.left_out.load(Ordering::Relaxed);
        assert!((99..=100).contains(&left_out), "{left_out} were left out");

        let kept = LINES_MAX + 100 - left_out as usize;
        let lines = thread::spawn(move || {
            let numbers =
                reader.lines().map(Result::unwrap).filter_map(|line| line.parse::<usize>().ok());
            numbers.collect::<Vec<_>>()
        });
        outlet.drain(LONG);
        writeln_at_once(&mut outlet, 9_999);
        outlet.drain(LONG);
        drop(outlet);
        let lines = lines.join().unwrap();
        assert_eq!(
            lines[..kept],
            (0..kept).collect::<Vec<_>>()[..],
            "those that had room, in their order"
        );
        assert_eq!(lines[kept..], [9_999], "and what came when there was room again");
    }

    /// Takes so many bytes and is full then, as a file on a disk; counted anew whenever room is
    /// made.
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
        let mut outlet = NonblockingWriter::start("a full disk", disk.clone()).unwrap();
        for number in 10..14 {
            writeln_at_once(&mut outlet, number);
        }
        writeln_at_once(&mut outlet, 555);
        outlet.drain(LONG);
        assert_eq!(*disk.holds.lock().unwrap(), b"10\n", "the others have no room");
        disk.room.store(2, Ordering::Relaxed);
        writeln_at_once(&mut outlet, 666);
        outlet.drain(LONG);
        disk.room.store(100, Ordering::Relaxed);
        writeln_at_once(&mut outlet, 777);
        outlet.drain(LONG);
        assert_eq!(
            *disk.holds.lock().unwrap(),
            b"10\n66\n777\n",
            "and no line continues one that was cut off"
        );
        assert_eq!(outlet.left_out.load(Ordering::Relaxed), 0, "they were told of");
    }

    fn writeln_at_once(outlet: &mut NonblockingWriter, number: usize) {
        outlet.write_all(format!("{number}\n").as_bytes()).unwrap();
    }

    #[test]
    fn a_reader_that_went_away_or_is_stuck_holds_up_no_end() {
        let (reader, writer) = full();
        let mut stuck = NonblockingWriter::start("a full pipe", writer).unwrap();
        writeln_at_once(&mut stuck, 1);
        let clock = Clock::start();
        stuck.drain(Duration::from_millis(50));
        assert!(clock.now() < LONG.as_secs_f64());
        drop(reader);
        // Its thread ends with that line; nothing is taken any more.
        while !stuck.is_closed.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        writeln_at_once(&mut stuck, 2);
        stuck.drain(LONG);
        assert_eq!(stuck.left_out.load(Ordering::Relaxed), 0);
    }
}
