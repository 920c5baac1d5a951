//! Commands that need no host: output and exit codes.

use std::{
    io::Write as _,
    process::{Output, Stdio},
};

use spillway_tests::agent;

fn spillway(args: &[&str], input: &[u8]) -> Output {
    let mut child = agent()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the agent");
    // The agent may end before it has read everything.
    let _ = child.stdin.take().expect("stdin should be piped").write_all(input);
    child.wait_with_output().expect("waiting for the agent")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const HEADER: &str = "{\"spillway_trace\":1,\"host\":{\"mem_total_bytes\":17179869184,\"cpus\":8},\"interval_secs\":5.0}\n";

#[test]
fn version_and_help() {
    let output = spillway(&["--version"], b"");
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("spillway {}\n", env!("CARGO_PKG_VERSION"))
    );
    let output = spillway(&["--help"], b"");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Examples:"));
    assert_eq!(spillway(&["nonsense"], b"").status.code(), Some(2));
}

#[test]
fn the_printed_defaults_are_the_shipped_file() {
    let output = spillway(&["check-config", "--print-defaults"], b"");
    assert!(output.status.success());
    let shipped = include_str!("../../../configs/spillway.toml");
    assert!(
        output.stdout == shipped.as_bytes(),
        "hint: spillway check-config --print-defaults > configs/spillway.toml"
    );
}

#[test]
fn slow_scans_are_accepted_with_a_note() {
    let slow = b"sense.interval = \"1m\"\n";
    let output = spillway(&["check-config", "/dev/stdin"], slow);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        printed.contains(": ok\n/dev/stdin: note: sense.interval = 1m is too long"),
        "{printed}"
    );
    let output = spillway(&["check-config", "--json", "/dev/stdin"], slow);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["problems"].as_array().unwrap().len(), 0);
    assert!(printed["notices"][0]["hint"].is_string(), "{printed}");
}

#[test]
fn bad_configuration_is_fully_reported_and_exits_2() {
    let output = spillway(
        &["check-config", "/dev/stdin"],
        b"mode = \"bold\"\n[sense]\ninterval = 5\nintervall = \"1s\"\n",
    );
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let printed = stderr(&output);
    for line in [":1: ", ":3: ", ":4: ", "did you mean \"interval\"?"] {
        assert!(printed.contains(line), "{printed}");
    }
    let open = b"serve.listen = \"0.0.0.0:9646\"\nact.drain.agent_check.listen = \"[::]:9647\"\n";
    for command in [&["check-config", "/dev/stdin"][..], &["run", "--config", "/dev/stdin"]] {
        let output = spillway(command, open);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert_eq!(
            stderr(&output).matches("is open to every network\n  hint: ").count(),
            2,
            "{}",
            stderr(&output)
        );
    }
    let output = spillway(&["run", "--config", "/nonexistent.toml"], b"");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint:"), "{}", stderr(&output));
}

#[test]
fn a_hostile_trace_is_skipped_line_by_line() {
    let mut trace = HEADER.as_bytes().to_vec();
    trace.extend(b"{\"t\":0.0,\"kind\":\"host\",\"mem_available_bytes\":9000000000}\n");
    trace.extend(b"{\"t\":NaN,\"kind\":\"host\",\"mem_available_bytes\":1}\n");
    trace.extend(b"{\"t\":1.0,\"kind\":\"host\",\"mem_available_bytes\":-1}\n");
    trace.extend(b"{\"t\":-5.0,\"kind\":\"host\",\"mem_available_bytes\":1}\n");
    trace.extend(b"{\"t\":2.0,\"kind\":\"weather\",\"sunny\":true}\n\xff\xfe\n");
    trace.extend(vec![b'x'; 10 << 20]);
    trace.extend(b"\n{\"t\":3.0,\"kind\":\"ho");
    let output = spillway(&["replay", "-"], &trace);
    let printed = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    assert!(output.stdout.is_empty());
    assert!(printed.contains("skipped 7 of 9 lines"), "{printed}");
    assert!(printed.contains("unknown kind \"weather\""), "{printed}");
    for line in ["line 3", "line 4", "line 5", "line 7", "line 8", "line 9"] {
        assert!(printed.contains(line), "no {line} in {printed}");
    }
}

#[test]
fn a_trace_without_a_header_is_refused() {
    for input in [
        &b""[..],
        b"{}\n",
        b"\xff\n",
        b"{\"spillway_trace\":2,\"host\":{\"mem_total_bytes\":1,\"cpus\":1},\"interval_secs\":1}\n",
    ] {
        let output = spillway(&["replay", "-"], input);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("line 1: "), "{}", stderr(&output));
    }
    assert_eq!(spillway(&["replay", "/nonexistent"], b"").status.code(), Some(2));
}

/// Configuration of the demo, with a short warm-up.
const DEMO_CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/demo.toml");

#[test]
fn a_process_is_explained_as_a_picture() {
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/live-demo.jsonl");
    let output = spillway(&["explain", trace, "--pid", "26921", "--config", DEMO_CONFIG], b"");
    assert!(output.status.success(), "{}", stderr(&output));
    let svg = String::from_utf8(output.stdout).expect("the SVG should be UTF-8");
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for expected in [
        "demo-leak (pid 26921) in /demo",
        "raised",
        "cleared",
        "memory, MiB",
        "seconds since",
        "without slowing",
        "it exited",
    ] {
        assert!(svg.contains(expected), "no {expected:?} in {svg}");
    }
    let shipped = include_str!("../../traces/live-demo.svg");
    assert!(
        svg == shipped,
        "hint: spillway explain {trace} --pid 26921 --config configs/demo.toml > \
         tests/traces/live-demo.svg"
    );
    // The curve, the fitted line, and a line for each claim.
    assert!(svg.matches("<polyline").count() > 3, "{svg}");
    let healthy = spillway(&["explain", trace, "--pid", "26923"], b"");
    assert!(String::from_utf8_lossy(&healthy.stdout).contains("Nothing was claimed about it."));
}

#[test]
fn unknown_pid_error_lists_known_pids() {
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/live-demo.jsonl");
    let output = spillway(&["explain", trace, "--pid", "1"], b"");
    assert_eq!(output.status.code(), Some(2));
    let printed = stderr(&output);
    assert!(
        printed.contains("no process with pid 1") && printed.contains("26921 (demo-leak)"),
        "{printed}"
    );
    let output = spillway(&["explain", "-", "--pid", "1"], HEADER.as_bytes());
    assert!(stderr(&output).contains("it has no processes at all"), "{}", stderr(&output));
    let output = spillway(&["explain", trace, "--pid", "26921", "--out", trace], b"");
    assert_eq!(
        output.status.code(),
        Some(2),
        "an existing file should not be overwritten: {}",
        stderr(&output)
    );
}
