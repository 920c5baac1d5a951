//! State of the screen: the view, and for each view the selected line, the sort column and the
//! filter. Keys and reports change it. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    details::{Detail, Tone},
    draw::{Panes, help, laid_out},
    table::{Sorted, TopRow, TopView, filter, sort},
    views::VIEWS,
};
use crate::status::StatusReport;

/// Maximum length of a filter in characters.
const FILTER_CHARS_MAX: usize = 100;

/// Dialog that is drawn over the table, or asked below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopDialog {
    /// No dialog.
    None,
    /// The keys.
    Help {
        /// Lines above the screen.
        scroll: usize,
    },
    /// Everything about a line.
    Explain {
        /// View of it.
        view: usize,
        /// Identity of it.
        id: String,
        /// Lines above the screen.
        scroll: usize,
    },
    /// Choice of the sort column.
    Sort {
        /// Column that is marked.
        at: usize,
    },
    /// The filter is typed.
    Filter,
    /// Question before actions are paused, or resumed.
    Confirm {
        /// Set if they would be paused.
        is_pause: bool,
    },
}

/// ViewPlace in a view.
#[derive(Debug, Clone, Default)]
pub(super) struct ViewPlace {
    /// Selected line.
    pub(super) selected: usize,
    /// Identity of it, by which it is found again in the next report.
    id: Option<String>,
    /// First line on the screen.
    pub(super) first: usize,
    /// Column that it is sorted by.
    pub(super) sort: usize,
    /// Set if the order of that column is reversed.
    pub(super) is_reversed: bool,
    /// Text that lines must contain.
    pub(super) filter: String,
}

/// Loss of the agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LostAgent {
    /// Time of day of the first question that was not answered.
    pub(super) since: String,
    /// That time on the clock of this command.
    pub(super) from: f64,
    /// Reason.
    pub(super) why: String,
}

/// TopWish of the person at the keys, which the caller carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopWish {
    /// The state has changed, or nothing has.
    Nothing,
    /// Draw everything anew.
    Redraw,
    /// Pause all new actions.
    Pause,
    /// Allow actions again.
    Resume,
    /// End.
    Quit,
}

/// State of the screen.
pub(super) struct TopState {
    /// Latest report.
    pub(super) report: StatusReport,
    /// Set while the agent does not answer.
    pub(super) lost: Option<LostAgent>,
    /// Current view.
    pub(super) view: usize,
    /// Open dialog.
    pub(super) dialog: TopDialog,
    /// Result of the last request, until the next key.
    pub(super) message: Option<(String, Tone)>,
    /// Request that is under way.
    pub(super) busy: Option<TopWish>,
    /// Time on the clock of this command.
    pub(super) now: f64,
    places: Vec<ViewPlace>,
    size: (u16, u16),
}

impl TopState {
    /// Begins with a report, on a screen of this size.
    pub(super) fn new(report: StatusReport, size: (u16, u16)) -> Self {
        let places = vec![ViewPlace::default(); VIEWS.len()];
        let mut state = Self {
            report,
            lost: None,
            view: 0,
            dialog: TopDialog::None,
            message: None,
            busy: None,
            now: 0.0,
            places,
            size,
        };
        state.fit();
        state
    }

    /// Takes the agent's next report.
    pub(super) fn take(&mut self, report: StatusReport) {
        if report.pid != self.report.pid {
            let text = format!("Another agent answers now, with pid {}.", report.pid);
            self.message = Some((text, Tone::Strong));
        }
        self.report = report;
        self.lost = None;
        self.fit();
    }

    /// Notes that the agent does not answer, and since when.
    pub(super) fn lose(&mut self, why: String, time: &str) {
        match &mut self.lost {
            Some(lost) => lost.why = why,
            None => {
                // An older message would hide the reason.
                self.message = None;
                self.lost = Some(LostAgent { since: time.to_owned(), from: self.now, why });
            }
        }
    }

    /// Notes the result of a request.
    pub(super) fn done(&mut self, result: Result<String, String>) {
        if let (Some(wish), Ok(_)) = (self.busy.take(), &result) {
            // Without an agent there is no report that says so.
            self.report.paused = wish == TopWish::Pause;
        }
        self.message = Some(match result {
            Ok(text) => (text, Tone::Strong),
            Err(text) => (text, Tone::Alarm),
        });
    }

    /// Notes the size of the screen.
    pub(super) fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
        self.fit();
    }

    /// Returns the parts of the screen.
    pub(super) fn panes(&self) -> Panes {
        Panes::of(self.size)
    }

    /// Returns the current view.
    pub(super) fn shown(&self) -> &'static dyn TopView {
        VIEWS[self.view]
    }

    /// Returns the place in the current view.
    pub(super) fn place(&self) -> &ViewPlace {
        &self.places[self.view]
    }

    /// Returns whether the largest values of the sort column are first.
    pub(super) fn is_falling(&self) -> bool {
        let place = self.place();
        let heads = self.shown().heads();
        let order = heads.get(place.sort).map_or(Sorted::Falling, |head| head.order);
        (order == Sorted::Falling) != place.is_reversed
    }

    /// Returns the lines of the current view, sorted and filtered.
    pub(super) fn rows(&self) -> Vec<TopRow> {
        let mut rows = self.shown().rows(&self.report);
        filter(&mut rows, &self.place().filter);
        sort(&mut rows, self.place().sort, self.is_falling());
        rows
    }

    /// Returns everything about the selected line; nothing if there is none.
    pub(super) fn selected_details(&self) -> Vec<Detail> {
        let id = self.place().id.as_deref();
        id.and_then(|id| self.shown().details(&self.report, id)).unwrap_or_default()
    }

    /// Returns everything about the line that is explained.
    pub(super) fn explained(&self, view: usize, id: &str) -> Vec<Detail> {
        VIEWS[view].details(&self.report, id).unwrap_or_else(|| {
            let text = "It is no longer in the report; an incident that is not may be over.";
            vec![Detail { label: "gone".to_owned(), tone: Tone::Strong, text: text.to_owned() }]
        })
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> TopWish {
        if key.kind == KeyEventKind::Release {
            return TopWish::Nothing;
        }
        self.message = None;
        // A terminal sends Esc and a key that follows at once as it sends Alt and that key.
        if key.modifiers.contains(KeyModifiers::ALT) {
            self.pressed(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
        }
        let wish = self.pressed(key);
        self.fit();
        wish
    }

    fn pressed(&mut self, key: KeyEvent) -> TopWish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return TopWish::Quit,
                KeyCode::Char('l') => return TopWish::Redraw,
                KeyCode::Char('u') if self.dialog == TopDialog::Filter => {
                    self.places[self.view].filter.clear();
                }
                _ => {}
            }
            return TopWish::Nothing;
        }
        match self.dialog.clone() {
            TopDialog::None => return self.in_table(key.code),
            TopDialog::Help { scroll } => match key.code {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?') => self.close(),
                code => match moved(scroll, usize::MAX, self.page(), code) {
                    Some(scroll) => self.dialog = TopDialog::Help { scroll },
                    None => return self.in_table(code),
                },
            },
            TopDialog::Explain { view, id, scroll } => match key.code {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('e') => self.close(),
                code => match moved(scroll, usize::MAX, self.page(), code) {
                    Some(scroll) => self.dialog = TopDialog::Explain { view, id, scroll },
                    None => return self.in_table(code),
                },
            },
            TopDialog::Sort { at } => match key.code {
                KeyCode::Char('q') => return TopWish::Quit,
                KeyCode::Esc => self.close(),
                KeyCode::Enter => {
                    let place = &mut self.places[self.view];
                    (place.sort, place.is_reversed) = (at, false);
                    self.close();
                }
                KeyCode::Char('r') => {
                    self.places[self.view].is_reversed = !self.place().is_reversed;
                }
                KeyCode::Char('s') => {
                    self.dialog = TopDialog::Sort { at: (at + 1) % self.shown().heads().len() };
                }
                code => {
                    let last = self.shown().heads().len() - 1;
                    if let Some(at) = moved(at, last, self.page(), code) {
                        self.dialog = TopDialog::Sort { at };
                    }
                }
            },
            TopDialog::Filter => {
                let filter = &mut self.places[self.view].filter;
                match key.code {
                    KeyCode::Esc => {
                        filter.clear();
                        self.close();
                    }
                    KeyCode::Enter => self.close(),
                    KeyCode::Backspace => drop(filter.pop()),
                    KeyCode::Char(c) if filter.chars().count() < FILTER_CHARS_MAX => filter.push(c),
                    code => {
                        if matches!(code, KeyCode::Up | KeyCode::Down) {
                            self.select(code);
                        }
                    }
                }
            }
            TopDialog::Confirm { is_pause } => match key.code {
                KeyCode::Char('y' | 'Y') => {
                    self.close();
                    let wish = if is_pause { TopWish::Pause } else { TopWish::Resume };
                    self.busy = Some(wish);
                    return wish;
                }
                KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => self.close(),
                // Any other key may be a slip.
                _ => {}
            },
        }
        TopWish::Nothing
    }

    fn in_table(&mut self, code: KeyCode) -> TopWish {
        match code {
            KeyCode::Char('q') => return TopWish::Quit,
            KeyCode::Tab => self.show((self.view + 1) % VIEWS.len()),
            KeyCode::BackTab => self.show((self.view + VIEWS.len() - 1) % VIEWS.len()),
            KeyCode::Char(digit @ '1'..='9') => {
                let view = digit as usize - '1' as usize;
                if view < VIEWS.len() {
                    self.show(view);
                }
            }
            KeyCode::Char('s') => self.dialog = TopDialog::Sort { at: self.place().sort },
            KeyCode::Char('r') => self.places[self.view].is_reversed = !self.place().is_reversed,
            KeyCode::Char('/') => self.dialog = TopDialog::Filter,
            KeyCode::Char('?') => self.dialog = TopDialog::Help { scroll: 0 },
            KeyCode::Char('p') if self.busy.is_none() => {
                self.dialog = TopDialog::Confirm { is_pause: !self.report.paused };
            }
            KeyCode::Enter | KeyCode::Char('e') => {
                if let Some(id) = self.place().id.clone() {
                    self.dialog = TopDialog::Explain { view: self.view, id, scroll: 0 };
                }
            }
            KeyCode::Esc => self.places[self.view].filter.clear(),
            code => self.select(code),
        }
        TopWish::Nothing
    }

    fn close(&mut self) {
        self.dialog = TopDialog::None;
    }

    fn show(&mut self, view: usize) {
        self.close();
        self.view = view;
    }

    fn page(&self) -> usize {
        usize::from(self.panes().list.rows).max(1)
    }

    /// Moves the selection.
    fn select(&mut self, code: KeyCode) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        if let Some(at) = moved(self.place().selected, last, self.page(), code) {
            let place = &mut self.places[self.view];
            place.selected = at;
            place.id = rows.get(at).map(|row| row.id.clone());
        }
    }

    /// Finds the selected line again, and scrolls so that it is on the screen.
    fn fit(&mut self) {
        let rows = self.rows();
        let page = self.page();
        let place = &mut self.places[self.view];
        let is_it = |row: &TopRow| Some(&row.id) == place.id.as_ref();
        // Lines of one identity are told apart by their place.
        if !rows.get(place.selected).is_some_and(is_it) {
            place.selected = rows
                .iter()
                .position(is_it)
                .unwrap_or_else(|| place.selected.min(rows.len().saturating_sub(1)));
        }
        place.id = rows.get(place.selected).map(|row| row.id.clone());
        let lowest = (place.selected + 1).saturating_sub(page);
        let highest = place.selected.min(rows.len().saturating_sub(page));
        place.first = place.first.clamp(lowest, highest);
        self.fit_scroll();
    }

    /// Scrolls no further than to the last line.
    fn fit_scroll(&mut self) {
        let Panes { width, pane, .. } = self.panes();
        let details = match &self.dialog {
            TopDialog::Help { .. } => help(),
            TopDialog::Explain { view, id, .. } => self.explained(*view, id),
            _ => return,
        };
        let max = laid_out(&details, width).len().saturating_sub(usize::from(pane.rows));
        if let TopDialog::Help { scroll } | TopDialog::Explain { scroll, .. } = &mut self.dialog {
            *scroll = (*scroll).min(max);
        }
    }
}

/// Returns the place that a key leads to; `None` if it is no key to move with.
fn moved(at: usize, last: usize, page: usize, code: KeyCode) -> Option<usize> {
    let to = match code {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => at.saturating_add(1),
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::PageDown => at.saturating_add(page),
        KeyCode::Home => 0,
        KeyCode::End => last,
        _ => return None,
    };
    Some(to.min(last))
}
