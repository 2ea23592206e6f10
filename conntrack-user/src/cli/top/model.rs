//! What the screen shows and what keys do to it. No input or output.

use std::{collections::VecDeque, mem};

use ctpressure_model::events::{Event, text};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::figures::{Sort, sorted};
use crate::serve::top::{OwnerRow, TopSample};

/// Drops and evictions that are kept.
const EVENTS: usize = 500;
/// Characters of a filter at most.
const FILTER: usize = 60;
/// Columns in which nearly everything is written out.
const WIDEST: usize = 200;
/// Rows of a page.
const PAGE: usize = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TopView {
    /// Tables, owners, and some drops.
    #[default]
    Owners,
    Owner,
    Events,
    Help,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// What is on the screen.
    pub(super) sample: TopSample,
    /// Newer than what is on the screen, while paused.
    waiting: Option<TopSample>,
    pub(super) events: VecDeque<Event>,
    waiting_events: VecDeque<Event>,
    /// Who is asked: the running agent, or own probes.
    pub(super) source: &'static str,
    pub(super) sort: Sort,
    pub(super) view: TopView,
    /// Only owners and events whose text has this.
    pub(super) filter: String,
    /// It is being typed.
    pub(super) typing: bool,
    pub(super) paused: bool,
    /// The slot that is marked; follows its owner.
    selected: Option<u32>,
    /// Lines that are scrolled away in the view of events or of one owner.
    pub(super) scrolled: usize,
}

fn has(text: &str, filter: &str) -> bool {
    text.to_lowercase().contains(&filter.to_lowercase())
}

impl Model {
    pub(super) fn new(source: &'static str, sort: Sort) -> Self {
        Self {
            source,
            sort,
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, sample: TopSample) {
        if self.paused {
            self.waiting = Some(sample);
        } else {
            self.sample = sample;
        }
    }

    /// New drops and evictions, oldest first.
    pub(super) fn take_events(&mut self, events: impl IntoIterator<Item = Event>) {
        let kept = if self.paused {
            &mut self.waiting_events
        } else {
            &mut self.events
        };
        // Of what a table is full stands with the table.
        let events = events.into_iter();
        for event in events.filter(|event| !matches!(event, Event::Verdict(_))) {
            kept.push_front(event);
        }
        kept.truncate(EVENTS);
    }

    /// Owners as they are listed.
    pub(super) fn owners(&self) -> Vec<&OwnerRow> {
        let mut owners = sorted(&self.sample, self.sort);
        owners.retain(|owner| {
            let workload = owner.workload.as_ref();
            has(&owner.name, &self.filter)
                || workload.is_some_and(|workload| has(&workload.name, &self.filter))
        });
        owners
    }

    /// Drops and evictions, newest first, in `width` columns.
    pub(super) fn event_lines(&self, width: usize) -> impl Iterator<Item = String> {
        // Names are shortened to fit: the filter looks at the longest form.
        self.events
            .iter()
            .filter(|event| {
                self.filter.is_empty()
                    || has(&text::line_within(event, false, WIDEST), &self.filter)
            })
            .map(move |event| text::line_within(event, false, width))
    }

    /// Where the marked owner is in [`Self::owners`]; the first if the marked one is not there.
    pub(super) fn place(&self, owners: &[&OwnerRow]) -> usize {
        owners
            .iter()
            .position(|owner| Some(owner.slot) == self.selected)
            .unwrap_or(0)
    }

    pub(super) fn owner(&self) -> Option<&OwnerRow> {
        if self.view == TopView::Owner {
            // Also when a filter or the sort order hides it by now.
            return self
                .sample
                .owners
                .iter()
                .find(|owner| Some(owner.slot) == self.selected);
        }
        let owners = self.owners();
        owners.get(self.place(&owners)).copied()
    }

    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        match self.view {
            TopView::Owners => {
                let owners = self.owners();
                let last = owners.len().saturating_sub(1);
                let place = to(self.place(&owners), last).min(last);
                self.selected = owners.get(place).map(|owner| owner.slot);
            }
            TopView::Owner => self.scrolled = to(self.scrolled, 100).min(100),
            TopView::Events => {
                let last = self.event_lines(WIDEST).count().saturating_sub(1);
                self.scrolled = to(self.scrolled, last).min(last);
            }
            TopView::Help => {}
        }
    }

    fn show(&mut self, view: TopView) {
        self.view = view;
        self.scrolled = 0;
    }

    fn pause(&mut self) {
        self.paused = !self.paused;
        if !self.paused {
            if let Some(sample) = self.waiting.take() {
                self.sample = sample;
            }
            let waiting = mem::take(&mut self.waiting_events);
            self.take_events(waiting.into_iter().rev());
        }
    }

    /// What a key does; false: the program ends.
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return !matches!(key.code, KeyCode::Char('c' | 'd'));
        }
        if self.typing {
            self.typed(key.code);
            return true;
        }
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => match self.view {
                TopView::Owners => self.filter.clear(),
                _ => self.show(TopView::Owners),
            },
            KeyCode::Char('?' | 'h') if self.view == TopView::Help => self.show(TopView::Owners),
            KeyCode::Char('?' | 'h') => self.show(TopView::Help),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('l') => self.sort = Sort::Live,
            KeyCode::Char('i') => self.sort = Sort::Inserts,
            KeyCode::Char('d') => self.sort = Sort::Drops,
            KeyCode::Char('p' | ' ') => self.pause(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('e') if self.view == TopView::Events => self.show(TopView::Owners),
            KeyCode::Char('e') => self.show(TopView::Events),
            KeyCode::Enter | KeyCode::Right if self.view == TopView::Owners => {
                self.selected = self.owner().map(|owner| owner.slot);
                if self.selected.is_some() {
                    self.show(TopView::Owner);
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.go(|place, _| place.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|place, _| place + 1),
            KeyCode::PageUp => self.go(|place, _| place.saturating_sub(PAGE)),
            KeyCode::PageDown => self.go(|place, _| place + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_, last| last),
            _ => {}
        }
        true
    }

    fn typed(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
        self.scrolled = 0;
    }
}
