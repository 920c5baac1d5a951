//! Values over time as a picture: the curve, its limit, the band of the forecast, and numbered
//! marks whose texts stand below it.

use maud::{Markup, html};

use crate::{
    act::notify::timestamp,
    history::series::{HistoryMark, MarkKind, Points},
    status::text::clock_time,
};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 884.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 256.0;

/// Share of the time shown that a forecast may add.
const FORECAST_SHARE: f64 = 0.25;

/// Limit, as a multiple of the highest value, above which it would flatten the curve. It is told in
/// words alone then.
const LIMIT_TIMES_MAX: f64 = 4.0;

/// Gap between two values, as a multiple of the usual one, at which the curve is broken: the agent
/// did not run.
const GAP_TIMES: u64 = 3;

/// Lines of the grid, and clock times on the axis.
const GRID_LINES: f64 = 4.0;
const CLOCK_TIMES: u64 = 4;

/// Distance between two numbers of marks at which both can be read.
const NUMBER_WIDTH: f64 = 16.0;

/// Picture of values over time.
pub(super) struct Chart<'a> {
    /// Title, read out by a screen reader too.
    pub(super) title: &'a str,
    /// Values.
    pub(super) points: &'a Points,
    /// Limit, where there was one.
    pub(super) limit: &'a Points,
    /// Forecast.
    pub(super) band: Option<Band>,
    /// Marks.
    pub(super) marks: &'a [HistoryMark],
    /// Time of the report, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// Steps of the grid, of which the smallest that fits is taken, with all its powers of
    /// `steps_base`.
    pub(super) steps: &'static [f64],
    /// Base of the powers.
    pub(super) steps_base: f64,
    /// Text of a value.
    pub(super) text: fn(f64) -> String,
}

/// Forecast from the last value on: the time until the limit, the soonest and the latest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Band {
    /// Value at which it ends.
    pub(super) limit: f64,
    /// Seconds from now.
    pub(super) secs: [f64; 2],
}

/// Bounds of the picture.
struct ChartBounds {
    from_ms: f64,
    to_ms: f64,
    top: f64,
}

impl ChartBounds {
    fn x(&self, at_ms: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at_ms - self.from_ms) / (self.to_ms - self.from_ms)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (value / self.top).clamp(0.0, 1.0)
    }
}

impl Chart<'_> {
    /// Draws the picture; a sentence if there is nothing to draw.
    pub(super) fn draw(&self) -> Markup {
        let Some(&(first_ms, _)) = self.points.first() else {
            return html! { p { (self.title) ": no history yet." } };
        };
        let span_ms = (self.now_ms.saturating_sub(first_ms) as f64).max(60_000.0);
        let ahead_ms =
            self.band.map_or(0.0, |band| (band.secs[1] * 1e3).min(span_ms * FORECAST_SHARE));
        let band = self.band.map(|band| self.outline(band, ahead_ms)).unwrap_or_default();
        let values = self.points.iter().map(|(_, value)| *value);
        let highest = values.chain(band.iter().map(|(_, value)| *value)).fold(0.0, f64::max);
        let limits = self.limit.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let shows_limit = limits > 0.0 && limits <= highest * LIMIT_TIMES_MAX;
        let top = if shows_limit { highest.max(limits) } else { highest };
        let step = self.step(top);
        let bounds = ChartBounds {
            from_ms: first_ms as f64,
            to_ms: first_ms as f64 + span_ms + ahead_ms,
            top: (top / step).ceil().max(1.0) * step,
        };
        let lines = (0..=(bounds.top / step).round() as u32).map(|line| f64::from(line) * step);
        let last = self.points.last().map_or(0.0, |(_, value)| *value);
        let about = format!("{}: now {}", self.title, (self.text)(last));
        html! {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(about) {
                text x=(LEFT) y="12" font-weight="600" { (self.title) }
                @for value in lines {
                    line x1=(LEFT) x2=(RIGHT) y1=(px(bounds.y(value))) y2=(px(bounds.y(value)))
                        stroke="currentColor" stroke-opacity="0.15" {}
                    text x=(LEFT - 8.0) y=(px(bounds.y(value) + 4.0)) text-anchor="end" {
                        ((self.text)(value))
                    }
                }
                (self.clock_times(&bounds))
                @if !band.is_empty() {
                    polygon points=(polyline(&bounds, &band)) fill="var(--red)"
                        fill-opacity="0.25" {}
                }
                @if shows_limit {
                    polyline points=(polyline(&bounds, &timed(self.limit))) fill="none"
                        stroke="var(--red)" stroke-dasharray="6 4" {}
                }
                @for part in self.parts() {
                    polyline points=(polyline(&bounds, &part)) fill="none" stroke="var(--blue)"
                        stroke-width="2" {}
                }
                (self.numbers(&bounds))
            }
        }
    }

    /// Outline of the forecast from the last value on, cut at the right edge.
    fn outline(&self, band: Band, ahead_ms: f64) -> Vec<(f64, f64)> {
        let Some(&(at_ms, value)) = self.points.last() else { return Vec::new() };
        let (at_ms, ahead_ms) = (at_ms as f64, ahead_ms.max(1.0));
        let reached = |secs: f64| {
            let ms = (secs * 1e3).max(1.0);
            let share = (ahead_ms / ms).min(1.0);
            (at_ms + ms.min(ahead_ms), value + (band.limit - value) * share)
        };
        let [soonest, latest] = band.secs.map(reached);
        vec![(at_ms, value), soonest, (latest.0, soonest.1), latest]
    }

    /// Smallest step of the grid with which there are few lines.
    fn step(&self, top: f64) -> f64 {
        let least = (top / GRID_LINES).max(f64::MIN_POSITIVE);
        let mut power = 1.0;
        // Each round multiplies, so that it ends.
        loop {
            if let Some(step) = self.steps.iter().find(|step| **step * power >= least) {
                return step * power;
            }
            power *= self.steps_base;
        }
    }

    /// Parts of the curve between gaps.
    fn parts(&self) -> Vec<Vec<(f64, f64)>> {
        let mut steps: Vec<u64> =
            self.points.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0)).collect();
        steps.sort_unstable();
        let usual = steps.get(steps.len() / 2).copied().unwrap_or(0);
        let parts = self.points.chunk_by(|one, other| {
            other.0 >= one.0 && other.0 - one.0 <= usual.saturating_mul(GAP_TIMES)
        });
        parts.map(timed).collect()
    }

    fn clock_times(&self, bounds: &ChartBounds) -> Markup {
        let now = timestamp(self.now_ms);
        let at = |nth: u64| {
            bounds.from_ms + (bounds.to_ms - bounds.from_ms) * nth as f64 / CLOCK_TIMES as f64
        };
        html! {
            @for nth in 0..=CLOCK_TIMES {
                @let anchor = match nth { 0 => "start", CLOCK_TIMES => "end", _ => "middle" };
                text x=(px(bounds.x(at(nth)))) y=(BOTTOM + 20.0) text-anchor=(anchor) {
                    (clock_time(&timestamp(at(nth) as u64), &now))
                }
            }
        }
    }

    /// Draws the marks with their numbers, as far as these can be read.
    fn numbers(&self, bounds: &ChartBounds) -> Markup {
        let mut free_from = f64::NEG_INFINITY;
        let placed = self.marks.iter().enumerate().filter_map(|(nth, mark)| {
            let x = bounds.x(mark.at_ms as f64);
            let is_free = x >= free_from;
            if is_free {
                free_from = x + NUMBER_WIDTH;
            }
            (LEFT..=RIGHT).contains(&x).then_some((nth + 1, x, is_free, colour(mark.kind)))
        });
        html! {
            @for (number, x, is_free, colour) in placed {
                line x1=(px(x)) x2=(px(x)) y1=(TOP) y2=(BOTTOM) stroke=(colour)
                    stroke-dasharray="2 3" {}
                @if is_free {
                    text x=(px(x + 3.0)) y=(TOP + 10.0) style={ "fill:" (colour) } { (number) }
                }
            }
        }
    }
}

/// Lists marks with the numbers that they have in a picture.
pub(super) fn list(marks: &[HistoryMark], now_ms: u64) -> Markup {
    let now = timestamp(now_ms);
    html! {
        ol {
            @for (nth, mark) in marks.iter().enumerate() {
                li {
                    span { (nth + 1) " · " (clock_time(&timestamp(mark.at_ms), &now)) }
                    span { (mark.text) }
                }
            }
        }
    }
}

fn colour(kind: MarkKind) -> &'static str {
    match kind {
        MarkKind::Raised | MarkKind::Killed => "var(--red)",
        MarkKind::Cleared | MarkKind::Done => "var(--green)",
        MarkKind::NotDone => "var(--amber)",
        MarkKind::Restarted => "var(--blue)",
    }
}

fn timed(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|(at_ms, value)| (*at_ms as f64, *value)).collect()
}

/// Rounds a coordinate: a tenth of a pixel is not seen.
fn px(value: f64) -> String {
    format!("{value:.1}")
}

fn polyline(bounds: &ChartBounds, points: &[(f64, f64)]) -> String {
    let at = |(at_ms, value): &(f64, f64)| {
        let x = bounds.x(*at_ms).clamp(LEFT, RIGHT);
        format!("{x:.1},{:.1}", bounds.y(*value))
    };
    points.iter().map(at).collect::<Vec<_>>().join(" ")
}
