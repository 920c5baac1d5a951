//! A relay that reads messages into buffers of its own, shares them as `Bytes`, and hands each to a
//! consumer as a `Vec`.
//!
//! In bytes 1.10.0 a buffer that came in through `from_owner` and goes out as a `Vec` is never
//! freed.

use std::{collections::VecDeque, thread, time::Duration};

use bytes::Bytes;

fn main() {
    let mut recent = VecDeque::new();
    for number in 0_u64.. {
        for part in 0..12 {
            let message = Bytes::from_owner(vec![number as u8; 256 + (number as usize * 37 + part * 101) % 1500]);
            let delivered = Vec::<u8>::from(message);
            recent.push_back(delivered);
            if recent.len() > 2000 {
                recent.pop_front();
            }
        }
        thread::sleep(Duration::from_millis(40));
    }
}
