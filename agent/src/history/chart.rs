//! Values over time as a picture: the curve, its limit, the band of the forecast, and numbered
//! marks whose texts stand below it.

use maud::{Markup, html};

use super::series::{HistoryMark, MarkKind};
use crate::{
    act::notify::timestamp,
    units::{Count, Size, Span, clock_time},
};

/// Size of a picture, in pixels.
pub(crate) const WIDTH: f64 = 900.0;
pub(crate) const HEIGHT: f64 = 290.0;
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

/// Value above which none differ: steps of the grid stay numbers.
const VALUE_MAX: f64 = 1e300;

/// Lines of the grid, and clock times on the axis.
const GRID_LINES: f64 = 4.0;
const CLOCK_TIMES: u64 = 4;

/// Distance between two numbers of marks at which both can be read.
const NUMBER_WIDTH: f64 = 16.0;

/// Unit of the values of a picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChartUnit {
    /// Steps of the grid, of which the smallest that fits is taken, with all powers of the base.
    steps: &'static [f64],
    /// Base of the powers.
    base: f64,
    /// Text of a value.
    text: fn(f64) -> String,
}

/// Sizes in bytes, in steps of powers of two from a kibibyte on.
pub(crate) const BYTES: ChartUnit = ChartUnit {
    steps: &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0],
    base: 1_024.0,
    text: |bytes| if bytes > 0.0 { Size(bytes).to_string() } else { "0".to_owned() },
};

/// Numbers.
pub(crate) const COUNT: ChartUnit = ChartUnit {
    steps: &[1.0, 2.0, 5.0],
    base: 10.0,
    text: |count| Count(count as u64).to_string(),
};

/// Spans in seconds.
pub(crate) const SECONDS: ChartUnit = ChartUnit {
    steps: &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
    base: 10.0,
    text: |secs| if secs < 1.0 { format!("{:.0} ms", secs * 1e3) } else { Span(secs).to_string() },
};

/// Picture of values over time.
pub(crate) struct Chart<'a> {
    /// Title, read out by a screen reader too.
    pub(crate) title: &'a str,
    /// Values: milliseconds since 1970, and the value.
    pub(crate) points: &'a [(u64, f64)],
    /// Limit, where there was one.
    pub(crate) limit: &'a [(u64, f64)],
    /// Forecast.
    pub(crate) band: Option<Band>,
    /// Marks.
    pub(crate) marks: &'a [HistoryMark],
    /// Time of the report, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// Unit of the values.
    pub(crate) unit: ChartUnit,
}

/// Forecast from the last value on: the time until the limit, the soonest and the latest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Band {
    /// Value at which it ends.
    pub(crate) limit: f64,
    /// Seconds from now.
    pub(crate) secs: [f64; 2],
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
    /// Draws the picture for a page; a sentence if there is nothing to draw.
    pub(crate) fn draw(&self) -> Markup {
        match self.at(None) {
            // A narrow screen scrolls it, by keyboard too.
            Some(picture) => html! { div class="chart" tabindex="0" { (picture) } },
            None => html! { p { (self.title) ": no history yet." } },
        }
    }

    /// Draws the picture, at this distance from the top of another one; `None` if there is nothing
    /// to draw.
    pub(crate) fn at(&self, y: Option<f64>) -> Option<Markup> {
        let &(first_ms, _) = self.points.first()?;
        let span_ms = (self.now_ms.saturating_sub(first_ms) as f64).max(60_000.0);
        let ahead_ms =
            self.band.map_or(0.0, |band| (band.secs[1] * 1e3).clamp(0.0, span_ms * FORECAST_SHARE));
        let band = self.band.map(|band| self.outline(band, ahead_ms)).unwrap_or_default();
        let values = self.points.iter().map(|(_, value)| *value);
        let highest = values.chain(band.iter().map(|(_, value)| *value)).fold(0.0, f64::max);
        let limits = self.limit.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let shows_limit = limits > 0.0 && limits <= highest * LIMIT_TIMES_MAX;
        let top = if shows_limit { highest.max(limits) } else { highest };
        let top = top.min(VALUE_MAX);
        let step = self.step(top);
        let steps = (top / step).ceil().clamp(1.0, GRID_LINES + 1.0);
        let bounds = ChartBounds {
            from_ms: first_ms as f64,
            to_ms: first_ms as f64 + span_ms + ahead_ms,
            top: steps * step,
        };
        let lines = (0..=steps as u32).map(|line| f64::from(line) * step);
        let last = self.points.last().map_or(0.0, |(_, value)| *value);
        let about = format!("{}: now {}", self.title, (self.unit.text)(last));
        let size = y.map(|_| (WIDTH, HEIGHT));
        Some(html! {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } y=[y] width=[size.map(|size| size.0)]
                height=[size.map(|size| size.1)] role="img" aria-label=(about) {
                text x=(LEFT) y="12" font-weight="600" { (self.title) }
                @for value in lines {
                    line x1=(LEFT) x2=(RIGHT) y1=(px(bounds.y(value))) y2=(px(bounds.y(value)))
                        stroke="currentColor" stroke-opacity="0.15" {}
                    text x=(LEFT - 8.0) y=(px(bounds.y(value) + 4.0)) text-anchor="end" {
                        ((self.unit.text)(value))
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
        })
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
            if let Some(step) = self.unit.steps.iter().find(|step| **step * power >= least) {
                return step * power;
            }
            power *= self.unit.base;
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
pub(crate) fn list(marks: &[HistoryMark], now_ms: u64) -> Markup {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_near_the_largest_number_have_a_few_lines() {
        let points = [(0, 1.7e308)];
        let (title, unit) = ("values", COUNT);
        let chart =
            Chart { title, points: &points, limit: &[], band: None, marks: &[], now_ms: 9, unit };
        assert!(chart.draw().into_string().matches("<line").count() < 9);
    }

    proptest! {
        #[test]
        fn picture_of_any_values_is_within_its_frame(
            points in prop::collection::vec((any::<u64>(), any::<f64>()), 0..20),
            limit in any::<f64>(),
            secs in any::<[f64; 2]>(),
            now_ms in any::<u64>(),
        ) {
            let chart = Chart {
                title: "values",
                points: &points,
                limit: &[(1, limit)],
                band: Some(Band { limit, secs }),
                marks: &[],
                now_ms,
                unit: COUNT,
            };
            let drawn = chart.draw().into_string();
            prop_assert!(drawn.len() < 20_000, "{}", drawn.len());
            prop_assert!(!drawn.contains("NaN\"") && !drawn.contains("NaN,"), "{drawn}");
        }
    }
}
