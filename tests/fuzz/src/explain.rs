//! Any bytes as a trace: whatever it says of a process can be drawn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_agent::{
    commands::explain::{draw, explain},
    config::Config,
};

/// The process that most of the seeds are about.
const PID: u32 = 812;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(explained) = explain(bytes, &Config::default(), PID) {
        let svg = draw(&explained).expect("it needs nothing but memory");
        assert!(svg.trim_end().ends_with("</svg>"));
    }
});
