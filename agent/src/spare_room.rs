//! Room that is not needed any more: what a flood of processes, connections or listeners made
//! large becomes small again, so that the agent stays within the limit of its own unit.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

/// Entries below which room is too small to matter.
const ENTRIES_MIN: usize = 1_024;

/// Share of the room in use, as one in so many, below which the rest is given back. Below a half,
/// because a container that grows again doubles its room.
const USED_MIN: usize = 4;

/// Gives back most of the room of a map that is nearly empty.
pub(crate) fn of_map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if is_spare(map.len(), map.capacity()) {
        map.shrink_to(2 * map.len());
    }
}

/// Gives back most of the room of a vector that is nearly empty.
pub(crate) fn of_vec<T>(vec: &mut Vec<T>) {
    if is_spare(vec.len(), vec.capacity()) {
        vec.shrink_to(2 * vec.len());
    }
}

fn is_spare(len: usize, capacity: usize) -> bool {
    capacity > ENTRIES_MIN && len < capacity / USED_MIN
}

/// Times after a flood at which memory is given back, in seconds: at once, once those that ended
/// are forgotten, once listeners that nobody used are, and once windows are.
const GIVE_BACK_SECS: [f64; 5] = [0.0, 10.0, 40.0, 100.0, 700.0];

/// Watch on the number of subjects, for when there are far fewer than before.
#[derive(Debug, Default)]
pub(crate) struct FloodWatch {
    /// Most subjects since the last flood.
    most: usize,
    /// End of the last flood, and how often memory went back since then.
    over: Option<(f64, usize)>,
}

impl FloodWatch {
    /// Takes the number of subjects at `t`. Returns whether free memory should go back to the
    /// kernel now.
    pub(crate) fn note(&mut self, t: f64, subjects: usize) -> bool {
        self.most = self.most.max(subjects);
        if self.most > ENTRIES_MIN && subjects < self.most / 2 {
            self.most = subjects;
            self.over = Some((t, 0));
        }
        let Some((over_t, times)) = self.over else { return false };
        let Some(after_secs) = GIVE_BACK_SECS.get(times) else {
            self.over = None;
            return false;
        };
        let is_due = t - over_t >= *after_secs;
        if is_due {
            self.over = Some((over_t, times + 1));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_of_a_flood_is_given_back_and_that_of_a_few_is_kept() {
        let mut map: HashMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        of_map(&mut map);
        assert!(map.capacity() >= 10_000);
        map.retain(|n, _| *n < 100);
        of_map(&mut map);
        assert!(map.len() == 100 && map.capacity() < 1_000, "{}", map.capacity());
        let mut vec: Vec<u32> = (0..10_000).collect();
        vec.truncate(100);
        of_vec(&mut vec);
        assert!(vec.len() == 100 && vec.capacity() < 1_000, "{}", vec.capacity());
        let mut few: Vec<u32> = Vec::with_capacity(1_000);
        of_vec(&mut few);
        assert_eq!(few.capacity(), 1_000);
    }

    #[test]
    fn memory_goes_back_at_some_times_after_a_flood() {
        let mut watch = FloodWatch::default();
        let mut times = Vec::new();
        for t in 0..2_000_u32 {
            let subjects = if (100..200).contains(&t) { 9_000 } else { 700 };
            if watch.note(f64::from(t), subjects) {
                times.push(t);
            }
        }
        assert_eq!(times, [200, 210, 240, 300, 900]);
    }
}
