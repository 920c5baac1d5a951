//! Triggers of overload claims.

/// Reason for which a queue is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    /// No connection is accepted.
    Stuck,
    /// It is standing, and does not drain.
    Standing,
    /// Every connection waits for so long that users notice.
    Slow,
    /// It fills, and overflows soon.
    Filling,
    /// It is standing near its limit.
    NearLimit,
    /// It is deep, and its oldest wait is unknown.
    Deep,
    /// No connection is accepted: it does not fall, and the oldest wait is unknown.
    Unfallen,
    /// It drops connections again and again without standing: its limit is too low.
    Dropping,
}
