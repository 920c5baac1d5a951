//! Draws the screen: a header, the tabs, a table or a text in its place, and a line of hints, which
//! is also where questions are asked. Pure.
//!
//! Everything that is drawn goes through [`Canvas::put`], which makes it printable: names are
//! chosen by others, and the report itself comes from another process.

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::Span as StyledText,
};

use super::{
    cell::rank,
    details::{Detail, Tone},
    state::{TopDialog, TopState, TopWish},
    table::{ColumnHead, TopRow},
    views::VIEWS,
};
use crate::{
    sense::printable::printable,
    status::text::rotation,
    units::{Count, Span},
};

/// Rows from which the whole header and a line of remarks are shown.
const WHOLE_ROWS: u16 = 10;

/// Rows from which the selected line is explained below the table.
const PREVIEW_ROWS: u16 = 34;

/// Columns from which the tabs say how many lines they have.
const COUNTED_COLUMNS: u16 = 110;

/// Width of labels.
const LABEL_COLUMNS: u16 = 11;

/// Columns before the cells of a table: a mark for the selected line, and one for an incident.
const MARK_COLUMNS: u16 = 3;

/// Columns that a name has at least, if the screen has them.
const NAME_COLUMNS_MIN: u16 = 12;

/// Keys, as the help lists them.
const KEYS: [(&str, &str); 12] = [
    ("arrows, j k", "move by a line; PgUp and PgDn by a page, Home and End to the ends"),
    ("Enter, e", "explain the selected line: evidence, advice, actions; again or Esc closes"),
    ("s", "choose the column to sort by: arrows or s mark one, Enter takes it"),
    ("r", "reverse the order; what is unknown stays last"),
    ("/", "show only lines with a text: Enter keeps it, Esc clears it"),
    ("p", "pause all new actions of the agent, or resume; asks before"),
    ("?", "this help; again or Esc closes it"),
    ("Ctrl-L", "draw the screen anew"),
    ("q, Ctrl-C", "quit; the agent goes on"),
    ("", ""),
    (
        "marks",
        "> is the selected line; C, W and i are lines with an open incident that is critical, \
               a warning or for information, and ! with one that is not listed",
    ),
    (
        "more",
        "`spillway status` prints the incidents with their evidence, `spillway status --json` \
              everything; `spillway undo` restores what was changed",
    ),
];

/// Rows of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// First row.
    pub(super) from: u16,
    /// Number of rows.
    pub(super) rows: u16,
}

/// Parts of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panes {
    /// Width.
    pub(super) width: u16,
    /// Header.
    header: Rows,
    /// Tabs.
    tabs: u16,
    /// Titles of the columns.
    titles: u16,
    /// Lines of the table.
    pub(super) list: Rows,
    /// Explanation of the selected line, below a rule; no rows on a small screen.
    preview: Rows,
    /// Text in place of the table.
    pub(super) pane: Rows,
    /// Remarks on the table.
    note: Option<u16>,
    /// Hints and questions.
    status: u16,
}

impl Panes {
    /// Divides a screen of this size.
    pub(super) fn of((width, height): (u16, u16)) -> Self {
        let is_whole = height >= WHOLE_ROWS;
        let header = if is_whole { 2 } else { 1 };
        let foot = if is_whole { 2 } else { 1 };
        let body = height.saturating_sub(header + 1 + foot);
        let preview = if height >= PREVIEW_ROWS { body / 5 * 2 } else { 0 };
        Self {
            width,
            header: Rows { from: 0, rows: header },
            tabs: header,
            titles: header + 1,
            list: Rows { from: header + 2, rows: body.saturating_sub(preview + 1) },
            preview: Rows { from: header + 1 + body - preview, rows: preview },
            pane: Rows { from: header + 1, rows: body },
            note: is_whole.then(|| height - 2),
            status: height.saturating_sub(1),
        }
    }
}

/// Area that is drawn on.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    has_colour: bool,
}

impl Canvas<'_> {
    /// Draws a text, cut to a width and to the area; returns the column behind it.
    fn put(&mut self, x: u16, y: u16, width: u16, text: &str, tone: Tone) -> u16 {
        let Rect { width: columns, height, .. } = self.buffer.area;
        let width = width.min(columns.saturating_sub(x));
        if y >= height || width == 0 {
            return x;
        }
        let text = cut(&printable(text), width);
        let style = self.style(tone);
        self.buffer.set_stringn(x, y, text, usize::from(width), style).0
    }

    /// Draws a text that ends in a column.
    fn put_right(&mut self, end: u16, y: u16, width: u16, text: &str, tone: Tone) {
        let used = columns(&printable(text)).min(width);
        self.put(end.saturating_sub(used), y, used, text, tone);
    }

    /// Draws texts with two blanks in between, as far as they fit.
    fn put_all(&mut self, y: u16, width: u16, texts: &[(String, Tone)]) {
        let mut x = 0_u16;
        for (text, tone) in texts.iter().filter(|(text, _)| !text.is_empty()) {
            if x > 0 {
                x = x.saturating_add(2);
            }
            x = self.put(x, y, width.saturating_sub(x), text, *tone);
        }
    }

    /// Emphasises a whole row.
    fn paint(&mut self, y: u16, tone: Tone) {
        let Rect { width, height, .. } = self.buffer.area;
        if y < height {
            let style = self.style(tone);
            self.buffer.set_style(Rect { x: 0, y, width, height: 1 }, style);
        }
    }

    fn style(&self, tone: Tone) -> Style {
        let (modifier, colour) = match tone {
            Tone::Plain => (Modifier::empty(), None),
            Tone::Strong => (Modifier::BOLD, None),
            Tone::Faint => (Modifier::DIM, None),
            Tone::Warning => (Modifier::BOLD, Some(Color::Yellow)),
            Tone::Alarm => (Modifier::BOLD, Some(Color::Red)),
            Tone::Selected => (Modifier::REVERSED, None),
        };
        let style = Style::new().add_modifier(modifier);
        match colour.filter(|_| self.has_colour) {
            Some(colour) => style.fg(colour),
            None => style,
        }
    }
}

/// Draws a state.
pub(super) fn draw(state: &TopState, buffer: &mut Buffer, has_colour: bool) {
    let panes = state.panes();
    let mut canvas = Canvas { buffer, has_colour };
    header(state, panes, &mut canvas);
    tabs(state, panes, &mut canvas);
    match &state.dialog {
        TopDialog::Help { scroll } => pane(&help(), *scroll, panes.pane, panes, &mut canvas),
        TopDialog::Explain { view, id, scroll } => {
            pane(&state.explained(*view, id), *scroll, panes.pane, panes, &mut canvas);
        }
        TopDialog::Sort { at } => choice(state, *at, panes, &mut canvas),
        TopDialog::None | TopDialog::Filter | TopDialog::Confirm { .. } => {
            let rows = state.rows();
            table(state, &rows, panes, &mut canvas);
            if panes.preview.rows > 0 {
                let Rows { from, rows } = panes.preview;
                canvas.put(0, from, panes.width, &"─".repeat(panes.width.into()), Tone::Faint);
                let below = Rows { from: from + 1, rows: rows - 1 };
                pane(&state.selected_details(), 0, below, panes, &mut canvas);
            }
            note(state, &rows, panes, &mut canvas);
        }
    }
    status(state, panes, &mut canvas);
}

fn header(state: &TopState, panes: Panes, canvas: &mut Canvas<'_>) {
    let report = &state.report;
    let health = match report.health.status.as_str() {
        "ok" => ("health ok".to_owned(), Tone::Plain),
        "failing" => ("HANGS: it no longer watches this host".to_owned(), Tone::Alarm),
        other => (format!("health {other}"), Tone::Warning),
    };
    let mut texts = vec![
        (cut(&printable(&report.host), panes.width / 3), Tone::Strong),
        (report.mode.clone(), Tone::Plain),
        (if report.paused { "PAUSED".to_owned() } else { String::new() }, Tone::Warning),
    ];
    match &state.lost {
        Some(lost) => {
            let secs = Span((state.now - lost.from).max(0.0));
            let text = format!("NO ANSWER since {} UTC, for {secs}; last report:", lost.since);
            texts.insert(0, (text, Tone::Alarm));
        }
        None => {
            texts.push(health);
            texts.push((format!("up {}", Span(report.uptime_secs)), Tone::Plain));
            texts.push((format!("spillway {}, pid {}", report.version, report.pid), Tone::Faint));
        }
    }
    canvas.put_all(panes.header.from, panes.width, &texts);
    if panes.header.rows < 2 {
        return;
    }
    let mut texts = Vec::new();
    for severity in ["critical", "warning", "info"] {
        let is_it = |known: &str| rank(known).max(1) == rank(severity);
        let count = report.incidents.iter().filter(|incident| is_it(&incident.severity)).count();
        if count > 0 {
            texts.push((format!("{count} {severity}"), Tone::of_severity(severity)));
        }
    }
    let more = report.incidents_total.saturating_sub(report.incidents.len() as u64);
    if more > 0 {
        texts.push((format!("{} more", Count(more)), Tone::Strong));
    }
    if texts.is_empty() {
        texts.push(("no open incident".to_owned(), Tone::Plain));
    }
    texts.push((format!("rotation: {}", rotation(&report.drain, &report.at)), Tone::Plain));
    canvas.put_all(panes.header.from + 1, panes.width, &texts);
}

fn tabs(state: &TopState, panes: Panes, canvas: &mut Canvas<'_>) {
    let title = |at: usize| {
        let view = VIEWS[at];
        let count = match panes.width >= COUNTED_COLUMNS {
            true => format!(" ({})", Count(view.total(&state.report))),
            false => String::new(),
        };
        format!("{} {}{count}", at + 1, view.title())
    };
    // Brackets as well, for a terminal that shows no emphasis.
    let whole: Vec<String> = (0..VIEWS.len())
        .map(|at| if at == state.view { format!("[{}]", title(at)) } else { title(at) })
        .collect();
    let needed = whole.iter().map(|text| columns(text) + 2).sum::<u16>();
    let texts = whole.into_iter().enumerate().map(|(at, text)| match at == state.view {
        true => (text, Tone::Strong),
        false if needed - 2 > panes.width => ((at + 1).to_string(), Tone::Plain),
        false => (text, Tone::Plain),
    });
    canvas.put_all(panes.tabs, panes.width, &texts.collect::<Vec<_>>());
}

/// Returns the columns that are shown, with their places and widths. On a narrow screen the name
/// matters more than the figures.
fn placed(heads: &[ColumnHead], width: u16) -> Vec<(usize, u16, u16)> {
    let mut shown: Vec<_> =
        heads.iter().enumerate().filter(|(_, head)| head.from <= width).collect();
    let name_columns = loop {
        let fixed: u16 = shown.iter().map(|(_, head)| head.width).sum();
        let gaps = shown.len().saturating_sub(1) as u16;
        let rest = width.saturating_sub(MARK_COLUMNS + fixed + gaps);
        match shown.iter().rposition(|(_, head)| head.width > 0) {
            Some(last) if rest < NAME_COLUMNS_MIN => drop(shown.remove(last)),
            _ => break rest,
        }
    };
    let mut x = MARK_COLUMNS;
    let place = |(at, head): (usize, &ColumnHead)| {
        let width = if head.width == 0 { name_columns } else { head.width };
        let from = x;
        x = x.saturating_add(width).saturating_add(1);
        (at, from, width)
    };
    shown.into_iter().map(place).collect()
}

fn table(state: &TopState, rows: &[TopRow], panes: Panes, canvas: &mut Canvas<'_>) {
    let view = state.shown();
    let heads = view.heads();
    let place = state.place();
    let columns = placed(&heads, panes.width);
    for &(column, x, width) in &columns {
        let mut title = heads[column].title.to_owned();
        if column == place.sort {
            title.push(if state.is_falling() { '▼' } else { '▲' });
        }
        match heads[column].is_number {
            true => {
                canvas.put_right(x.saturating_add(width), panes.titles, width, &title, Tone::Strong)
            }
            false => drop(canvas.put(x, panes.titles, width, &title, Tone::Strong)),
        }
    }
    if rows.is_empty() {
        let text = match place.filter.is_empty() {
            true => view.none(),
            false => "no line has the text of the filter; Esc clears it",
        };
        if panes.list.rows > 0 {
            canvas.put(MARK_COLUMNS, panes.list.from, panes.width, text, Tone::Plain);
        }
    }
    let shown = rows.iter().enumerate().skip(place.first).take(panes.list.rows.into());
    for (y, (at, row)) in (panes.list.from..).zip(shown) {
        let is_selected = at == place.selected;
        if is_selected {
            canvas.put(0, y, 1, ">", Tone::Plain);
        }
        if let Some(severity) = &row.severity {
            let mark = match severity.as_str() {
                "critical" => "C",
                "warning" => "W",
                "info" => "i",
                _ => "!",
            };
            canvas.put(1, y, 1, mark, Tone::of_severity(severity));
        }
        for &(column, x, width) in &columns {
            let text = row.cells[column].text();
            match heads[column].is_number {
                true => canvas.put_right(x.saturating_add(width), y, width, &text, Tone::Plain),
                false => drop(canvas.put(x, y, width, &text, Tone::Plain)),
            }
        }
        if is_selected {
            canvas.paint(y, Tone::Selected);
        }
    }
}

/// Draws labelled texts.
fn pane(details: &[Detail], scroll: usize, at: Rows, panes: Panes, canvas: &mut Canvas<'_>) {
    let lines = laid_out(details, panes.width);
    let shown = lines.iter().skip(scroll).take(at.rows.into());
    let label_columns = label_columns(panes.width);
    for (y, (label, tone, text)) in (at.from..).zip(shown) {
        canvas.put(0, y, label_columns, label, *tone);
        canvas.put(label_columns + 1, y, panes.width, text, Tone::Plain);
    }
}

/// Draws the choice of a sort column.
fn choice(state: &TopState, at: usize, panes: Panes, canvas: &mut Canvas<'_>) {
    canvas.put(0, panes.titles, panes.width, "Sort by:", Tone::Strong);
    let heads = state.shown().heads();
    let page = usize::from(panes.list.rows);
    let first = (at + 1).saturating_sub(page);
    let shown = heads.iter().enumerate().skip(first).take(page);
    for (y, (column, head)) in (panes.list.from..).zip(shown) {
        let mark = if column == at { ">" } else { "" };
        canvas.put(0, y, 1, mark, Tone::Plain);
        let x = canvas.put(MARK_COLUMNS, y, panes.width, head.title, Tone::Plain);
        if column == state.place().sort {
            canvas.put(x.saturating_add(1), y, panes.width, "(now)", Tone::Plain);
        }
        if column == at {
            canvas.paint(y, Tone::Selected);
        }
    }
}

fn note(state: &TopState, rows: &[TopRow], panes: Panes, canvas: &mut Canvas<'_>) {
    let Some(y) = panes.note else { return };
    let (view, place) = (state.shown(), state.place());
    let position = match rows.len() {
        0 => String::new(),
        count => format!("{} of {}", Count(place.selected as u64 + 1), Count(count as u64)),
    };
    let mut texts = Vec::new();
    if !place.filter.is_empty() && state.dialog != TopDialog::Filter {
        texts.push(format!("only lines with \"{}\"; Esc clears it", place.filter));
    }
    let listed = view.listed(&state.report);
    let total = view.total(&state.report);
    if total > listed {
        texts.push(format!("the report lists {} of {}", Count(listed), Count(total)));
    }
    texts.push(view.note(&state.report));
    texts.retain(|text| !text.is_empty());
    let left = panes.width.saturating_sub(columns(&position) + 2);
    canvas.put(0, y, left, &texts.join("; "), Tone::Faint);
    canvas.put_right(panes.width, y, panes.width, &position, Tone::Faint);
}

fn status(state: &TopState, panes: Panes, canvas: &mut Canvas<'_>) {
    let y = panes.status;
    let (text, tone) = match (&state.dialog, &state.message, &state.lost) {
        (TopDialog::Filter, ..) => {
            let filter = &state.place().filter;
            (format!("/{filter}_  Enter keeps the filter, Esc clears it"), Tone::Strong)
        }
        (TopDialog::Confirm { is_pause: true }, ..) => {
            ("Pause all new actions of this agent? y/n".to_owned(), Tone::Warning)
        }
        (TopDialog::Confirm { is_pause: false }, ..) => (
            "Resume: may the agent act again, and decide about drains? y/n".to_owned(),
            Tone::Warning,
        ),
        _ if state.busy == Some(TopWish::Pause) => ("Pausing …".to_owned(), Tone::Strong),
        _ if state.busy.is_some() => ("Resuming …".to_owned(), Tone::Strong),
        (_, Some((text, tone)), _) => (text.clone(), *tone),
        (TopDialog::Sort { .. }, ..) => {
            ("arrows or s mark a column; Enter takes it, Esc keeps the old".to_owned(), Tone::Faint)
        }
        (TopDialog::Help { .. } | TopDialog::Explain { .. }, ..) => {
            ("arrows, PgUp, PgDn scroll; Esc goes back; q quits".to_owned(), Tone::Faint)
        }
        (_, _, Some(lost)) => (lost.why.clone(), Tone::Alarm),
        (TopDialog::None, None, None) => {
            let pause = if state.report.paused { "resume" } else { "pause" };
            let text = "? help  Tab view  s sort  r reverse  / filter  Enter explain";
            (format!("{text}  p {pause}  q quit"), Tone::Faint)
        }
    };
    // A long result takes the row of the remarks, too.
    let lines = wrapped(&printable(&text), panes.width);
    match (lines.as_slice(), panes.note) {
        ([first, _, ..], Some(above)) if above > panes.header.rows => {
            canvas.put(0, above, panes.width, &" ".repeat(panes.width.into()), Tone::Plain);
            canvas.put(0, above, panes.width, first, tone);
            canvas.put(0, y, panes.width, &lines[1..].join(" "), tone);
        }
        _ => drop(canvas.put(0, y, panes.width, &text, tone)),
    }
}

/// Returns the help.
pub(super) fn help() -> Vec<Detail> {
    let detail = |label: &str, text: &str| Detail {
        label: label.to_owned(),
        tone: Tone::Strong,
        text: text.to_owned(),
    };
    let digits = format!("1-{}, Tab", VIEWS.len());
    let views = detail(&digits, "switch the view; Shift-Tab goes back");
    [views].into_iter().chain(KEYS.map(|(label, text)| detail(label, text))).collect()
}

fn label_columns(width: u16) -> u16 {
    LABEL_COLUMNS.min(width / 2)
}

/// Lays out labelled texts in lines of a width, each with its label, the emphasis of it, and text.
pub(super) fn laid_out(details: &[Detail], width: u16) -> Vec<(String, Tone, String)> {
    let left = width.saturating_sub(label_columns(width) + 1);
    let mut lines = Vec::new();
    for Detail { label, tone, text } in details {
        let mut label = label.clone();
        for line in wrapped(&printable(text), left) {
            lines.push((std::mem::take(&mut label), *tone, line));
        }
    }
    lines
}

/// Returns the width of a printable text on the screen.
fn columns(text: &str) -> u16 {
    u16::try_from(StyledText::raw(text).width()).unwrap_or(u16::MAX)
}

/// Cuts a printable text to a width.
fn cut(text: &str, width: u16) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let (mut shown, mut used) = (String::new(), 0_u16);
    for piece in StyledText::raw(text).styled_graphemes(Style::new()) {
        used = used.saturating_add(columns(piece.symbol));
        if used >= width {
            break;
        }
        shown.push_str(piece.symbol);
    }
    shown.push('…');
    shown
}

/// Breaks a printable text into lines of a width: between words, or within one that is longer than
/// a line.
fn wrapped(text: &str, width: u16) -> Vec<String> {
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0_u16);
    for word in text.split(' ') {
        let needed = columns(word);
        if used > 0 && used.saturating_add(1).saturating_add(needed) > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if used > 0 {
            line.push(' ');
            used += 1;
        }
        if used.saturating_add(needed) <= width {
            line.push_str(word);
            used += needed;
            continue;
        }
        for piece in StyledText::raw(word).styled_graphemes(Style::new()) {
            let needed = columns(piece.symbol);
            if used > 0 && used.saturating_add(needed) > width {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push_str(piece.symbol);
            used = used.saturating_add(needed);
        }
    }
    lines.push(line);
    lines
}
