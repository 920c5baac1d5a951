//! The picture: what was answered in time, second by second, with load shed and without.

use std::error::Error;

use plotters::{
    chart::ChartBuilder,
    element::{Rectangle, Text},
    prelude::{Color as _, IntoDrawingArea as _, IntoFont as _, LineSeries, SVGBackend},
    style::{ShapeStyle, WHITE},
};
use spillway_agent::commands::explain::{BLUE, GREY, VERMILLION};

use super::{
    Shedding,
    load::{SURGE_AT, Second},
};

/// Size in pixels. Letters stay readable at a width of 700.
const SIZE: (u32, u32) = (900, 400);
const LETTERS: u32 = 22;

/// Room above the highest point, as a share.
const HEADROOM_SHARE: f64 = 0.12;

/// Draws both runs of a server as SVG.
///
/// # Errors
///
/// Returns an error if the drawing library fails.
pub fn draw(shedding: &Shedding) -> Result<String, String> {
    let mut svg = String::new();
    paint(shedding, &mut svg).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn paint(shedding: &Shedding, svg: &mut String) -> Result<(), Box<dyn Error>> {
    let seconds = &shedding.with.seconds;
    let offered = f64::from(seconds.iter().map(|second| second.offered).max().unwrap_or(1));
    let (x_max, y_max) = (seconds.len() as f64, offered * (1.0 + HEADROOM_SHARE));
    let surge = (SURGE_AT.start as f64, SURGE_AT.end as f64);
    let capacity = shedding.server.family.capacity();
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(56)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
    let grey = GREY.mix(0.12).filled();
    chart.draw_series([Rectangle::new([(surge.0, 0.0), (surge.1, y_max)], grey)])?;
    chart
        .configure_mesh()
        .disable_mesh()
        .label_style(("sans-serif", LETTERS))
        .x_desc("second in which a request was due")
        .y_desc("requests per second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    let line = [(0.0, capacity), (x_max, capacity)];
    chart.draw_series(LineSeries::new(line, GREY))?;
    let in_time = |second: &Second| second.in_time;
    for (colour, width, seconds, of) in [
        (GREY, 1, &shedding.with.seconds, (|second| second.offered) as fn(&Second) -> u32),
        (VERMILLION, 3, &shedding.without.seconds, in_time),
        (BLUE, 3, &shedding.with.seconds, in_time),
    ] {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        chart.draw_series(LineSeries::new(steps(seconds, of), style))?;
    }
    // Above what each is about.
    let inside = surge.0 + 2.5;
    for (text, at, colour) in [
        ("offered", (inside, offered * 1.08), GREY),
        ("capacity", (0.5, capacity * 1.16), GREY),
        ("in time, load shed", (inside, capacity * 1.35), BLUE),
        ("in time, without", (inside, capacity * 0.2), VERMILLION),
    ] {
        let font = ("sans-serif", LETTERS).into_font().color(&colour);
        chart.draw_series([Text::new(text, at, font)])?;
    }
    drop(chart);
    root.present()?;
    Ok(())
}

/// Returns the corners of a line that is level in each second.
fn steps(seconds: &[Second], of: fn(&Second) -> u32) -> Vec<(f64, f64)> {
    let step = |(nth, second): (usize, &Second)| {
        let (t, count) = (nth as f64, f64::from(of(second)));
        [(t, count), (t + 1.0, count)]
    };
    seconds.iter().enumerate().flat_map(step).collect()
}
