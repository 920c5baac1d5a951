//! Timeline of an incident as a picture: claimed, decided and done, now, and the end that is
//! forecast.
//!
//! Marks that would lie on each other are moved apart, in their order: the clock times beside them
//! are what counts.

use std::time::UNIX_EPOCH;

use maud::{Markup, html};

use super::super::report::{IncidentEntry, StatusReport};

/// Size of the picture.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 20.0;
const RIGHT: f64 = 880.0;
const AXIS: f64 = 96.0;

/// Distance between two labels on one line, of which there are three.
const LABEL_WIDTH: f64 = 190.0;
const LINES: usize = 3;
const LINE_HEIGHT: f64 = 28.0;

/// Colours of marks.
const BLUE: &str = "var(--blue)";
const RED: &str = "var(--red)";
const GREEN: &str = "var(--green)";
const AMBER: &str = "var(--amber)";

/// A mark on the axis.
struct Mark {
    secs: f64,
    label: String,
    colour: &'static str,
}

/// Draws the timeline; nothing if its times cannot be read.
pub(super) fn picture(incident: &IncidentEntry, report: &StatusReport) -> Markup {
    let Some((marks, now_secs)) = marks(incident, report) else { return html! {} };
    let from_secs = marks.iter().map(|mark| mark.secs).fold(now_secs, f64::min);
    let to_secs = marks.iter().map(|mark| mark.secs).fold(now_secs + 1.0, f64::max);
    let x = |secs: f64| LEFT + (RIGHT - LEFT) * (secs - from_secs) / (to_secs - from_secs);
    let placed = places(marks.iter().map(|mark| x(mark.secs)));
    let about = marks.iter().map(|mark| mark.label.as_str()).collect::<Vec<_>>().join(", ");
    html! {
        svg class="timeline" viewBox={ "0 0 " (WIDTH) " 130" } role="img"
            aria-label={ "Timeline: " (about) } {
            line x1=(LEFT) x2=(RIGHT) y1=(AXIS) y2=(AXIS) stroke="currentColor" stroke-opacity="0.4"
                stroke-width="2" {}
            line x1=(x(from_secs)) x2=(x(now_secs)) y1=(AXIS) y2=(AXIS) stroke="currentColor"
                stroke-width="4" {}
            @for (mark, place) in marks.iter().zip(placed) {
                line x1=(x(mark.secs)) x2=(x(mark.secs)) y1=(place.y + 4.0) y2=(AXIS)
                    stroke=(mark.colour) {}
                circle cx=(x(mark.secs)) cy=(AXIS) r="6" fill=(mark.colour) {}
                text x=(x(mark.secs) + place.aside) y=(place.y)
                    text-anchor=(place.anchor) { (mark.label) }
            }
            text x=(x(now_secs)) y=(AXIS + 24.0) text-anchor=(beside(x(now_secs))) {
                "now, " (report.at.get(11..16).unwrap_or_default())
            }
        }
    }
}

fn marks(incident: &IncidentEntry, report: &StatusReport) -> Option<(Vec<Mark>, f64)> {
    let now_secs = unix_secs(&report.at)?;
    let clock = |time: &str| time.get(11..16).unwrap_or_default().to_owned();
    let claimed = Mark {
        secs: unix_secs(&incident.since)?,
        label: format!("claimed {}", clock(&incident.since)),
        colour: BLUE,
    };
    let actions = incident.actions.iter().filter_map(|action| {
        let colour = match action.state.as_str() {
            "would" | "refused" => AMBER,
            _ => GREEN,
        };
        let verb = if action.state == "would" { "would " } else { "" };
        let refused = if action.state == "refused" { " refused" } else { "" };
        let label = format!("{verb}{}{refused} {}", action.action, clock(&action.since));
        Some(Mark { secs: unix_secs(&action.since)?, label, colour })
    });
    let end = incident.exhaustion_secs.filter(|secs| secs.is_finite()).map(|secs| Mark {
        secs: now_secs + secs,
        label: "forecast end".to_owned(),
        colour: RED,
    });
    let mut marks: Vec<_> = [claimed].into_iter().chain(actions).chain(end).collect();
    marks.sort_by(|one, other| one.secs.total_cmp(&other.secs));
    Some((marks, now_secs))
}

/// Place of a label.
struct LabelPlace {
    y: f64,
    /// Distance from the line that leads to its mark.
    aside: f64,
    anchor: &'static str,
}

/// Places labels in turn on the lines above the axis, from the lowest that is free.
fn places(xs: impl Iterator<Item = f64>) -> Vec<LabelPlace> {
    let mut ends = [f64::NEG_INFINITY; LINES];
    let place = |x: f64| {
        let is_last = x > WIDTH - LABEL_WIDTH;
        let from = if is_last { x - LABEL_WIDTH } else { x };
        let (anchor, aside) = if is_last { ("end", -5.0) } else { ("start", 5.0) };
        let free = ends.iter().position(|end| *end <= from).unwrap_or(LINES - 1);
        ends[free] = from + LABEL_WIDTH;
        LabelPlace { y: AXIS - 22.0 - LINE_HEIGHT * free as f64, aside, anchor }
    };
    xs.map(place).collect()
}

/// Returns where a label below the axis is anchored, so that it is not cut.
fn beside(x: f64) -> &'static str {
    match x {
        _ if x < LEFT + LABEL_WIDTH / 2.0 => "start",
        _ if x > RIGHT - LABEL_WIDTH / 2.0 => "end",
        _ => "middle",
    }
}

pub(super) fn unix_secs(time: &str) -> Option<f64> {
    let at = humantime::parse_rfc3339(time).ok()?;
    at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}
