//! A DNS resolver for tests: stays silent, refuses, or resolves every name to this host.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

/// Length of a message's header in bytes.
const HEAD_BYTES: usize = 12;
/// Supported question type: IPv4 address.
const A: [u8; 2] = [0, 1];

/// Response to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Knows {
    /// No response.
    Nothing,
    /// Refusal.
    Nobody,
    /// Address of this host, for every name.
    All,
}

/// Resolver on every address of this thread's network namespace; it ends with the process.
pub struct Resolver {
    knows: Arc<AtomicU8>,
}

impl Resolver {
    /// Starts the resolver.
    ///
    /// # Errors
    ///
    /// Returns an error if the port is in use.
    pub fn start(knows: Knows) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?;
        let resolver = Self { knows: Arc::new(AtomicU8::new(knows as u8)) };
        let knows = resolver.knows.clone();
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let knows = knows.load(Ordering::Relaxed);
                if let Some(answer) =
                    answer(&question[..length], knows).filter(|_| knows != Knows::Nothing as u8)
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(resolver)
    }

    /// Changes how it responds from now on.
    pub fn behaves(&self, knows: Knows) {
        self.knows.store(knows as u8, Ordering::Relaxed);
    }
}

/// Builds a response as in RFC 1035: the question again and at most one address.
fn answer(question: &[u8], knows: u8) -> Option<Vec<u8>> {
    let name_bytes = question.get(HEAD_BYTES..)?.iter().position(|byte| *byte == 0)? + 1;
    let end = HEAD_BYTES + name_bytes + 4;
    let kind = question.get(end - 4..end - 2)?;
    let has_address = knows == Knows::All as u8 && kind == A;
    // Flags of a response without error to a recursive query, or of a refusal.
    let flags: [u8; 2] = if knows == Knows::Nobody as u8 { [0x81, 0x85] } else { [0x81, 0x80] };
    let mut answer =
        [&question[..2], &flags, &[0, 1, 0, u8::from(has_address), 0, 0, 0, 0]].concat();
    answer.extend_from_slice(&question[HEAD_BYTES..end]);
    if has_address {
        // The question's name, class IN, a TTL of 0 and four bytes of address.
        answer.extend_from_slice(&[0xc0, HEAD_BYTES as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&Ipv4Addr::LOCALHOST.octets());
    }
    Some(answer)
}
