//! Service that a scene's server asks for each request: it answers a line with a line at once, until
//! it is told not to.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::spawn_local,
    time::sleep,
};

use super::scene::Fault;

/// Length of its accept queue; once it is full the kernel discards the segments of others.
const BACKLOG: u32 = 8;

/// Interval of its checks.
const STEP: Duration = Duration::from_millis(5);

/// Dependency that can be told to fail.
#[derive(Clone)]
pub(super) struct Dependency(Rc<Cell<Fault>>);

impl Dependency {
    pub(super) fn start(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let dependency = Self(Rc::new(Cell::new(Fault::None)));
        let own = dependency.clone();
        drop(spawn_local(async move {
            loop {
                while own.0.get() == Fault::DependencyGone {
                    sleep(STEP).await;
                }
                if let Ok((stream, _)) = listener.accept().await {
                    drop(spawn_local(own.clone().answer(stream)));
                }
            }
        }));
        Ok(dependency)
    }

    pub(super) fn set(&self, fault: Fault) {
        self.0.set(fault);
    }

    async fn answer(self, mut stream: TcpStream) {
        let mut question = [0; 64];
        while stream.read(&mut question).await.is_ok_and(|count| count > 0) {
            while self.0.get() != Fault::None {
                sleep(STEP).await;
            }
            if stream.write_all(b"ok\n").await.is_err() {
                return;
            }
        }
    }
}
