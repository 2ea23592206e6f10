use std::time::{Duration, UNIX_EPOCH};

use ctpressure_model::{events::Names, tests::sample};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::*;
use crate::{agent::Table, owners::Owner, probes::Totals, serve::top::tests::example};

fn shown() -> TopSample {
    TopSample::new(
        &example::snapshot(),
        UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    )
}

fn events(number: usize) -> Vec<Event> {
    let names = Names::default();
    (0..number)
        .map(|at| {
            let view = if at % 2 == 0 {
                sample::icmpv6_drop()
            } else {
                sample::eviction()
            };
            Event::new(&view, sample::TIME, &names)
        })
        .collect()
}

fn model() -> Model {
    let mut model = Model::new("the agent", Sort::Live);
    model.take(shown());
    model.take_events(events(6));
    model
}

fn press(model: &mut Model, keys: &[KeyCode]) {
    for key in keys {
        assert!(
            model.key(KeyEvent::new(*key, KeyModifiers::NONE)),
            "{key:?}"
        );
    }
}

fn typed(text: &str) -> Vec<KeyCode> {
    text.chars().map(KeyCode::Char).collect()
}

/// The screen as text, and whether there is any colour.
fn drawn(model: &Model, size: (u16, u16), colour: bool) -> (String, bool) {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).expect("a terminal");
    terminal
        .draw(|frame| draw::draw(frame, model, colour))
        .expect("drawn");
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..size.1 {
        let line: String = (0..size.0).map(|x| buffer[(x, y)].symbol()).collect();
        text += line.trim_end();
        text.push('\n');
    }
    let coloured = buffer
        .content()
        .iter()
        .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
    (text, coloured)
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
}

#[test]
fn at_80_columns_everything_that_matters_is_there() {
    let (text, coloured) = drawn(&model(), (80, 24), true);
    assert!(coloured);
    has(
        &text,
        &[
            "ctpressure top: attached, Linux 6.12.0, the agent",
            "22:13:20 UTC",
            "host             [##############]   1,990 / 2,000     99% full   is full",
            "pod-b            [..............]      10",
            "inserts 1,500/s",
            "lost 177, evicted 9,700",
            "metrics/aggregator-0   pod      1,700   85% 1,500 1,310      0     0     0  >12s",
            "shop/cart-1            pod        200   10%     0     0     18   177    41     -",
            "sshd.service           cgroup",
            "host                   -           90",
            "DROPS AND EVICTIONS",
            " drop   4026532177",
            "q end",
        ],
    );
    assert!(
        !text.contains("unknown  "),
        "it never had anything:\n{text}"
    );
    assert!(text.is_ascii() || text.contains('…'), "{text}");
}

#[test]
fn without_colour_nothing_is_coloured_and_nothing_lost() {
    let (with, _) = drawn(&model(), (80, 24), true);
    let (without, coloured) = drawn(&model(), (80, 24), false);
    assert_eq!(with, without);
    assert!(!coloured);
}

#[test]
fn a_large_terminal_shows_more() {
    let mut snapshot = example::snapshot();
    let many = (10..200).map(|slot| {
        let name = format!("pod-with-a-name-that-needs-more-room-than-most-{slot}");
        example::owner(slot, Owner::pod(&name, Some(("many", &name))), 5)
    });
    snapshot.owners.list.extend(many);
    let mut model = model();
    model.take(TopSample::new(&snapshot, UNIX_EPOCH));
    let (text, _) = drawn(&model, (200, 60), false);
    has(
        &text,
        &[
            "CAUSED",
            "many/pod-with-a-name-that-needs-more-room-than-most-10 ",
            "of 194 owners by live entries",
        ],
    );
    assert!(text.lines().all(|line| line.chars().count() <= 200));
    // The last one can be reached, and is seen then.
    press(&mut model, &[KeyCode::End]);
    let (text, _) = drawn(&model, (80, 24), false);
    has(&text, &["-199"]);
}

#[test]
fn a_tiny_terminal_gets_a_message() {
    let mut model = model();
    for size in [(20, 5), (59, 50), (200, 11)] {
        let (text, _) = drawn(&model, size, true);
        has(&text, &["too small", "needs 60x12", "q ends"]);
    }
    for view in [
        KeyCode::Char('?'),
        KeyCode::Char('e'),
        KeyCode::Esc,
        KeyCode::Enter,
    ] {
        press(&mut model, &[view]);
        for (width, height) in [(0, 0), (1, 1), (60, 12), (61, 13), (500, 100)] {
            let (_, _) = drawn(&model, (width, height), true);
        }
    }
}

#[test]
fn an_owner_is_looked_into_and_left() {
    let mut model = model();
    press(&mut model, &[KeyCode::Enter]);
    let (text, _) = drawn(&model, (80, 24), false);
    has(
        &text,
        &[
            "metrics/aggregator-0 (pod)",
            "live 1,700 (85% of all, 85% of the limit)",
            "lifetime at least 12s (error 20%)",
            "UNREPLIED 1,650",
            "9,700 of anybody for its sake",
            "REAL SERVERS",
            "10.96.0.10:53 udp",
            "AS ASKED FOR",
        ],
    );
    // It is the same owner after the order changed, and said to be gone when it is.
    let mut snapshot = example::snapshot();
    snapshot.owners.list.remove(2);
    model.take(TopSample::new(&snapshot, UNIX_EPOCH));
    has(&drawn(&model, (80, 24), false).0, &["this owner is gone"]);
    press(
        &mut model,
        &[KeyCode::Esc, KeyCode::Char('d'), KeyCode::Home],
    );
    press(&mut model, &[KeyCode::Enter]);
    has(
        &drawn(&model, (80, 24), false).0,
        &[
            "shop/cart-1 (pod)",
            "table_full 170, clash 7",
            "BY PACKETS LOST",
        ],
    );
}

#[test]
fn the_mark_follows_its_owner() {
    let mut model = model();
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(model.owner().expect("marked").name, "shop/cart-1");
    press(&mut model, &[KeyCode::Char('i')]);
    assert_eq!(model.owner().expect("marked").name, "shop/cart-1");
    press(&mut model, &[KeyCode::Char('s')]);
    assert_eq!(model.sort, Sort::Drops);
    assert_eq!(model.owners()[0].name, "shop/cart-1");
    press(&mut model, &[KeyCode::PageDown, KeyCode::Down]);
    let last = model.owner().expect("marked").slot;
    press(&mut model, &[KeyCode::Up]);
    assert_ne!(model.owner().expect("marked").slot, last);
}

#[test]
fn the_filter() {
    let mut model = model();
    press(&mut model, &[KeyCode::Char('/')]);
    press(&mut model, &typed("CARTq"));
    press(&mut model, &[KeyCode::Backspace]);
    has(&drawn(&model, (80, 24), false).0, &["show only: CART_"]);
    press(&mut model, &[KeyCode::Enter]);
    let names: Vec<_> = model.owners().iter().map(|owner| &owner.name).collect();
    assert_eq!(names, ["shop/cart-1"]);
    has(
        &drawn(&model, (80, 24), false).0,
        &["only \"CART\"", "none so far"],
    );
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(model.owners().len(), 4);
}

#[test]
fn paused_means_that_nothing_moves_and_nothing_is_lost() {
    let mut model = model();
    press(&mut model, &[KeyCode::Char('p')]);
    let before = drawn(&model, (80, 24), false).0;
    has(&before, &["PAUSED"]);
    let mut later = shown();
    later.tables[0].entries = 1_234;
    model.take(later);
    model.take_events(events(3));
    assert_eq!(drawn(&model, (80, 24), false).0, before);
    press(&mut model, &[KeyCode::Char(' ')]);
    has(&drawn(&model, (80, 24), false).0, &["1,234"]);
    assert_eq!(model.events.len(), 9);
}

#[test]
fn events_are_kept_up_to_a_number() {
    let mut model = model();
    model.take_events(events(2_000));
    assert_eq!(model.events.len(), 500);
    press(&mut model, &[KeyCode::Char('e'), KeyCode::End]);
    has(
        &drawn(&model, (80, 24), false).0,
        &["500 kept", " evict ", "10.0.0.9:40000 > "],
    );
}

#[test]
fn keys_that_end_it() {
    for key in [
        KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE),
        KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
    ] {
        assert!(!model().key(key));
    }
    let mut model = model();
    press(&mut model, &[KeyCode::Char('?')]);
    has(&drawn(&model, (80, 24), false).0, &["sort by the next of"]);
    // The key that opened the help closes it.
    press(&mut model, &[KeyCode::Char('?')]);
    has(&drawn(&model, (80, 24), false).0, &["? help"]);
}

#[test]
fn printed_once() {
    let text = text::view(&shown(), Sort::Live, 2);
    has(
        &text,
        &[
            "22:13:20 UTC, attached, Linux 6.12.0",
            "table host                       1,990 of 2,000     99% full   is full",
            "owners by live entries",
            "metrics/aggregator-0",
            "(and 2 more with 100 entries)",
            "metrics/aggregator-0 opens connections to (last 30s):",
            "10.96.0.10:53 udp",
            "who loses packets",
            "177 packets lost (18/s), 41 entries evicted",
            "table_full 170, clash 7",
        ],
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= text::WIDTH),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    let first = text::view(&shown(), Sort::Drops, 1);
    let row = first.lines().find(|line| line.starts_with("shop/cart-1"));
    assert!(row.is_some(), "{first}");
}

#[test]
fn printed_before_there_is_anything() {
    let reason = "hooks that this kernel does not offer: ".to_owned() + &"very ".repeat(60);
    let sample = TopSample {
        reason: Some(reason),
        ..TopSample::default()
    };
    let text = text::view(&sample, Sort::Live, 10);
    has(&text, &["waiting for conntrack", "note: hooks that"]);
    assert!(
        text.lines().all(|line| line.chars().count() <= text::WIDTH),
        "{text}"
    );
    let mut model = Model::new("own probes", Sort::Live);
    model.take(sample);
    has(&drawn(&model, (80, 24), false).0, &["no entries yet"]);
}

#[test]
fn what_no_probe_counts_is_a_dash() {
    let mut snapshot = example::snapshot();
    snapshot.probes.totals = Totals::default();
    snapshot.probes.node_losses.drops = Some(1538);
    snapshot.probes.node_losses.evictions = Some(20);
    let sample = TopSample::new(&snapshot, UNIX_EPOCH);
    let text = text::view(&sample, Sort::Live, 10);
    for part in [
        "inserts -/s, deletes -/s, drops -/s; so far: drops -, evicted -",
        "counted by the kernel only: 1,538 packets dropped, 20 entries evicted",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= text::WIDTH), "{text}");
}

#[test]
fn empty_tables_are_one_line() {
    let mut snapshot = example::snapshot();
    let table = |netns: u32| Table {
        netns,
        name: format!("shop/web-{netns}"),
        ..Table::default()
    };
    snapshot.tables.list.extend((100..349).map(table));
    let sample = TopSample::new(&snapshot, UNIX_EPOCH);
    let (shown, left) = text::chosen(&sample, 10);
    let names: Vec<_> = shown.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["host", "pod-b"]);
    assert_eq!(left.as_deref(), Some("(and 249 empty tables)"));
    snapshot.tables.list.extend((400..2_000).map(|netns| Table {
        entries: u64::from(netns % 2),
        ..table(netns)
    }));
    let sample = TopSample::new(&snapshot, UNIX_EPOCH);
    let (shown, left) = text::chosen(&sample, 10);
    assert_eq!(shown.len(), 10);
    assert_eq!(
        left.as_deref(),
        Some("(and 792 tables with fewer entries, 1,049 empty tables)")
    );
    let mut model = model();
    model.take(sample);
    let (text, _) = drawn(&model, (80, 24), false);
    has(&text, &["1,049 empty tables"]);
}
