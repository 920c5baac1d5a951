//! Picture of a scenario: share served, hosts in rotation and memory over time, a line a policy.

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::Shift,
    element::PathElement,
    prelude::{
        DrawingArea, IntoDrawingArea, IntoFont, LineSeries, RGBColor, SVGBackend, ShapeStyle, WHITE,
    },
    style::Color as _,
};
use spillway_agent::commands::explain::{BLUE, GREY, VERMILLION};

use super::report::{Outcome, Sample};

const WIDTH: u32 = 1_000;
const HEIGHT: u32 = 900;

/// Further colours of Okabe and Ito's set.
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const COLOURS: [RGBColor; 5] = [GREY, PURPLE, VERMILLION, GREEN, BLUE];

/// Points of a line at most.
const POINTS_MAX: usize = 1_000;

/// Figure of a sample that is drawn, in percent, and its name.
type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 3] = [
    ("requests answered in time, %", |sample| 100.0 * sample.served_share()),
    ("hosts in rotation, %", |sample| 100.0 * sample.in_rotation),
    ("memory in use on the median host, %", |sample| 100.0 * sample.memory[0]),
];

/// Draws the outcomes of one scenario as SVG.
///
/// # Errors
///
/// Returns an error if the drawing library fails.
pub fn draw(outcomes: &[Outcome]) -> Result<String, String> {
    let mut svg = String::new();
    paint(outcomes, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(outcomes: &[Outcome], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, figure) in root.split_evenly((FIGURES.len(), 1)).iter().zip(FIGURES) {
        panel(area, outcomes, figure)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    outcomes: &[Outcome],
    (name, figure): Figure,
) -> Result<(), Box<dyn std::error::Error>> {
    let samples = || outcomes.iter().flat_map(|outcome| &outcome.samples);
    let hours = samples().map(|sample| sample.t / 3_600.0).fold(1e-3, f64::max);
    let caption = outcomes.first().map_or(String::new(), |outcome| {
        format!("{}, {} hosts: {name}", outcome.scenario, outcome.nodes)
    });
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16).into_font())
        .margin(10)
        .x_label_area_size(32)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..hours, 0.0..103.0)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("hours").draw()?;
    for (outcome, colour) in outcomes.iter().zip(COLOURS.iter().cycle()) {
        let style = ShapeStyle::from(colour).stroke_width(2);
        let step = outcome.samples.len().div_ceil(POINTS_MAX).max(1);
        // The lowest of each stretch, so that no minute of an outage is left out.
        let lowest = |samples: &[Sample]| {
            let least = samples.iter().map(figure).fold(f64::INFINITY, f64::min);
            (samples[0].t / 3_600.0, least)
        };
        let points = outcome.samples.chunks(step).map(lowest);
        let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
        chart.draw_series(LineSeries::new(points, style))?.label(outcome.policy).legend(key);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
