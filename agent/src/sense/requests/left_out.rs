//! Listeners some of whose connections a pass does not read, so that their counts are too low.
//!
//! Each is known by its network namespace and port, so that who fills his share makes only counts
//! of his own listeners partial, and those of others' at the same port at most. Bound:
//! [`LISTENERS_MAX`]; beyond it every count may be too low.

use std::collections::BTreeSet;

use foldhash::HashMap;
use spillway_ebpf::LISTENERS_MAX;

/// Network namespace and port of a listener.
pub(super) type ListenerPort = (u32, u16);

/// Connections left out, and when last.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    ports: HashMap<ListenerPort, f64>,
    /// Time at which one was left out whose listener is unknown.
    any: Option<f64>,
}

impl LeftOut {
    /// Notes a connection of a listener.
    pub(super) fn note(&mut self, port: ListenerPort, now: f64) {
        if self.ports.len() < LISTENERS_MAX as usize || self.ports.contains_key(&port) {
            self.ports.insert(port, now);
        } else {
            self.note_any(now);
        }
    }

    /// Notes a connection whose listener is unknown.
    pub(super) fn note_any(&mut self, now: f64) {
        self.any = Some(now);
    }

    /// Forgets those that were left out before a pass that began then and found all.
    pub(super) fn forget_before(&mut self, began: f64) {
        self.ports.retain(|_, left_out| *left_out >= began);
        self.any = self.any.filter(|left_out| *left_out >= began);
    }

    /// Listeners whose counts are too low; `None` if any may be.
    pub(super) fn partial(&self) -> Option<BTreeSet<ListenerPort>> {
        self.any.is_none().then(|| self.ports.keys().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_is_partial_until_a_pass_finds_all() {
        let mut left_out = LeftOut::default();
        left_out.note((1, 80), 10.0);
        left_out.note((2, 80), 20.0);
        assert_eq!(left_out.partial(), Some(BTreeSet::from([(1, 80), (2, 80)])));
        left_out.forget_before(15.0);
        assert_eq!(left_out.partial(), Some(BTreeSet::from([(2, 80)])));
        left_out.note_any(21.0);
        assert_eq!(left_out.partial(), None);
        left_out.forget_before(22.0);
        assert_eq!(left_out.partial(), Some(BTreeSet::new()));
    }

    #[test]
    fn listeners_beyond_the_limit_make_every_count_partial() {
        let mut left_out = LeftOut::default();
        (0..LISTENERS_MAX).for_each(|netns| left_out.note((netns, 80), 1.0));
        left_out.note((0, 80), 2.0);
        assert!(left_out.partial().is_some());
        left_out.note((LISTENERS_MAX, 80), 2.0);
        assert_eq!(left_out.partial(), None);
    }
}
