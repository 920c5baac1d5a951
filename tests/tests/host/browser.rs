//! The pages of the running agent in a real browser: headless Chromium, narrow and wide, light and
//! dark. `cargo xtask test --thorough browser` takes the pictures in `tests/pictures` anew.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use spillway_tests::{
    ANY_PORT, Running, Scratch, apart, http_get, is_root, run_with, skip, wait_for,
};

const TEST: &str = "browser";
const SOON: Duration = Duration::from_secs(30);

/// Size of a blank page of these dimensions: a few kilobytes.
const PICTURE_BYTES_MIN: usize = 15_000;

/// Pictures: name, whether of the incident, width, height, and whether in dark colours.
const PICTURES: [(&str, bool, u32, u32, bool); 4] = [
    ("overview-narrow", false, 400, 1_100, true),
    ("overview-wide", false, 1_200, 1_000, false),
    ("incident-narrow", true, 400, 1_500, false),
    ("incident-wide", true, 1_200, 1_000, true),
];

#[test]
fn pages_of_a_leak_are_drawn_by_a_browser() {
    let Some(chromium) = env::var_os("SPILLWAY_BROWSER").map(PathBuf::from) else {
        return skip(TEST, "needs the browser that `cargo xtask test --thorough` installs");
    };
    if !is_root(TEST) {
        return;
    }
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (Some(cgroup), leak) =
        apart("browser-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]))
    else {
        return skip(TEST, "no cgroup can be made");
    };
    let scratch = Scratch::make(TEST);
    let config = scratch.file(
        "spillway.toml",
        &format!(
            "mode = \"enforce\"\n{ANY_PORT}[record]\nstate_dir = \"{}\"\n[sense]\n\
             interval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
             horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"16MiB\"\n[decide]\n\
             limit_within = \"1d\"\nallow = [\"{}\"]\n[act.limit]\nmargin = \"16MiB\"\n",
            scratch.0.join("state").display(),
            cgroup.path
        ),
    );
    let running = Running::start(run_with(&config));
    let addr = running.address();
    let limited = wait_for(SOON, || {
        let page = http_get(addr, "/").ok().filter(|page| page.contains("limited: memory."))?;
        let (_, rest) = page.split_once(&format!("/incidents/leak-{}-", leak.pid()))?;
        Some(format!("/incidents/leak-{}-{}", leak.pid(), rest.split('"').next()?))
    });
    let incident = limited.unwrap_or_else(|| panic!("{}", running.log()));
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures");
    fs::create_dir_all(&pictures).expect("making the folder of pictures");
    for (name, is_incident, width, height, is_dark) in PICTURES {
        let path = if is_incident { incident.as_str() } else { "/" };
        let picture = pictures.join(format!("{name}.png"));
        let mut browser = Command::new(&chromium);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        browser.arg(format!("--user-data-dir={}", scratch.0.join("browser").display()));
        browser.arg(format!("--window-size={width},{height}"));
        browser.arg(format!("--screenshot={}", picture.display()));
        if is_dark {
            browser.arg("--blink-settings=preferredColorScheme=0");
        }
        let status = browser.arg(format!("http://{addr}{path}")).stderr(Stdio::null()).status();
        assert!(status.expect("the browser runs").success(), "{name}");
        let bytes = fs::read(&picture).expect("reading the picture");
        let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!((&bytes[1..4], side(16), side(20)), (&b"PNG"[..], width, height), "{name}");
        assert!(bytes.len() > PICTURE_BYTES_MIN, "{name} is blank: {} bytes", bytes.len());
    }
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}
