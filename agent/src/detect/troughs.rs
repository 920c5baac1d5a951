//! Troughs of a process's memory, however long its teeth are: the floors of a sawtooth.
//!
//! A collector of minutes, a cache that is emptied now and then, a batch: their teeth are longer
//! than a bucket, so that its floor is some height of a tooth. Their turning points count instead:
//! a trough is the lowest point between a fall and a rise that are both markedly larger than the
//! process's fluctuation. They are read off floors of a bucket's length, so that teeth of seconds
//! make none. Cold start: the first trough is the one after the first fall.

use serde::{Deserialize, Serialize};

use super::regression::Point;

/// Troughs that are kept: enough to tell a line's scatter from its slope.
pub const TROUGHS: usize = 8;

/// Smallest fall that is a tooth, as a share of the size. A guess.
const FALL_SHARE: f64 = 0.03;

/// Smallest fall that is a tooth, as a share of the deepest fall.
const FALL_OF_DEEPEST: f64 = 0.3;

/// Share of the deepest fall that is left at the next.
const DEEPEST_KEPT: f64 = 0.9;

/// Share of a fall by which a rise ends a trough.
const RISE_OF_FALL: f64 = 0.25;

/// Last turning points of one process; heights are in the unit of the window that feeds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Troughs {
    floors: [u16; TROUGHS],
    /// Buckets that they were in, modulo 2^16; the last `len` are taken.
    at: [u16; TROUGHS],
    len: u8,
    /// Whether the size falls: then `turn` is the lowest point since it fell, otherwise the highest
    /// since it rose.
    falls: bool,
    turn: u16,
    turned_at: u16,
    deepest: u16,
    /// Highest trough that has been forgotten.
    past_peak: u16,
}

impl Default for Troughs {
    fn default() -> Self {
        Self {
            floors: [0; TROUGHS],
            at: [0; TROUGHS],
            len: 0,
            falls: false,
            turn: 0,
            turned_at: 0,
            deepest: 0,
            past_peak: 0,
        }
    }
}

impl Troughs {
    /// Takes the floor of a bucket; `least` is the smallest fall that counts. Returns whether a
    /// trough was completed.
    pub fn see(&mut self, bucket: u32, floor: u16, least: f64) -> bool {
        let (bucket, height) = (bucket as u16, f64::from(floor));
        let fall = least.max(FALL_SHARE * height).max(FALL_OF_DEEPEST * f64::from(self.deepest));
        let apart = f64::from(floor.abs_diff(self.turn));
        if self.falls {
            if floor < self.turn {
                (self.turn, self.turned_at) = (floor, bucket);
            } else if apart >= RISE_OF_FALL * fall {
                self.push();
                (self.falls, self.turn) = (false, floor);
                return true;
            }
        } else if floor >= self.turn {
            self.turn = floor;
        } else if apart >= fall {
            self.deepest = (DEEPEST_KEPT * f64::from(self.deepest)).max(apart) as u16;
            (self.falls, self.turn, self.turned_at) = (true, floor, bucket);
        }
        false
    }

    fn push(&mut self) {
        if usize::from(self.len) == TROUGHS {
            self.past_peak = self.past_peak.max(self.floors[0]);
            self.len -= 1;
        }
        self.floors.rotate_left(1);
        self.at.rotate_left(1);
        (self.floors[TROUGHS - 1], self.at[TROUGHS - 1]) = (self.turn, self.turned_at);
        self.len += 1;
    }

    /// Troughs, oldest first: `x` in buckets from the oldest, `y` in the window's unit.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        let from = TROUGHS - usize::from(self.len);
        let oldest = self.at[from.min(TROUGHS - 1)];
        self.at[from..].iter().zip(&self.floors[from..]).map(move |(at, floor)| Point {
            x: f64::from(at.wrapping_sub(oldest)),
            y: f64::from(*floor),
        })
    }

    /// Buckets since the last trough, at most 2^16; `None` before the first.
    pub fn since(&self, bucket: u32) -> Option<u16> {
        (self.len > 0).then(|| (bucket as u16).wrapping_sub(self.at[TROUGHS - 1]))
    }

    /// Returns whether troughs that were read from a file are some that can have been written.
    pub fn is_sound(&self) -> bool {
        usize::from(self.len) <= TROUGHS
    }

    /// Highest trough that has been forgotten; zero if none.
    pub fn past_peak(&self) -> u16 {
        self.past_peak
    }

    /// Halves all heights after the window's unit was doubled.
    pub fn halve(&mut self) {
        for height in
            self.floors.iter_mut().chain([&mut self.turn, &mut self.deepest, &mut self.past_peak])
        {
            *height >>= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(floors: &[u16]) -> Troughs {
        let mut troughs = Troughs::default();
        floors.iter().enumerate().for_each(|(bucket, floor)| {
            troughs.see(bucket as u32, *floor, 10.0);
        });
        troughs
    }

    fn points(troughs: &Troughs) -> Vec<(f64, f64)> {
        troughs.points().map(|point| (point.x, point.y)).collect()
    }

    #[test]
    fn a_trough_is_the_lowest_between_a_fall_and_a_rise() {
        let troughs = seen(&[100, 150, 200, 110, 105, 160, 210, 120, 170]);
        assert_eq!(points(&troughs), [(0.0, 105.0), (3.0, 120.0)]);
        assert_eq!(troughs.since(9), Some(2));
    }

    #[test]
    fn what_only_breathes_or_climbs_has_none() {
        assert_eq!(points(&seen(&[100, 104, 98, 103, 99, 105, 97])), []);
        assert_eq!(points(&seen(&[100, 200, 300, 400, 500])), []);
        // A ripple in a deep fall is no trough of its own.
        assert_eq!(
            points(&seen(&[100, 900, 100, 900, 500, 515, 100, 600])),
            [(0.0, 100.0), (4.0, 100.0)]
        );
    }

    #[test]
    fn the_ninth_is_kept_and_the_first_remembered() {
        let floors: Vec<u16> = (0..9).flat_map(|turn| [500, 100 + turn]).chain([500]).collect();
        let troughs = seen(&floors);
        assert_eq!(points(&troughs).len(), TROUGHS);
        assert_eq!(points(&troughs)[0], (0.0, 101.0));
        assert_eq!(troughs.past_peak(), 100);
    }

    #[test]
    fn all_heights_change_their_unit_together() {
        let mut troughs = seen(&[100, 500, 100, 500, 100, 500]);
        troughs.halve();
        assert_eq!(points(&troughs), [(0.0, 50.0), (2.0, 50.0)]);
        // Less than a third of the deepest fall is no fall in the new unit either.
        assert!(!troughs.see(6, 200, 10.0) && !troughs.see(7, 250, 10.0));
    }
}
