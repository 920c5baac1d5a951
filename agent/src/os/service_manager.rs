//! State of the service for systemd (`sd_notify(3)`): ready, reloading, stopping, alive, and a
//! sentence for `systemctl status`.
//!
//! A state is one datagram to the socket that `NOTIFY_SOCKET` names, which is never waited for: a
//! systemd that hangs must not hold up the loop. Without the variable nothing is sent. Failure: a
//! state that cannot be sent is lost; the next one may arrive.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// Connection to systemd.
#[derive(Debug, Default)]
pub struct ServiceManager {
    /// `None` if the agent is not a service of systemd that asks for its state.
    socket: Option<UnixDatagram>,
}

impl ServiceManager {
    /// Connects to the service manager that started this process, if there is one.
    pub fn from_env() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let socket = connected(&name).inspect_err(|error| {
            tracing::warn!(
                %error,
                "cannot tell systemd that the agent is ready: NOTIFY_SOCKET={}\n  hint: with \
                 Type=notify in the unit, systemd will end the agent",
                name.display()
            );
        });
        Self { socket: socket.ok() }
    }

    /// Sends assignments, such as `READY=1`.
    pub fn notify(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::debug!(%error, state, "systemd does not take the agent's state");
        }
    }
}

/// Returns the time in which systemd has to hear that the agent is alive; `None` without a
/// watchdog.
pub fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let usec = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0)?;
    Some(Duration::from_micros(usec))
}

fn connected(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_and_are_never_waited_for() {
        let name = format!("spillway-notify-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let abstracted = SocketAddr::from_abstract_name(&name).unwrap();
        let listeners =
            [UnixDatagram::bind(&path).unwrap(), UnixDatagram::bind_addr(&abstracted).unwrap()];
        let names = [path.clone().into_os_string(), format!("@{name}").into()];
        for (listener, name) in listeners.iter().zip(&names) {
            let manager = ServiceManager { socket: Some(connected(name).unwrap()) };
            // More than any queue holds.
            (0..10_000).for_each(|_| manager.notify("READY=1"));
            let mut state = [0; 16];
            let length = listener.recv(&mut state).unwrap();
            assert_eq!(&state[..length], b"READY=1");
        }
        std::fs::remove_file(path).unwrap();
        assert!(connected(OsStr::new("/no/such/socket")).is_err());
        ServiceManager::default().notify("READY=1");
    }
}
