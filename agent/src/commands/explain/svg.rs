//! The picture: a chart of each resource that something is claimed of, with its limit as it
//! changed, every claim with its pace drawn through it, and the interval of its end.

use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, types::RangedCoordf64},
    drawing::DrawingArea,
    element::{Circle, DashedPathElement, EmptyElement, PathElement, Polygon, Text},
    prelude::{
        Cartesian2d, Color as _, IntoDrawingArea, IntoFont, LineSeries, RGBColor, SVGBackend,
        ShapeStyle, WHITE,
    },
};

use super::series::{Curve, Thinned};
use crate::{
    detect::{ClaimState, Verdict},
    status::text::wrapped,
};

const WIDTH: u32 = 1_000;
const CHART_HEIGHT: u32 = 480;
const TITLE_HEIGHT: u32 = 40;
const LINE_HEIGHT: u32 = 18;
/// Places of labels, in pixels from the right and from the top of what they name.
const ABOVE: (i32, i32) = (4, -14);
const BESIDE: (i32, i32) = (3, 0);
/// Radius of the dot at the end of a life, in pixels.
const END_RADIUS: i32 = 3;
/// Letters of the explanation that fit on a line.
const LINE_LETTERS: usize = 140;

/// Room above the highest point, and how far to the right of the trace a forecast is drawn, as
/// shares.
const HEADROOM_SHARE: f64 = 0.1;
const FORECAST_SHARE: f64 = 0.5;

/// A limit further away than so many times the highest point would flatten the curve: it is told in
/// words alone.
const LIMIT_TIMES_MAX: f64 = 4.0;

// Okabe and Ito's colours, which people with any colour vision can tell apart.
/// Blue of the project's pictures.
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
/// Vermillion of the project's pictures.
pub const VERMILLION: RGBColor = RGBColor(213, 94, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
/// Grey of the project's pictures.
pub const GREY: RGBColor = RGBColor(90, 90, 90);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type PanelChart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Failure = Box<dyn std::error::Error>;

/// Contents of a picture.
#[derive(Debug)]
pub struct Picture<'a> {
    /// Subject.
    pub title: String,
    /// First and last time of the trace, in seconds of its clock.
    pub span: Option<(f64, f64)>,
    /// Charts, from the top.
    pub charts: Vec<Charted<'a>>,
    /// Verdicts that are told below the charts.
    pub verdicts: &'a [Verdict],
}

/// A resource over time.
#[derive(Debug)]
pub struct Charted<'a> {
    /// Name of the resource, on the axis.
    pub name: String,
    /// Set if it is counted in bytes.
    pub is_bytes: bool,
    /// Values.
    pub curves: Vec<&'a Curve>,
    /// Values of other lives of the same workload, up to their ends.
    pub others: &'a [Thinned],
    /// Limit at each time at which it changed.
    pub limits: Vec<(f64, u64)>,
    /// Verdicts about it.
    pub verdicts: Vec<ChartedVerdict<'a>>,
}

/// A verdict about a resource that is drawn.
#[derive(Debug)]
pub struct ChartedVerdict<'a> {
    /// Verdict.
    pub verdict: &'a Verdict,
    /// Curve that is claimed to rise, and its pace a second; `None` without one.
    pub claimed: Option<(&'a Curve, f64)>,
}

/// Draws a picture as SVG.
///
/// # Errors
///
/// Returns an error if the drawing library fails.
pub fn draw(picture: &Picture<'_>) -> Result<String, String> {
    let lines = explanation(picture);
    let charts = picture.charts.len() as u32;
    let height = TITLE_HEIGHT + CHART_HEIGHT * charts + LINE_HEIGHT * (lines.len() as u32 + 1);
    let mut svg = String::new();
    paint(picture, &lines, &mut svg, height).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(
    picture: &Picture<'_>,
    lines: &[String],
    svg: &mut String,
    height: u32,
) -> Result<(), Failure> {
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rest = root.titled(&picture.title, ("sans-serif", 18).into_font())?;
    for chart in &picture.charts {
        let (upper, lower) = rest.split_vertically(CHART_HEIGHT);
        Panel::new(picture, chart).paint(&upper)?;
        rest = lower;
    }
    for (row, line) in lines.iter().enumerate() {
        let at = (12, (row as u32 * LINE_HEIGHT) as i32);
        rest.draw(&Text::new(line.as_str(), at, ("sans-serif", 13).into_font()))?;
    }
    root.present()?;
    Ok(())
}

/// Chart of one resource.
struct Panel<'a> {
    charted: &'a Charted<'a>,
    frame: Frame,
}

impl<'a> Panel<'a> {
    fn new(picture: &Picture<'_>, charted: &'a Charted<'a>) -> Self {
        Self { charted, frame: Frame::of(picture.span, charted) }
    }

    fn paint(&self, area: &Area<'_>) -> Result<(), Failure> {
        let frame = &self.frame;
        let unit = match frame.size.name {
            "" => String::new(),
            name => format!(", {name}"),
        };
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..frame.x_max, 0.0..frame.y_max)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(format!("{} since the trace began", frame.time.name))
            .y_desc(format!("{}{unit}", self.charted.name))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| {
                if frame.y_max < 10.0 { format!("{y:.1}") } else { format!("{y:.0}") }
            })
            .draw()?;
        self.paint_lives(&mut chart)?;
        self.paint_limit(&mut chart)?;
        let verdicts = &self.charted.verdicts;
        verdicts.iter().try_for_each(|verdict| self.paint_verdict(&mut chart, verdict))
    }

    /// Draws the process, and the other lives of its workload with their ends at the limit.
    fn paint_lives(&self, chart: &mut PanelChart<'_, '_>) -> Result<(), Failure> {
        let line = |points: &[(f64, u64)], style: ShapeStyle| {
            let points = points.iter().map(|&(t, value)| self.frame.at(t, value as f64));
            LineSeries::new(points.collect::<Vec<_>>(), style)
        };
        for life in self.charted.others {
            chart.draw_series(line(&life.points, BLUE.mix(0.5).stroke_width(1)))?;
            let end = life.points.last().map(|&(t, value)| self.frame.at(t, value as f64));
            let style = VERMILLION.filled();
            chart.draw_series(end.map(|end| Circle::new(end, END_RADIUS, style)))?;
        }
        for curve in &self.charted.curves {
            chart.draw_series(line(&curve.values.points, BLUE.stroke_width(2)))?;
        }
        Ok(())
    }

    /// Draws the limit at each time, as far as it is in the picture.
    fn paint_limit(&self, chart: &mut PanelChart<'_, '_>) -> Result<(), Failure> {
        let frame = &self.frame;
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for &(t, limit) in &self.charted.limits {
            let (x, y) = frame.at(t, limit as f64);
            // A limit that is not in the picture is drawn at its edge for as long.
            let y = y.min(frame.y_max);
            steps.extend(steps.last().map(|&(_, before)| (x, before)));
            steps.push((x, y));
        }
        let (Some(&first), Some(&last)) = (steps.first(), steps.last()) else { return Ok(()) };
        if steps.iter().all(|(_, y)| *y >= frame.y_max) {
            return Ok(());
        }
        steps.push((frame.x_max, last.1));
        let style = GREY.stroke_width(1);
        chart.draw_series([DashedPathElement::new(steps, 6, 4, style)])?;
        let style = ("sans-serif", 12).into_font().color(&GREY);
        chart.draw_series([EmptyElement::at(first) + Text::new("limit", ABOVE, style)])?;
        Ok(())
    }

    fn paint_verdict(
        &self,
        chart: &mut PanelChart<'_, '_>,
        charted: &ChartedVerdict<'_>,
    ) -> Result<(), Failure> {
        let (frame, verdict) = (&self.frame, charted.verdict);
        let x = frame.x(verdict.t);
        let colour = match verdict.state {
            ClaimState::Raised | ClaimState::Updated => VERMILLION,
            ClaimState::Cleared => GREEN,
        };
        let word = verdict.state.name();
        let top = [(x, 0.0), (x, frame.y_max)];
        chart.draw_series([PathElement::new(top, colour.stroke_width(1))])?;
        let style = ("sans-serif", 12).into_font().color(&colour);
        chart.draw_series([EmptyElement::at(top[1]) + Text::new(word, BESIDE, style)])?;
        if verdict.state == ClaimState::Raised
            && let Some((points, slope)) = charted.claimed()
            && let Some(&(_, value)) = points.last()
        {
            if let Some(band) = self.band(verdict, value as f64) {
                chart.draw_series([Polygon::new(band, VERMILLION.mix(0.15).filled())])?;
            }
            let line = self.line(verdict, points, value as f64, slope);
            chart.draw_series([DashedPathElement::new(line, 8, 5, colour.stroke_width(2))])?;
        }
        Ok(())
    }

    /// Returns a line of the claimed pace through the point at which it was claimed, from where it
    /// would have begun to the end of the picture, the limit or the claim's own end.
    fn line(
        &self,
        verdict: &Verdict,
        points: &[(f64, u64)],
        value: f64,
        slope: f64,
    ) -> [(f64, f64); 2] {
        let frame = &self.frame;
        let least = points.iter().map(|&(_, value)| value as f64).fold(value, f64::min);
        let first_t = points.first().map_or(verdict.t, |&(t, _)| t);
        let begin_t = (verdict.t - (value - least) / slope).max(first_t);
        let mut later = self.charted.verdicts.iter().map(|other| other.verdict);
        let cleared = later.find(|other| other.t > verdict.t && other.state == ClaimState::Cleared);
        let end_t = cleared.map_or(frame.end_t(), |cleared| cleared.t);
        let top_t = verdict.t + (frame.y_max * frame.size.is - value) / slope;
        let on_line = |at_t: f64| frame.at(at_t, value + slope * (at_t - verdict.t));
        [on_line(begin_t), on_line(end_t.min(top_t))]
    }

    /// Returns the outline of the forecast, from the point at which it was claimed to the soonest
    /// and the latest end, cut at the edges of the picture.
    fn band(&self, verdict: &Verdict, value: f64) -> Option<Vec<(f64, f64)>> {
        let ends_secs = verdict.exhaustion_interval_secs?;
        let (_, limit) = self.charted.limits.iter().rfind(|(t, _)| *t <= verdict.t)?;
        let rise = *limit as f64 - value;
        let shown = rise.min(self.frame.y_max * self.frame.size.is - value);
        let ahead_secs = self.frame.end_t() - verdict.t;
        if shown <= 0.0 || ahead_secs <= 0.0 {
            return None;
        }
        let [soonest, latest] = ends_secs.map(|secs| {
            let secs = (secs * shown / rise).max(f64::MIN_POSITIVE);
            let cut_secs = secs.min(ahead_secs);
            (cut_secs, value + shown * (cut_secs / secs))
        });
        let corner = (latest.0, soonest.1);
        let at = |(secs, value): (f64, f64)| self.frame.at(verdict.t + secs, value);
        Some([(0.0, value), soonest, corner, latest].map(at).to_vec())
    }
}

impl ChartedVerdict<'_> {
    /// Returns the points up to the claim, and the claimed pace.
    fn claimed(&self) -> Option<(&[(f64, u64)], f64)> {
        let (curve, slope) = self.claimed?;
        let points = &curve.values.points;
        Some((&points[..points.partition_point(|&(t, _)| t <= self.verdict.t)], slope))
    }
}

/// Units and bounds of a chart.
struct Frame {
    start_t: f64,
    time: AxisUnit,
    size: AxisUnit,
    x_max: f64,
    y_max: f64,
}

struct AxisUnit {
    name: &'static str,
    is: f64,
}

impl Frame {
    fn of(span: Option<(f64, f64)>, charted: &Charted<'_>) -> Self {
        let (start_t, end_t) = span.unwrap_or((0.0, 1.0));
        let secs = (end_t - start_t).max(1.0);
        let verdicts = charted.verdicts.iter().map(|charted| charted.verdict);
        let forecast =
            verdicts.filter_map(|verdict| Some(verdict.t - start_t + verdict.exhaustion_secs?));
        let furthest = forecast.fold(secs, f64::max).min(secs * (1.0 + FORECAST_SHARE));
        let values = charted.curves.iter().map(|curve| &curve.values).chain(charted.others);
        let values = values.flat_map(|values| &values.points).map(|&(_, value)| value as f64);
        let highest = values.fold(1.0, f64::max);
        let limits = charted.limits.iter().map(|&(_, limit)| limit as f64);
        let limit =
            limits.filter(|&limit| limit <= highest * LIMIT_TIMES_MAX).fold(highest, f64::max);
        let top = limit * (1.0 + HEADROOM_SHARE);
        let time = unit(
            furthest,
            &[("seconds", 1.0), ("minutes", 60.0), ("hours", 3_600.0), ("days", 86_400.0)],
            5.0,
        );
        let size = if charted.is_bytes {
            const KIB: f64 = 1_024.0;
            let units =
                [("KiB", KIB), ("MiB", KIB.powi(2)), ("GiB", KIB.powi(3)), ("TiB", KIB.powi(4))];
            unit(top, &units, 2.0)
        } else {
            AxisUnit { name: "", is: 1.0 }
        };
        Self { start_t, x_max: furthest / time.is, y_max: top / size.is, time, size }
    }

    fn x(&self, t: f64) -> f64 {
        (t - self.start_t) / self.time.is
    }

    fn at(&self, t: f64, value: f64) -> (f64, f64) {
        (self.x(t), value / self.size.is)
    }

    /// Time at the right edge.
    fn end_t(&self) -> f64 {
        self.start_t + self.x_max * self.time.is
    }
}

/// The largest unit of which there are at least so many; the smallest where there are not.
fn unit(value: f64, units: &[(&'static str, f64)], at_least: f64) -> AxisUnit {
    let fitting = units.iter().rev().find(|(_, is)| value / is >= at_least);
    let &(name, is) = fitting.unwrap_or(&units[0]);
    AxisUnit { name, is }
}

/// Draws the verdicts as text, as many words on a line as fit.
fn explanation(picture: &Picture<'_>) -> Vec<String> {
    if picture.verdicts.is_empty() {
        return vec!["Nothing was claimed about it.".to_owned()];
    }
    let start_t = picture.span.map_or(0.0, |(first, _)| first);
    let text = |verdict: &Verdict| {
        let state = match verdict.state {
            ClaimState::Raised => "Raised",
            ClaimState::Updated => "Updated",
            ClaimState::Cleared => "Cleared",
        };
        let (after_secs, percent) = (verdict.t - start_t, verdict.confidence * 100.0);
        format!("{state} after {after_secs:.0} s, confidence {percent:.0} %: {}", verdict.why)
    };
    picture.verdicts.iter().flat_map(|verdict| wrapped(&text(verdict), LINE_LETTERS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_leaves_numbers_that_read_well() {
        let units = [("seconds", 1.0), ("minutes", 60.0)];
        assert_eq!(unit(10.0, &units, 5.0).name, "seconds");
        assert_eq!(unit(299.0, &units, 5.0).name, "seconds");
        assert_eq!(unit(300.0, &units, 5.0).name, "minutes");
        assert_eq!(unit(0.0, &units, 5.0).name, "seconds");
    }
}
