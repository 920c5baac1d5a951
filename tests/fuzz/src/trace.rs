//! Arbitrary bytes as a trace: replay ends with verdicts or an error, in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway_agent::{
    commands::replay::{ReplayOptions, replay},
    config::Config,
};

fuzz_target!(|bytes: &[u8]| {
    let mut out = Vec::new();
    if let Ok(summary) =
        replay(bytes, &Config::default(), &mut out, ReplayOptions { decisions: true })
    {
        let printed = out.iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(
            printed,
            summary.verdicts + summary.decisions,
            "every verdict and decision is \
        one line"
        );
        assert!(summary.observations + summary.skipped <= summary.lines);
    }
});
