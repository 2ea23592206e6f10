//! One line for people: at most `WIDTH` columns, colour only when asked for.
//!
//! What does not fit is shortened in the middle: addresses first, then the cause of an eviction to
//! its source. JSON has everything.

use std::net::IpAddr;

use anstyle::{AnsiColor, Style};

use super::{Event, LostEvent, Occurrence, Tuple, Who};
use crate::words::{clean, shorten, time::clock_millis};

/// Columns of a line at most.
const WIDTH: usize = 100;
/// Columns of the name of the owner, or of the network namespace where it says more.
const WHO: usize = 18;
/// The longest IPv6 address in text.
const WHOLE: usize = 45;

/// The event in one line, without the line end.
pub fn line(event: &Event, colour: bool) -> String {
    line_within(event, colour, WIDTH)
}

/// The same in `width` columns at most, if that is 60 or more.
pub fn line_within(event: &Event, colour: bool, width: usize) -> String {
    let (verb, style) = match event {
        Event::Insert(_) => ("insert", AnsiColor::Green.on_default()),
        Event::Drop(_) => ("drop", AnsiColor::Red.on_default().bold()),
        Event::Eviction(_) => ("evict", AnsiColor::Yellow.on_default()),
        Event::Lost(_) => ("lost", AnsiColor::Magenta.on_default()),
        Event::Verdict(_) => ("note", AnsiColor::Cyan.on_default().bold()),
    };
    let style = if colour { style } else { Style::new() };
    let (time, rest) = match event {
        Event::Insert(insert) => {
            let weight = match insert.seen.weight {
                0 | 1 => String::new(),
                weight => format!(" x{weight}"),
            };
            let detail = |limit, _| flow(insert.original.as_ref(), limit) + &weight;
            (
                insert.seen.time,
                placed(&insert.seen, &insert.owner, width, detail),
            )
        }
        Event::Drop(drop) => {
            let detail =
                |limit, _| format!("{} {}", flow(drop.original.as_ref(), limit), drop.reason);
            (
                drop.seen.time,
                placed(&drop.seen, &drop.owner, width, detail),
            )
        }
        Event::Eviction(eviction) => {
            let named = eviction.cause_owner.is_named();
            let owner = shorten(&eviction.cause_owner.name(), WHO);
            let detail = |limit, detail| {
                let cause = match (&eviction.cause, detail) {
                    (None, _) | (_, Detail::Flow) => flow(eviction.cause.as_ref(), limit),
                    (Some(cause), _) => endpoint(cause, true, limit),
                };
                let victim = flow(eviction.victim.as_ref(), limit);
                match (named, detail) {
                    (true, Detail::Owner) => format!("{victim} for {owner}"),
                    (true, _) => format!("{victim} for {owner} {cause}"),
                    (false, _) => format!("{victim} for {cause}"),
                }
            };
            (
                eviction.seen.time,
                placed(&eviction.seen, &eviction.victim_owner, width, detail),
            )
        }
        Event::Lost(lost) => (lost.time, lost_text(lost, width)),
        // A sentence, and as long as that.
        Event::Verdict(found) => (
            found.time,
            format!("{} {}", shorten(&found.netns_name, WHO), found.advice),
        ),
    };
    let rest = clean(&rest);
    format!("{} {style}{verb:<6}{style:#} {rest}", clock_millis(time))
}

/// How much of an eviction's cause is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    /// Its flow.
    Flow,
    /// Its source.
    Source,
    /// Its owner, or its source if that has no name.
    Owner,
}

/// The widest form of the detail that fits behind the namespace and the protocol.
///
/// `detail` is given the longest address allowed, and how much of the cause may be shown.
fn placed(
    seen: &Occurrence,
    owner: &Who,
    width: usize,
    detail: impl Fn(usize, Detail) -> String,
) -> String {
    const FORMS: [(usize, Detail); 9] = [
        (WHOLE, Detail::Flow),
        (21, Detail::Flow),
        (15, Detail::Flow),
        (WHOLE, Detail::Source),
        (21, Detail::Source),
        (15, Detail::Source),
        (21, Detail::Owner),
        (15, Detail::Owner),
        (9, Detail::Owner),
    ];
    let who = if owner.is_named() {
        shorten(&owner.name(), WHO)
    } else {
        shorten(&seen.netns_name, WHO)
    };
    let protocol = seen.protocol.as_deref().unwrap_or("-");
    let start = format!("{who:<WHO$} {protocol:<5} ");
    // "HH:MM:SS.mmm insert " stands before it.
    let room = width.saturating_sub(20 + start.chars().count());
    let mut text = String::new();
    for (limit, how_much) in FORMS {
        text = detail(limit, how_much);
        if text.chars().count() <= room {
            break;
        }
    }
    start + &shorten(&text, room)
}

/// A tuple in words; each address has at most `limit` characters.
pub fn flow(tuple: Option<&Tuple>, limit: usize) -> String {
    let Some(tuple) = tuple else {
        return "unknown flow".to_owned();
    };
    let text = format!(
        "{} > {}",
        endpoint(tuple, true, limit),
        endpoint(tuple, false, limit)
    );
    match (tuple.icmp_id, tuple.icmp_type, tuple.icmp_code) {
        (Some(id), Some(kind), Some(code)) => format!("{text} type {kind}/{code} id {id}"),
        _ => text,
    }
}

fn endpoint(tuple: &Tuple, source: bool, limit: usize) -> String {
    let (address, port) = if source {
        (tuple.source, tuple.source_port)
    } else {
        (tuple.destination, tuple.destination_port)
    };
    let text = shorten(&address.to_string(), limit);
    match (address, port) {
        (_, None) => text,
        (IpAddr::V4(_), Some(port)) => format!("{text}:{port}"),
        (IpAddr::V6(_), Some(port)) => format!("[{text}]:{port}"),
    }
}

fn lost_text(lost: &LostEvent, width: usize) -> String {
    let parts = [
        (lost.watcher, "this watcher was too slow"),
        (
            lost.drops + lost.evictions + lost.inserts,
            "the ring was full",
        ),
        (
            lost.drops_not_detailed + lost.evictions_not_detailed,
            "beyond the budget",
        ),
    ];
    let parts: Vec<_> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, why)| format!("{number} {why}"))
        .collect();
    shorten(
        &format!("{} events: {}", lost.records, parts.join(", ")),
        width.saturating_sub(20),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use conntrack_ebpf::record::{DropReason, View};
    use proptest::prelude::*;

    use super::*;
    use crate::{events::Names, tests::sample};

    fn text(view: &View) -> String {
        let pod = crate::owner::Owner::pod("u-1", Some(("shop", "cart-1")));
        let names = [(4_026_531_840, "host".to_owned())]
            .into_iter()
            .collect::<Names>()
            .with_owners([(2, pod)].into_iter().collect());
        let line = line(&Event::new(view, sample::TIME, &names), false);
        assert_eq!(line.chars().filter(|char| *char == ':').take(2).count(), 2);
        line.get(13..).expect("a time before it").to_owned()
    }

    #[test]
    fn one_of_each() {
        assert_eq!(
            text(&sample::insert()),
            "insert host               udp   10.0.0.1:1234 > 10.0.0.2:53"
        );
        assert_eq!(
            text(&sample::icmpv6_drop()),
            "drop   4026532177         icmpv6 fd00::1 > fd00::2 type 128/0 id 7 table_full"
        );
        assert_eq!(
            text(&sample::eviction()),
            "evict  shop/cart-1        tcp   10.0.0.9:40000 > 10.0.0.2:80 for 10.0.0.1:1234"
        );
    }

    #[test]
    fn a_sampled_insert_says_how_many() {
        let mut view = sample::insert();
        if let View::Insert(record) = &mut view {
            record.header.weight = 64;
        }
        assert!(text(&view).ends_with("10.0.0.2:53 x64"));
    }

    #[test]
    fn colour_only_when_asked_for() {
        let event = Event::new(&sample::insert(), sample::TIME, &Names::default());
        assert!(!line(&event, false).contains('\u{1b}'));
        assert!(line(&event, true).contains("\u{1b}[32minsert"));
    }

    #[test]
    fn losses_say_why() {
        let lost = LostEvent {
            time: SystemTime::UNIX_EPOCH,
            records: 12,
            watcher: 2,
            drops: 3,
            evictions: 0,
            inserts: 0,
            drops_not_detailed: 7,
            evictions_not_detailed: 0,
        };
        assert_eq!(
            line(&Event::Lost(lost), false),
            "00:00:00.000 lost   12 events: 2 this watcher was too slow, 3 the ring was full, \
             7 beyond the budget"
        );
    }

    proptest! {
        #[test]
        fn every_line_fits(
            addresses: [[u16; 8]; 4],
            ports: [u16; 4],
            protocol: u8,
            v4: bool,
            reason in prop::sample::select(DropReason::ALL.to_vec()),
            name in ".{0,70}",
        ) {
            let tuple = |n: usize| {
                if v4 {
                    let short = |address: [u16; 8]| {
                        let ([a, b], [c, d]) = (address[0].to_be_bytes(), address[1].to_be_bytes());
                        [a, b, c, d]
                    };
                    let [from, to] = [short(addresses[n]), short(addresses[n + 1])];
                    sample::tuple_v4(protocol, (from, ports[n]), (to, ports[n + 1]))
                } else {
                    let [from, to] = [addresses[n], addresses[n + 1]];
                    sample::tuple_v6(protocol, (from, ports[n]), (to, ports[n + 1]))
                }
            };
            let names: Names = [(4_026_531_840, name)].into_iter().collect();
            let mut views = [sample::insert(), sample::icmpv6_drop(), sample::eviction()];
            for view in &mut views {
                match view {
                    View::Insert(record) => {
                        record.header.weight = u32::MAX;
                        record.original = tuple(0);
                    }
                    View::Drop(record) => {
                        record.header.reason = reason as u8;
                        record.original = tuple(0);
                    }
                    View::Eviction(record) => {
                        record.victim = tuple(0);
                        record.cause = tuple(2);
                    }
                }
                let event = Event::new(view, sample::TIME, &names);
                for width in [60, 80, WIDTH, 200] {
                    let line = line_within(&event, false, width);
                    prop_assert!(line.chars().count() <= width, "{width}: {line}");
                }
            }
        }
    }
}
