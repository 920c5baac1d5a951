//! Control loop of one limit in effect.
//!
//! Pure: it takes a reading every second and returns the next adjustment, if there is one. Changes
//! by others come first: the limit is restored three times, then it is left to them. A limit under
//! which all processes only wait for memory is raised, by one margin and a few times. A limit that
//! has become too wide is lowered. After its incident the limit is lifted, but only once it does
//! not hold the memory down: a leak that is merely held would go on.

/// Number of times that the limit is restored after changes by others.
const REASSERTS_MAX: u32 = 3;

/// Share of the time in which all processes of the cgroup wait for memory that counts as thrashing,
/// and its minimum duration; a guess.
const THRASHING_SHARE: f64 = 0.5;
const THRASHING_SECS: f64 = 10.0;

/// Number of times that a thrashing cgroup's limit is raised. With the initial margin, a leak gets
/// at most that number of margins and one.
const BACK_OFFS_MAX: u32 = 3;

/// Time between two reductions, so that the effect of each can be seen.
const TIGHTEN_SECS: f64 = 10.0;

/// Growth below this, for this time, counts as none.
const STABLE_BYTES: u64 = 1 << 20;
const STABLE_SECS: f64 = 60.0;

/// State of one limit.
#[derive(Debug, Clone)]
pub struct LimitController {
    margin_bytes: u64,
    limit_bytes: u64,
    /// Initial limit, and memory that only replaces memory from before the move: the limit may be
    /// raised to their sum.
    first_limit_bytes: u64,
    replaced_bytes: u64,
    is_over: bool,
    reasserts: u32,
    back_offs: u32,
    thrashing_since: Option<f64>,
    changed_at: f64,
    /// Time of the last growth, and the usage then.
    still: (f64, u64),
    reported: Reported,
}

/// Adjustments that are reported once.
#[derive(Debug, Clone, Default)]
struct Reported {
    still: bool,
    held: bool,
    thrashing: bool,
}

/// Reading of the cgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupReading {
    /// Time in seconds.
    pub t: f64,
    /// Limit in effect; `None` without one.
    pub limit_bytes: Option<u64>,
    /// Memory charged to it.
    pub usage_bytes: u64,
    /// Share of the time in which all of its processes wait for memory, 0 to 1; `None` if unknown.
    pub full_pressure: Option<f64>,
}

/// Adjustment of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// Restore the limit after a change by others.
    Reassert(u64),
    /// Leave the limit to others, who changed it too often or set a lower one.
    Yield,
    /// Lower the limit.
    Tighten(u64),
    /// Raise the limit of a thrashing cgroup.
    BackOff(u64),
    /// Raise the limit, because memory from before the move is replaced.
    Widen(u64),
    /// Report that the cgroup thrashes and the limit is not raised any more.
    Thrashing,
    /// Report that the memory has stopped growing.
    GrowthStopped,
    /// Report that the incident is over and the limit stays, because it holds the memory down.
    KeptAfterIncident,
    /// Restore the original limit.
    Lift,
}

/// Returns the lowest limit that leaves `margin_bytes` above the usage, with an eighth of it for
/// growth while it is being set. A multiple of the page size, because the kernel counts pages and
/// the value is verified by reading it back.
pub fn min_limit_bytes(usage_bytes: u64, margin_bytes: u64) -> u64 {
    const PAGE_BYTES: u64 = 4_096;
    let least = usage_bytes.saturating_add(margin_bytes).saturating_add(margin_bytes / 8);
    least.min(u64::MAX - PAGE_BYTES).next_multiple_of(PAGE_BYTES)
}

impl LimitController {
    /// Takes a limit that was just set.
    pub fn new(t: f64, limit_bytes: u64, usage_bytes: u64, margin_bytes: u64) -> Self {
        Self {
            margin_bytes,
            limit_bytes,
            first_limit_bytes: limit_bytes,
            replaced_bytes: 0,
            is_over: false,
            reasserts: 0,
            back_offs: 0,
            thrashing_since: None,
            changed_at: t,
            still: (t, usage_bytes),
            reported: Reported::default(),
        }
    }

    /// Limit that should be in effect.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Number of times that the limit was restored.
    pub fn reasserts(&self) -> u32 {
        self.reasserts
    }

    /// Returns whether the cgroup is at its limit: less than the margin is left.
    pub fn is_pressed(&self, usage_bytes: u64) -> bool {
        min_limit_bytes(usage_bytes, self.margin_bytes) > self.limit_bytes
    }

    /// Notes that the incident is over.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// Notes that the incident continues, or that another needs the limit.
    pub fn resume(&mut self) {
        self.is_over = false;
        self.reported.held = false;
    }

    /// Allows `replaced_bytes` above the first limit: memory recharged after the move, not growth.
    pub fn allow_recharged(&mut self, replaced_bytes: u64) {
        self.replaced_bytes = self.replaced_bytes.max(replaced_bytes);
    }

    /// Returns the next adjustment, which counts as made.
    pub fn adjust(&mut self, reading: CgroupReading) -> Option<Adjustment> {
        let step = self.next(reading)?;
        if let Adjustment::Reassert(limit_bytes)
        | Adjustment::Tighten(limit_bytes)
        | Adjustment::BackOff(limit_bytes)
        | Adjustment::Widen(limit_bytes) = step
        {
            self.limit_bytes = limit_bytes;
            self.changed_at = reading.t;
            self.thrashing_since = None;
        }
        Some(step)
    }

    fn next(&mut self, reading: CgroupReading) -> Option<Adjustment> {
        let CgroupReading { t, usage_bytes, .. } = reading;
        let least_bytes = min_limit_bytes(usage_bytes, self.margin_bytes);
        if reading.limit_bytes != Some(self.limit_bytes) {
            if self.is_over {
                return Some(Adjustment::Lift);
            }
            // A lower limit contains the leak too, and was set for a reason.
            let is_lower = reading.limit_bytes.is_some_and(|found| found < self.limit_bytes);
            if is_lower || self.reasserts == REASSERTS_MAX {
                return Some(Adjustment::Yield);
            }
            self.reasserts += 1;
            return Some(Adjustment::Reassert(self.limit_bytes.max(least_bytes)));
        }
        if self.is_over && !self.is_pressed(usage_bytes) {
            return Some(Adjustment::Lift);
        }
        if let Some(step) = self.widen_for_recharge(least_bytes).or_else(|| self.back_off(reading))
        {
            return Some(step);
        }
        if self.is_over {
            return (!std::mem::replace(&mut self.reported.held, true))
                .then_some(Adjustment::KeptAfterIncident);
        }
        // A limit that was raised is not lowered again: it would oscillate.
        let is_due = t - self.changed_at >= TIGHTEN_SECS && self.back_offs == 0;
        if is_due && least_bytes.saturating_add(self.margin_bytes) <= self.limit_bytes {
            return Some(Adjustment::Tighten(least_bytes));
        }
        if usage_bytes > self.still.1.saturating_add(STABLE_BYTES) {
            self.still = (t, usage_bytes);
            self.reported.still = false;
        }
        let is_still = t - self.still.0 >= STABLE_SECS && self.thrashing_since.is_none();
        (is_still && !std::mem::replace(&mut self.reported.still, true))
            .then_some(Adjustment::GrowthStopped)
    }

    /// Raises the limit of a cgroup that replaces memory from before the move: by one margin at a
    /// time, and not by little.
    fn widen_for_recharge(&self, least_bytes: u64) -> Option<Adjustment> {
        const PAGE_BYTES: u64 = 4_096;
        let most_bytes =
            self.first_limit_bytes.saturating_add(self.replaced_bytes) / PAGE_BYTES * PAGE_BYTES;
        let wider =
            most_bytes.min(least_bytes.saturating_add(self.margin_bytes / PAGE_BYTES * PAGE_BYTES));
        let is_pressed = least_bytes > self.limit_bytes;
        (is_pressed && wider >= self.limit_bytes.saturating_add(self.margin_bytes / 8))
            .then_some(Adjustment::Widen(wider))
    }

    /// Raises the limit of a thrashing cgroup.
    fn back_off(&mut self, reading: CgroupReading) -> Option<Adjustment> {
        if reading.full_pressure.is_none_or(|pressure| pressure < THRASHING_SHARE) {
            self.thrashing_since = None;
            return None;
        }
        let since = *self.thrashing_since.get_or_insert(reading.t);
        if reading.t - since < THRASHING_SECS {
            return None;
        }
        if self.back_offs < BACK_OFFS_MAX {
            self.back_offs += 1;
            let wider = self.limit_bytes.saturating_add(self.margin_bytes.next_multiple_of(4_096));
            return Some(Adjustment::BackOff(
                wider.max(min_limit_bytes(reading.usage_bytes, self.margin_bytes)),
            ));
        }
        (!std::mem::replace(&mut self.reported.thrashing, true)).then_some(Adjustment::Thrashing)
    }
}

#[cfg(test)]
mod tests;
