//! The screen, as lines. Everything that colour says is said in words too.

use ctpressure_model::{
    pressure::{destinations::Top, state::Pressure},
    verdict::Verdict,
    words::{
        column, shorten,
        time::{clock, unix},
    },
};
use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::Line,
    widgets::Paragraph,
};

use super::{
    figures::{bar, figure, header, held_rows, of_nobody, refused, row, until_full},
    model::{Model, TopView},
    text::{chosen, owner_lines, state_name, top_lines},
};
use crate::{agent::AgentState, serve::top::TopTable};

/// Columns and rows without which nothing can be read.
const SMALLEST: (u16, u16) = (60, 12);
/// Columns of the name of a table.
const TABLE_NAME: usize = 16;
/// Destinations of an owner.
const DESTINATIONS: usize = 5;

/// What the keys do.
const HELP: &[&str] = &[
    "ctpressure top: who fills the conntrack tables, and who loses packets",
    "",
    "  up, down, j, k       mark an owner      PageUp, PageDown, Home, End",
    "  Enter, right         its destinations, states, lifetime",
    "  Esc, left            back; in the list: no filter any more",
    "  s                    sort by the next of: live entries, inserts, drops",
    "  l, i, d              sort by live entries, by inserts, by drops",
    "  e                    drops and evictions as they come, newest first",
    "  /                    show only what has a text in its name or line",
    "  p, space             pause and go on; what comes meanwhile is kept",
    "  q, Ctrl-C            end",
    "",
    "SHARE of what the kernel counts  INS/S DEL/S DROP/S over 10 s  DROPS packets lost so far",
    "EVICT its entries that were removed to make room    CAUSED those removed for it",
    "LIFE mean lifetime of its entries (> at least, < at most)  INSERT so far",
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, colour: bool) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(frame, area);
        return;
    }
    let painter = Painter {
        width: usize::from(area.width),
        height: usize::from(area.height),
        colour,
    };
    let mut lines = vec![painter.title(model)];
    let room = painter.height - 2;
    match model.view {
        TopView::Owners => painter.owners(model, room, &mut lines),
        TopView::Owner => painter.owner(model, &mut lines),
        TopView::Events => painter.events(model, room, &mut lines),
        TopView::Help => lines.extend(HELP.iter().map(|line| Line::raw(*line))),
    }
    lines.truncate(painter.height - 1);
    lines.resize(painter.height - 1, Line::default());
    lines.push(painter.footer(model));
    frame.render_widget(Paragraph::new(lines), area);
}

fn too_small(frame: &mut Frame<'_>, area: Rect) {
    let (columns, rows) = SMALLEST;
    let lines = [
        format!("too small: {}x{}", area.width, area.height),
        format!("needs {columns}x{rows}"),
        "q ends; or use".to_owned(),
        "top --once".to_owned(),
    ];
    frame.render_widget(
        Paragraph::new(lines.map(Line::raw).into_iter().collect::<Vec<_>>()),
        area,
    );
}

struct Painter {
    width: usize,
    height: usize,
    colour: bool,
}

impl Painter {
    fn style(&self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::new().add_modifier(modifier);
        if self.colour { style.fg(colour) } else { style }
    }

    fn heading(&self) -> Style {
        self.style(Color::Cyan, Modifier::BOLD)
    }

    fn pressure(&self, pressure: Pressure) -> Style {
        match pressure {
            Pressure::Full => self.style(Color::Red, Modifier::BOLD),
            Pressure::High => self.style(Color::Yellow, Modifier::BOLD),
            Pressure::Rising => self.style(Color::Yellow, Modifier::empty()),
            Pressure::Calm => Style::new(),
        }
    }

    /// Left and right, on one line.
    fn ends(&self, left: &str, right: &str) -> String {
        let right_width = right.chars().count();
        let room = self.width.saturating_sub(right_width + 1);
        format!("{:<room$} {right}", shorten(left, room))
    }

    fn title(&self, model: &Model) -> Line<'static> {
        let sample = &model.sample;
        let left = format!(
            "ctpressure top: {}, Linux {}, {}",
            state_name(sample.state),
            sample.kernel,
            model.source
        );
        let paused = if model.paused { "PAUSED " } else { "" };
        let right = format!("{paused}{} UTC", clock(unix(sample.time.0)));
        Line::styled(
            self.ends(&left, &right),
            Style::new().add_modifier(Modifier::REVERSED),
        )
    }

    fn footer(&self, model: &Model) -> Line<'static> {
        let text = if model.typing {
            format!(
                "show only: {}_   (Enter: done, Esc: everything)",
                model.filter
            )
        } else {
            let keys = match model.view {
                TopView::Owners => "q end  ? help  s sort  Enter look  e events  / filter  p pause",
                TopView::Owner => "q end  ? help  Esc back  up/down scroll  e events  p pause",
                TopView::Events => "q end  ? help  Esc back  up/down scroll  / filter  p pause",
                TopView::Help => "q end  Esc back",
            };
            if model.filter.is_empty() {
                keys.to_owned()
            } else {
                self.ends(keys, &format!("only \"{}\"", shorten(&model.filter, 15)))
            }
        };
        Line::styled(
            shorten(&text, self.width),
            Style::new().add_modifier(Modifier::DIM),
        )
    }

    fn table(&self, table: &TopTable, limit: Option<u64>) -> Line<'static> {
        let width = self.width.saturating_sub(64).clamp(6, 60);
        let (bar, of) = match (table.occupancy, limit) {
            (Some(part), Some(limit)) => {
                (bar(part, width), format!("/ {}", column::entries(limit)))
            }
            _ => (" ".repeat(width), "no limit".to_owned()),
        };
        let text = format!(
            "{:<TABLE_NAME$} {bar} {:>7} {of:<9} {:>5} {:<6} {}",
            shorten(&table.name, TABLE_NAME),
            column::entries(table.entries),
            table.occupancy.map_or_else(String::new, column::share),
            table.pressure.name(),
            until_full(table.seconds_to_full)
        );
        Line::styled(text.trim_end().to_owned(), self.pressure(table.pressure))
    }

    /// Why there is less than there should be, and the tables.
    fn tables(&self, model: &Model, lines: &mut Vec<Line<'static>>) {
        let sample = &model.sample;
        if let Some(reason) = &sample.reason {
            lines.push(Line::styled(
                shorten(&format!("note: {reason}"), self.width),
                self.style(Color::Magenta, Modifier::BOLD),
            ));
        }
        let (tables, left) = chosen(sample, (self.height / 6).max(1));
        for table in tables {
            lines.push(self.table(table, sample.limit));
            let found = table.verdicts.iter().map(Verdict::advice);
            let style = self.style(Color::Magenta, Modifier::BOLD);
            lines.extend(
                found.map(|text| Line::styled(shorten(&format!("  {text}"), self.width), style)),
            );
        }
        lines.extend(left.map(Line::raw));
        let totals = &sample.totals;
        let drops = sample.drops();
        let mut text = format!(
            "inserts {}/s  deletes {}/s  drops {}/s  so far: lost {}, evicted {}",
            figure(totals.inserts_per_second, column::per_second),
            figure(totals.deletes_per_second, column::per_second),
            figure(totals.drops_per_second, column::per_second),
            figure(drops, column::count),
            figure(totals.evictions, column::count),
        );
        for more in [of_nobody(&sample.node_losses), refused(totals.refused)] {
            if !more.is_empty() {
                text = format!("{text}  {more}");
            }
        }
        if !sample.census && sample.state != AgentState::Waiting {
            text += "  (counting...)";
        }
        let style = if totals.drops_per_second.unwrap_or(0.0) > 0.0 {
            self.style(Color::Red, Modifier::BOLD)
        } else {
            Style::new()
        };
        lines.push(Line::styled(shorten(&text, self.width), style));
        let held = held_rows(sample, self.width).into_iter();
        let style = self.style(Color::Magenta, Modifier::BOLD);
        lines.extend(held.map(|row| Line::styled(shorten(&row, self.width), style)));
    }

    fn owners(&self, model: &Model, room: usize, lines: &mut Vec<Line<'static>>) {
        self.tables(model, lines);
        let events = match self.height {
            0..18 => 0,
            18..30 => 4,
            30..50 => 8,
            _ => 15,
        };
        let owners = model.owners();
        let listed = (room + 1)
            .saturating_sub(lines.len() + 1 + if events > 0 { events + 1 } else { 0 })
            .max(1);
        lines.push(Line::styled(header(self.width), self.heading()));
        let place = model.place(&owners);
        let first = (place + 1).saturating_sub(listed);
        for (at, owner) in owners.iter().enumerate().skip(first).take(listed) {
            let mut style = if owner.drops_per_second.ten_seconds.unwrap_or(0.0) > 0.0 {
                self.style(Color::Red, Modifier::empty())
            } else {
                Style::new()
            };
            if at == place {
                style = style.add_modifier(Modifier::REVERSED);
            }
            lines.push(Line::styled(row(owner, self.width), style));
        }
        if owners.is_empty() {
            lines.push(Line::raw(if model.filter.is_empty() {
                "  no entries yet"
            } else {
                "  no owner has this in its name; Esc shows all"
            }));
        }
        if events == 0 {
            return;
        }
        lines.resize(room - events, Line::default());
        let sorted = format!(
            "{} of {} owners by {}",
            (owners.len() - first).min(listed),
            owners.len() as u64 + model.sample.other_owners.number,
            model.sort.name()
        );
        lines.push(Line::styled(
            self.ends("DROPS AND EVICTIONS, newest first", &sorted),
            self.heading(),
        ));
        self.event_lines(model, events, lines);
    }

    fn event_lines(&self, model: &Model, count: usize, lines: &mut Vec<Line<'static>>) {
        let before = lines.len();
        let all: Vec<_> = model
            .event_lines(self.width)
            .take(model.scrolled.saturating_add(count))
            .collect();
        // The last page is a full one.
        for line in &all[model.scrolled.min(all.len().saturating_sub(count))..] {
            let style = if line.contains(" drop ") {
                self.style(Color::Red, Modifier::empty())
            } else {
                Style::new()
            };
            lines.push(Line::styled(line.clone(), style));
        }
        if lines.len() == before {
            lines.push(Line::raw("  none so far"));
        }
    }

    fn events(&self, model: &Model, room: usize, lines: &mut Vec<Line<'static>>) {
        let kept = format!("{} kept", model.events.len());
        lines.push(Line::styled(
            self.ends("DROPS AND EVICTIONS, newest first", &kept),
            self.heading(),
        ));
        self.event_lines(model, room.saturating_sub(1), lines);
    }

    fn owner(&self, model: &Model, lines: &mut Vec<Line<'static>>) {
        let Some(owner) = model.owner() else {
            lines.push(Line::raw(
                "this owner is gone, and so are its entries; Esc: back",
            ));
            return;
        };
        let mut page = Vec::new();
        let gone = if owner.present { "" } else { ", gone" };
        let made_by = owner
            .workload
            .as_ref()
            .map_or_else(String::new, |workload| {
                format!(" of {} {}", workload.kind, workload.name)
            });
        page.push(Line::styled(
            shorten(
                &format!("{} ({}{made_by}{gone})", owner.name, owner.kind),
                self.width,
            ),
            self.heading(),
        ));
        page.extend(
            owner_lines(owner)
                .into_iter()
                .map(|line| Line::raw(shorten(&line, self.width))),
        );
        if let Some(tops) = &owner.destinations {
            self.top(
                "REAL SERVERS, by connections opened",
                &tops.inserts,
                &mut page,
            );
            self.top("AS ASKED FOR (services)", &tops.services, &mut page);
            self.top("BY PACKETS LOST", &tops.drops, &mut page);
        }
        let most = page.len().saturating_sub(self.height - 3);
        lines.extend(page.into_iter().skip(model.scrolled.min(most)));
    }

    fn top(&self, title: &str, top: &Top, lines: &mut Vec<Line<'static>>) {
        if top.destinations.is_empty() {
            return;
        }
        lines.push(Line::styled(title.to_owned(), self.heading()));
        lines.extend(
            top_lines(top, DESTINATIONS, self.width.min(100))
                .into_iter()
                .map(|line| Line::raw(shorten(&line, self.width))),
        );
    }
}
