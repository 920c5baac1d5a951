//! Server that answers from a table in memory, like a database or a cache: each request reads some
//! rows from all over it.
//!
//! An answer takes as long as its memory: if a row's page was swapped out, the client waits for the
//! drive.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::Context as _;

use super::sockets::listener;
use super::system::{Random, ready};

const PAGE_BYTES: usize = 4096;
const BACKLOG: i32 = 16;

/// Serves forever. A request is a number of eight bytes, which picks the rows; the answer is their
/// sum, also of eight bytes.
pub fn table(addr: SocketAddr, size: u64, rows: u32) -> anyhow::Result<()> {
    // Written once, so that each page is mapped and its own.
    let table: Vec<u8> =
        (0..usize::try_from(size)?).map(|at| (at / PAGE_BYTES) as u8 | 1).collect();
    let table: &'static [u8] = Vec::leak(table);
    let listener = listener(addr, BACKLOG)?;
    ready(Some(listener.local_addr()?.to_string()))?;
    for stream in listener.incoming() {
        let mut stream = stream.context("accept failed")?;
        // A client may go away early.
        thread::spawn(move || answer(&mut stream, table, rows).unwrap_or(()));
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, table: &[u8], rows: u32) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let pages = (table.len() / PAGE_BYTES).max(1);
    loop {
        let mut request = [0; 8];
        stream.read_exact(&mut request)?;
        let mut random = Random(u64::from_le_bytes(request) | 1);
        let sum: u64 = (0..rows).map(|_| u64::from(table[random.below(pages) * PAGE_BYTES])).sum();
        stream.write_all(&sum.to_le_bytes())?;
    }
}
