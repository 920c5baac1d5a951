//! A limit while it stands: what to do about it as the cgroup, and others, go on.
//!
//! Pure; it is shown a reading every second and says the next step, if there is one. What somebody
//! else changed comes first: it is set right three times, and then is theirs. A limit under which
//! processes do nothing but wait for memory gives way, a little and a few times. One that became
//! too wide is tightened. Once its incident is over it is lifted, as soon as it is not what holds
//! the memory down: a leak that stands still because it is held would run on.

/// Times that what others changed is set right.
const REASSERTS_MAX: u32 = 3;

/// Share of the time in which all processes of the cgroup wait for memory that is thrashing, and
/// for how long it has to be; a guess.
const THRASHING_SHARE: f64 = 0.5;
const THRASHING_SECS: f64 = 10.0;

/// Times that a limit gives way. Together with the margin that it begins with a leaker gets at most
/// as many margins and one.
const BACK_OFFS_MAX: u32 = 3;

/// Time between two steps that tighten, so that each can be seen to work.
const TIGHTEN_SECS: f64 = 10.0;

/// Growth below this, for so long, is none.
const STABLE_BYTES: u64 = 1 << 20;
const STABLE_SECS: f64 = 60.0;

/// The state of one limit.
#[derive(Debug, Clone)]
pub struct LimitController {
    margin_bytes: u64,
    limit_bytes: u64,
    /// The limit that it began with, and memory that is only taken instead of what was had before:
    /// together it may get as much.
    first_limit_bytes: u64,
    replaced_bytes: u64,
    is_over: bool,
    reasserts: u32,
    back_offs: u32,
    thrashing_since: Option<f64>,
    changed_at: f64,
    /// Since when usage has not risen above this.
    still: (f64, u64),
    reported: Reported,
}

/// Messages that are reported once.
#[derive(Debug, Clone, Default)]
struct Reported {
    still: bool,
    held: bool,
    thrashing: bool,
}

/// Reading of the cgroup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CgroupReading {
    /// When, in seconds.
    pub t: f64,
    /// The limit that stands there; `None` where there is none.
    pub limit_bytes: Option<u64>,
    /// Memory charged to it.
    pub usage_bytes: u64,
    /// Share of the time in which all of its processes wait for memory, 0 to 1; `None` where it is
    /// not known.
    pub full_pressure: Option<f64>,
}

/// Adjustment of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// Somebody changed it: set it again.
    Reassert(u64),
    /// Somebody changed it once too often, or set a lower one: it is theirs.
    Yield,
    /// Set it lower.
    Tighten(u64),
    /// Set it higher.
    BackOff(u64),
    /// Set it higher, because memory that was had before is replaced.
    Widen(u64),
    /// Nothing is left to give way with.
    Thrashing,
    /// Say that the cgroup does not grow any more.
    GrowthStopped,
    /// Say that the incident is over and the limit stays, because it is what holds.
    KeptAfterIncident,
    /// Put back what was there before.
    Lift,
}

/// The least limit that leaves `margin_bytes` above what is used, with room for what is used more
/// while it is being set. On a page, because the kernel keeps pages and what is read back has to be
/// what was written.
pub fn min_limit_bytes(usage_bytes: u64, margin_bytes: u64) -> u64 {
    const PAGE_BYTES: u64 = 4_096;
    let least = usage_bytes.saturating_add(margin_bytes).saturating_add(margin_bytes / 8);
    least.min(u64::MAX - PAGE_BYTES).next_multiple_of(PAGE_BYTES)
}

impl LimitController {
    /// A limit that was just set.
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

    /// The limit that should stand.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Times that what others changed was set right.
    pub fn reasserts(&self) -> u32 {
        self.reasserts
    }

    /// Whether the cgroup stands at it: uses so much that there is less than the margin left.
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

    /// So much of what is charged to it is no growth.
    pub fn allow_recharged(&mut self, replaced_bytes: u64) {
        self.replaced_bytes = self.replaced_bytes.max(replaced_bytes);
    }

    /// The next step, which is taken as done.
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
            // A lower one contains as well, and whoever set it knows why.
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
        // One that gave way once is not taken back: it would come and go.
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

    /// The step for one that is pressed by what is replaced: a margin at a time, and never by
    /// little.
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

    /// The step for a cgroup that does nothing but wait for memory.
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
