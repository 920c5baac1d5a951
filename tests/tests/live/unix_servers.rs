//! Servers behind UNIX listeners, of which the kernel shows the depth of the queue alone.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_tests::{ANY_PORT, Running, Scratch, Servers, is_root, now, run_with, skip, wait_for};

const WORKERS: u32 = 4;

/// Time in which a server that accepts nothing may be starting, and a bit.
const STARTS_WITHIN: Duration = Duration::from_millis(10_500);

/// Interval between requests, and the time from the first that waits within which they are claimed.
const EACH: Duration = Duration::from_millis(160);
const CLAIMED_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn gunicorn_with_all_workers_stuck_is_claimed_in_time() {
    let test = "gunicorn_with_all_workers_stuck_is_claimed_in_time";
    if !is_root(test) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(test, &reason),
    };
    let scratch = Scratch::make("gunicorn");
    let (dir, socket) = (scratch.0.join("app"), scratch.0.join("app.sock"));
    let _server = servers.gunicorn(&dir, &socket, WORKERS);
    let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
    command.arg("--json");
    let running = Running::start(command);
    let addr = format!("unix:{}", socket.display());
    let claims = || {
        let lines = running.printed();
        let parsed = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed
            .filter(|line| line["verdict"] == "overload" && line["addr"] == *addr)
            .collect::<Vec<_>>()
    };
    // While it is healthy, every request is answered.
    let started = now();
    while started.elapsed() < STARTS_WITHIN {
        let mut client = request(&socket);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("reading the response");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        sleep(EACH);
    }
    assert_eq!(claims(), [] as [Value; 0], "{addr} answers");

    fs::write(dir.join("stuck"), "").expect("the directory is the test's");
    // The workers take the first requests; the next one waits.
    let mut clients: Vec<_> = (0..WORKERS).map(|_| request(&socket)).collect();
    sleep(EACH);
    let waits_since = now();
    let claimed = wait_for(2 * CLAIMED_WITHIN, || {
        clients.push(request(&socket));
        sleep(EACH);
        claims().pop()
    });
    let after = waits_since.elapsed();
    let claim = claimed.unwrap_or_else(|| panic!("no claim about {addr}: {}", running.log()));
    println!("claimed after {:.1} s: {}", after.as_secs_f64(), claim["why"]);
    assert_eq!(claim["scarce"], "accept_loop");
    assert!(after <= CLAIMED_WITHIN, "{after:?} after the first request that waits");

    fs::remove_file(dir.join("stuck")).expect("it was made above");
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("reading the response");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    assert_eq!(running.stop().0, Some(0));
}

fn request(socket: &std::path::Path) -> UnixStream {
    let mut client = UnixStream::connect(socket).expect("the server should listen");
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("writing the request");
    client
}
