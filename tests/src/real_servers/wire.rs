//! Requests and responses of the protocols that the scenes speak.

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// Bytes read at a time.
const CHUNK: usize = 4_096;

/// Start-up message of PostgreSQL's protocol 3.0, for the user and the database `postgres`.
pub(super) const POSTGRES_HELLO: [u8; 41] =
    *b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";

/// Address of a server.
#[derive(Debug, Clone)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// UNIX socket in the file system.
    Unix(PathBuf),
}

/// Protocol and the request that clients send.
#[derive(Debug, Clone)]
pub enum Wire {
    /// `GET /` of HTTP/1.1.
    Http,
    /// Command of Redis, with its arguments.
    Redis(Vec<String>),
    /// Statement of PostgreSQL.
    Postgres(String),
}

/// Open connection.
pub(super) type Connection = Box<dyn Stream>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Connects, and introduces the client if the protocol asks for it.
pub(super) async fn connect(target: &Target, wire: &Wire) -> io::Result<Connection> {
    let mut connection: Connection = match target {
        Target::Tcp(addr) => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    if let Wire::Postgres(_) = wire {
        connection.write_all(&POSTGRES_HELLO).await?;
        until_ready(&mut connection).await?;
    }
    Ok(connection)
}

/// Sends one request and reads its response; returns whether the connection may be used again.
pub(super) async fn exchange(
    connection: &mut Connection,
    wire: &Wire,
    keep: bool,
) -> io::Result<bool> {
    match wire {
        Wire::Http => {
            let close = if keep { "" } else { "Connection: close\r\n" };
            let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{close}\r\n");
            connection.write_all(request.as_bytes()).await?;
            http_response(connection).await
        }
        Wire::Redis(words) => {
            let mut request = format!("*{}\r\n", words.len());
            words.iter().for_each(|word| {
                request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            });
            connection.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n") {
                more(connection, &mut answer).await?;
            }
            if answer.starts_with(b"-") { Err(refused(&answer)) } else { Ok(true) }
        }
        Wire::Postgres(statement) => {
            connection.write_all(&postgres_query(statement)).await?;
            until_ready(connection).await.map(|()| true)
        }
    }
}

/// Reads a response of HTTP; returns whether the connection stays open.
async fn http_response(connection: &mut Connection) -> io::Result<bool> {
    let mut answer = Vec::new();
    let head = loop {
        if let Some(at) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        more(connection, &mut answer).await?;
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") && !text.starts_with("http/1.0 200") {
        return Err(refused(&answer));
    }
    let header = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let is_chunked = header("transfer-encoding") == Some("chunked");
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    let is_whole = |answer: &[u8]| match length {
        Some(length) => answer.len() >= head + length,
        None => is_chunked && answer.ends_with(b"0\r\n\r\n"),
    };
    while !is_whole(&answer) {
        match more(connection, &mut answer).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && length.is_none() => {
                return Ok(false);
            }
            other => other?,
        }
    }
    Ok(text.starts_with("http/1.1") && header("connection") != Some("close"))
}

/// Returns PostgreSQL's message with a statement.
pub(super) fn postgres_query(statement: &str) -> Vec<u8> {
    let mut query = vec![b'Q'];
    query.extend((statement.len() as u32 + 5).to_be_bytes());
    query.extend(statement.as_bytes());
    query.push(0);
    query
}

/// Reads PostgreSQL's messages until it is ready for the next statement.
async fn until_ready(connection: &mut Connection) -> io::Result<()> {
    let mut failed = None;
    loop {
        let kind = connection.read_u8().await?;
        let length = connection.read_u32().await?.saturating_sub(4);
        let mut body = vec![0; length as usize];
        connection.read_exact(&mut body).await?;
        match kind {
            b'Z' => return failed.map_or(Ok(()), Err),
            b'E' => failed = Some(refused(&body)),
            _ => {}
        }
    }
}

/// Reads what has arrived.
async fn more(connection: &mut Connection, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    match connection.read(&mut chunk).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            answer.extend(&chunk[..count]);
            Ok(())
        }
    }
}

fn refused(answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
    io::Error::other(text)
}
