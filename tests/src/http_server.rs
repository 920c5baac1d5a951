//! Minimal HTTP/1.1 server for tests: one request per connection, with a `content-length`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd as _,
};

/// Request, as it was received.
#[derive(Debug, Clone)]
pub struct Request {
    /// First line: method, target and version.
    pub line: String,
    /// Headers by name in lowercase; the values of one that is repeated are joined by ", ".
    pub headers: BTreeMap<String, String>,
    /// Body, as long as `content-length` says.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads the only request of a connection.
    ///
    /// # Errors
    ///
    /// Returns an error if the client breaks off, or sends something that is not a request.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let line = line(&mut reader)?;
        let mut request = Self { line, headers: BTreeMap::new(), body: Vec::new() };
        loop {
            let line = self::line(&mut reader)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
            let value = value.trim();
            let values = request.headers.entry(name.to_ascii_lowercase()).or_default();
            if !values.is_empty() {
                values.push_str(", ");
            }
            values.push_str(value);
        }
        if let Some(length) = request.header("content-length") {
            request.body = vec![0; length.parse().map_err(|_| invalid(length))?];
        }
        reader.read_exact(&mut request.body)?;
        Ok(request)
    }

    /// Method and target.
    pub fn method_and_target(&self) -> (&str, &str) {
        let mut words = self.line.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// Value of a header, by its name in lowercase.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Writes a response with a body; each line of `headers` ends with CR LF.
///
/// # Errors
///
/// Returns an error if the client is gone.
pub fn respond(
    stream: &mut impl Write,
    status: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n")?;
    stream.write_all(body)?;
    stream.flush()
}

/// Closes a connection as a crash does: the client receives a reset.
///
/// # Errors
///
/// Returns an error if the stream is not a socket.
pub fn reset(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the kernel reads a linger of its size, which lives until it returns.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads one line, without its end.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {text:?}"))
}
