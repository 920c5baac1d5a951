//! The picture: memory over time, every claim with its pace drawn through it, and the limit that it
//! leads to.

use plotters::{
    chart::ChartBuilder,
    element::{DashedPathElement, PathElement, Text},
    prelude::{IntoDrawingArea, IntoFont, LineSeries, RGBColor, SVGBackend, ShapeStyle, WHITE},
};

use super::Explained;
use crate::detect::{Claim, ClaimState, Resource, Verdict};

const WIDTH: u32 = 1_000;
const CHART_HEIGHT: u32 = 480;
const TITLE_HEIGHT: u32 = 40;
const LINE_HEIGHT: u32 = 18;
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

/// Draws what is known of a pid as SVG.
///
/// # Errors
///
/// Returns an error if the drawing library fails.
pub fn draw(explained: &Explained) -> Result<String, String> {
    let lines = explanation(explained);
    let height = TITLE_HEIGHT + CHART_HEIGHT + LINE_HEIGHT * (lines.len() as u32 + 1);
    let mut svg = String::new();
    paint(explained, &lines, &mut svg, height).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(
    explained: &Explained,
    lines: &[String],
    svg: &mut String,
    height: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    let frame = Frame::of(explained);
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(TITLE_HEIGHT + CHART_HEIGHT);
    let mut chart = ChartBuilder::on(&upper)
        .caption(title(explained), ("sans-serif", 18).into_font())
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..frame.x_max, 0.0..frame.y_max)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(format!("{} since the trace began", frame.time.name))
        .y_desc(format!("anonymous, swapped and shared memory, {}", frame.size.name))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| {
            if frame.y_max < 10.0 { format!("{y:.1}") } else { format!("{y:.0}") }
        })
        .draw()?;
    for life in &explained.lives {
        chart.draw_series(LineSeries::new(
            life.points.iter().map(|&(t, bytes)| (frame.x(t), frame.y(bytes as f64))),
            ShapeStyle::from(&BLUE).stroke_width(2),
        ))?;
    }
    if let Some(limit) = explained
        .limit_bytes
        .map(|bytes| frame.y(bytes as f64))
        .filter(|&limit| limit <= frame.y_max)
    {
        let style = ShapeStyle::from(&GREY).stroke_width(1);
        chart.draw_series([DashedPathElement::new(
            [(0.0, limit), (frame.x_max, limit)],
            6,
            4,
            style,
        )])?;
        chart.draw_series([Text::new(
            "limit",
            (0.0, limit),
            ("sans-serif", 12).into_font().color(&GREY),
        )])?;
    }
    // The curve is memory's: what is said of anything else stands in words below it.
    for verdict in explained.verdicts.iter().filter(|verdict| is_of_memory(verdict)) {
        let x = frame.x(verdict.t);
        let (colour, word) = match verdict.state {
            ClaimState::Raised => (VERMILLION, "raised"),
            ClaimState::Updated => (VERMILLION, "updated"),
            ClaimState::Cleared => (GREEN, "cleared"),
        };
        let style = ShapeStyle::from(&colour).stroke_width(1);
        chart.draw_series([PathElement::new([(x, 0.0), (x, frame.y_max)], style)])?;
        chart.draw_series([Text::new(
            word,
            (x, frame.y_max),
            ("sans-serif", 12).into_font().color(&colour),
        )])?;
        if verdict.state == ClaimState::Raised
            && let Some(pace) = pace(explained, verdict, &frame)
        {
            let style = ShapeStyle::from(&colour).stroke_width(2);
            chart.draw_series([DashedPathElement::new(pace, 8, 5, style)])?;
        }
    }
    for (row, line) in lines.iter().enumerate() {
        let at = (12, (row as u32 * LINE_HEIGHT) as i32);
        lower.draw(&Text::new(line.as_str(), at, ("sans-serif", 13).into_font()))?;
    }
    drop(chart);
    root.present()?;
    Ok(())
}

/// Units and bounds of the chart.
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
    fn of(explained: &Explained) -> Self {
        let (start_t, end_t) = explained.span.unwrap_or((0.0, 1.0));
        let secs = (end_t - start_t).max(1.0);
        let of_memory = explained.verdicts.iter().filter(|verdict| is_of_memory(verdict));
        let forecast =
            of_memory.filter_map(|verdict| Some(verdict.t - start_t + verdict.exhaustion_secs?));
        let furthest = forecast.fold(secs, f64::max).min(secs * (1.0 + FORECAST_SHARE));
        let highest =
            explained.lives.iter().flat_map(|life| &life.points).map(|&(_, bytes)| bytes as f64);
        let highest = highest.fold(1.0, f64::max);
        let limit = explained
            .limit_bytes
            .map(|bytes| bytes as f64)
            .filter(|&limit| limit <= highest * LIMIT_TIMES_MAX);
        let top = limit.unwrap_or(highest).max(highest) * (1.0 + HEADROOM_SHARE);
        let time = unit(
            furthest,
            &[("seconds", 1.0), ("minutes", 60.0), ("hours", 3_600.0), ("days", 86_400.0)],
            5.0,
        );
        let size =
            unit(top, &[("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)], 2.0);
        Self { start_t, x_max: furthest / time.is, y_max: top / size.is, time, size }
    }

    fn x(&self, t: f64) -> f64 {
        (t - self.start_t) / self.time.is
    }

    fn y(&self, bytes: f64) -> f64 {
        bytes / self.size.is
    }
}

/// The largest unit of which there are at least so many; the smallest where there are not.
fn unit(value: f64, units: &[(&'static str, f64)], at_least: f64) -> AxisUnit {
    let fitting = units.iter().rev().find(|(_, is)| value / is >= at_least);
    let &(name, is) = fitting.unwrap_or(&units[0]);
    AxisUnit { name, is }
}

/// A line of the claimed pace through the point at which it was claimed, from where it would have
/// begun to the end of the picture, the limit or the claim's own end.
fn pace(explained: &Explained, verdict: &Verdict, frame: &Frame) -> Option<[(f64, f64); 2]> {
    let Claim::Leak(claim) = &verdict.claim else { return None };
    if claim.cgroup_memory.is_some() {
        return None;
    }
    let life = explained.lives.iter().find(|life| life.start_ticks == claim.id.start_ticks)?;
    let at = life.points.partition_point(|&(t, _)| t <= verdict.t).checked_sub(1)?;
    let (t, bytes) = (verdict.t, life.points[at].1 as f64);
    let slope = claim.growth_bytes_per_sec?;
    let least = life.points[..=at].iter().map(|&(_, bytes)| bytes as f64).fold(bytes, f64::min);
    let begin_t = (t - (bytes - least) / slope).max(life.points.first()?.0);
    let cleared = explained
        .verdicts
        .iter()
        .find(|other| other.t > t && other.state == ClaimState::Cleared && is_of_memory(other));
    let end_t = cleared.map_or(frame.start_t + frame.x_max * frame.time.is, |cleared| cleared.t);
    let top_t = t + (frame.y_max * frame.size.is - bytes) / slope;
    let on_line = |at_t: f64| (frame.x(at_t), frame.y(bytes + slope * (at_t - t)));
    Some([on_line(begin_t), on_line(end_t.min(top_t))])
}

fn is_of_memory(verdict: &Verdict) -> bool {
    matches!(&verdict.claim, Claim::Leak(claim) if claim.resource == Resource::Memory)
}

fn title(explained: &Explained) -> String {
    let Some(life) = explained.lives.last() else { return String::new() };
    let lives = match explained.lives.len() {
        1 => String::new(),
        count => format!(", the last of {count} processes with this pid"),
    };
    format!("{} (pid {}) in {}{lives}", life.comm, explained.pid, life.cgroup)
}

/// Draws the verdicts as text, one per line, as many as fit.
fn explanation(explained: &Explained) -> Vec<String> {
    let mut lines = Vec::new();
    for verdict in &explained.verdicts {
        let state = if verdict.state == ClaimState::Raised { "Raised" } else { "Cleared" };
        let after = verdict.t - explained.span.map_or(0.0, |(first, _)| first);
        let text = format!(
            "{state} after {after:.0} s, confidence {:.0} %: {}",
            verdict.confidence * 100.0,
            verdict.why
        );
        let mut line = String::new();
        for word in text.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > LINE_LETTERS {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    if lines.is_empty() {
        lines.push("Nothing was claimed about it.".to_owned());
    }
    lines
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
