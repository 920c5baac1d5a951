//! On which ground a queue is called overloaded.

/// Why a queue is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// Nothing is accepted.
    Stuck,
    /// It stands, and does not drain.
    Standing,
    /// It fills, and overflows soon.
    Filling,
    /// It stands near its limit.
    NearLimit,
    /// It is deep, of an age that cannot be seen.
    Deep,
    /// It drops connections again and again, and does not stand: it is too short.
    Dropping,
}
