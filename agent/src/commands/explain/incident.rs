//! Picture of an incident: what it is about, over the last day, with the forecast and numbered
//! marks, and what was claimed and done in words below.

use maud::{Markup, PreEscaped, html};

use crate::{
    act::notify::timestamp,
    detect::{IncidentId, Resource, resource_of},
    history::{
        HistoryEvent, StoredHistory,
        chart::{self, Band, Chart, HEIGHT, WIDTH},
        series::{HistoryMark, events_as_marks},
    },
    status::text::wrapped,
    units::{clock_time, to_second},
};

/// Margin around everything, and height of a line of text.
const MARGIN: f64 = 16.0;
const LINE: f64 = 18.0;

/// Letters that fit on a line.
const LINE_LETTERS: usize = 125;

/// Colours, those of the pages on a light screen, and letters.
const STYLE: &str = "svg { --red: #c4262e; --amber: #9a6700; --green: #1a7f37; --blue: #0969da; \
    color: #1f2328; background: #fff } text { font: 12px system-ui, sans-serif; \
    fill: currentColor } .title { font-size: 16px; font-weight: 600 }";

/// Draws an incident as SVG; `None` if its events have no verdict.
pub(super) fn draw(
    id: &str,
    events: &[(u64, HistoryEvent)],
    history: &StoredHistory,
    now_ms: u64,
) -> Option<String> {
    let is_claim = |event: &HistoryEvent| matches!(event.event.as_str(), "raised" | "updated");
    let (at_ms, claim) = events.iter().rev().find(|(_, event)| is_claim(event))?;
    // Its limit may be lifted after it is cleared.
    let latest = events.iter().rev().find(|(_, event)| !event.verdict.is_empty());
    let is_open = latest.is_some_and(|(_, event)| event.event != "cleared");
    let marks = events_as_marks(events);
    let parts = Parts { marks: &marks, now_ms, forecast: is_open.then_some((*at_ms, claim)) };
    let charts = match IncidentId::from(id) {
        IncidentId::Overload { netns, addr } => {
            let mut series = history.listener(netns, &addr)?;
            series.marks = marks.clone();
            drawn(&series.charts(now_ms))
        }
        IncidentId::Leak(process, Resource::Memory) => {
            let (process, workload) = (history.process(process)?, history.workload(&claim.cgroup)?);
            let own = "Memory of the process: anonymous, swapped and shared";
            let all = "Memory of the whole workload";
            drawn(&[
                parts.chart(own, &process.memory, &process.memory_max, chart::BYTES),
                Chart {
                    band: None,
                    marks: &workload.marks,
                    ..parts.chart(all, &workload.memory, &workload.limit, chart::BYTES)
                },
            ])
        }
        IncidentId::Leak(process, resource) => {
            let series = history.process(process)?;
            drawn(&[match resource {
                Resource::Threads => parts.chart("Threads", &series.threads, &[], chart::COUNT),
                Resource::CloseWait => {
                    let title = "Sockets that only the peer has closed";
                    parts.chart(title, &series.close_wait, &series.files_max, chart::COUNT)
                }
                Resource::Files | Resource::Memory => {
                    parts.chart("Open files", &series.files, &series.files_max, chart::COUNT)
                }
            }])
        }
        IncidentId::Exhaustion { resource, subject } => {
            let series = history.count(&resource, &subject)?;
            let title = sentence(&resource_of(&resource, &subject));
            let unit = if resource.is_bytes() { chart::BYTES } else { chart::COUNT };
            drawn(&[parts.chart(&title, &series.used, &series.limit, unit)])
        }
        _ => {
            let workload = history.workload(&claim.cgroup)?;
            let all = "Memory of the whole workload";
            drawn(&[parts.chart(all, &workload.memory, &workload.limit, chart::BYTES)])
        }
    };
    Some(document(claim, &charts, &marks, now_ms))
}

/// Begins with a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Parts that the pictures of an incident share.
struct Parts<'a> {
    marks: &'a [HistoryMark],
    now_ms: u64,
    /// Latest verdict with its time, if the incident is open.
    forecast: Option<(u64, &'a HistoryEvent)>,
}

impl<'a> Parts<'a> {
    fn chart(
        &self,
        title: &'a str,
        points: &'a [(u64, f64)],
        limit: &'a [(u64, f64)],
        unit: chart::ChartUnit,
    ) -> Chart<'a> {
        let band = self.forecast.and_then(|(at_ms, claim)| {
            let secs = claim.exhaustion_secs?;
            let since_secs = self.now_ms.saturating_sub(at_ms) as f64 / 1e3;
            let interval = claim.exhaustion_interval_secs.unwrap_or([secs, secs]);
            let (_, limit) = limit.last()?;
            let secs = interval.map(|secs| (secs - since_secs).max(0.0));
            Some(Band { limit: *limit, secs })
        });
        Chart { title, points, limit, band, marks: self.marks, now_ms: self.now_ms, unit }
    }
}

/// Draws those pictures of which there is anything, one below the other.
fn drawn(charts: &[Chart<'_>]) -> Vec<Markup> {
    let top = MARGIN * 2.0 + LINE;
    let filled = charts.iter().filter(|chart| !chart.points.is_empty());
    filled
        .enumerate()
        .filter_map(|(nth, chart)| chart.at(Some(top + nth as f64 * HEIGHT)))
        .collect()
}

fn document(claim: &HistoryEvent, charts: &[Markup], marks: &[HistoryMark], now_ms: u64) -> String {
    let now = timestamp(now_ms);
    let told = [("why", &claim.why), ("to do", &claim.advice)];
    let told = told.into_iter().map(|(label, text)| format!("{label}: {text}"));
    let marked = marks.iter().enumerate().map(|(nth, mark)| {
        format!("{} · {} {}", nth + 1, clock_time(&timestamp(mark.at_ms), &now), mark.text)
    });
    let drawn_at = format!("drawn {}", to_second(&now));
    let lines: Vec<_> = told
        .chain(marked)
        .chain([drawn_at])
        .flat_map(|line| wrapped(&line, LINE_LETTERS))
        .collect();
    let first = MARGIN * 3.0 + LINE + charts.len() as f64 * HEIGHT;
    let height = first + lines.len() as f64 * LINE + MARGIN;
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height)
            viewBox={ "0 0 " (WIDTH) " " (height) } {
            style { (PreEscaped(STYLE)) }
            rect width="100%" height="100%" fill="#fff" {}
            text class="title" x=(MARGIN) y=(MARGIN + LINE) { (claim.headline) }
            @for chart in charts { (chart) }
            @for (nth, line) in lines.iter().enumerate() {
                text x=(MARGIN) y=(first + nth as f64 * LINE) { (line) }
            }
        }
    };
    svg.into_string()
}
