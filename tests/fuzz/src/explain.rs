//! Arbitrary bytes as a trace: the picture of a process can always be drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_agent::{
    commands::explain::{draw, explain},
    config::Config,
};

/// Process that most of the seeds are about.
const PID: u32 = 812;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(explained) = explain(bytes, &Config::default(), PID) {
        let svg = draw(&explained.picture()).expect("drawing should not fail");
        assert!(svg.trim_end().ends_with("</svg>"));
    }
});
