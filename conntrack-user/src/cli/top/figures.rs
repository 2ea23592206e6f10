//! Numbers in as few columns as they need, and the rows of the table of owners. ASCII only, so
//! that any terminal can show it.

use crate::{
    census::text::grouped,
    events::text::shorten,
    pressure::{
        destinations::Destination,
        lifetime::{Bound, Lifetime},
    },
    serve::top::{OwnerRow, TopSample, rate},
};

/// What owners are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    /// Who holds most entries
    #[default]
    Live,
    /// Who opens most connections now
    Inserts,
    /// Who loses most packets now, then who has lost most
    Drops,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Live => "live entries",
            Self::Inserts => "inserts",
            Self::Drops => "drops",
        }
    }

    pub(super) const fn next(self) -> Self {
        match self {
            Self::Live => Self::Inserts,
            Self::Inserts => Self::Drops,
            Self::Drops => Self::Live,
        }
    }
}

/// Owners that ever had anything, in this order; equals by live entries, then by slot.
pub(super) fn sorted(sample: &TopSample, sort: Sort) -> Vec<&OwnerRow> {
    let mut owners: Vec<_> = sample
        .owners
        .iter()
        .filter(|row| row.live + row.inserts + row.deletes + row.drops + row.victims > 0)
        .collect();
    owners.sort_by(|one, other| {
        let order = match sort {
            Sort::Live => std::cmp::Ordering::Equal,
            Sort::Inserts => {
                rate(&other.inserts_per_second).total_cmp(&rate(&one.inserts_per_second))
            }
            Sort::Drops => rate(&other.drops_per_second)
                .total_cmp(&rate(&one.drops_per_second))
                .then(other.drops.cmp(&one.drops)),
        };
        order
            .then(other.live.cmp(&one.live))
            .then(one.slot.cmp(&other.slot))
    });
    owners
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
const fn as_f64(number: u64) -> f64 {
    number as f64
}

/// At most five columns: `9,999`, `12.3k`, `123k`, `1.2M`.
pub(super) fn short(number: u64) -> String {
    if number < 10_000 {
        return grouped(number);
    }
    let mut scaled = as_f64(number);
    for unit in ["k", "M", "G", "T", "P", "E"] {
        scaled /= 1000.0;
        if scaled < 99.95 {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 999.5 {
            return format!("{scaled:.0}{unit}");
        }
    }
    "lots".to_owned()
}

/// At most seven columns: exact below a million.
pub(super) fn entries(number: u64) -> String {
    if number < 1_000_000 {
        grouped(number)
    } else {
        short(number)
    }
}

/// At most five columns.
pub(super) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        format!("{rate:.1}")
    } else {
        short(whole(rate))
    }
}

/// At most four columns; only nothing is `0%`, and only everything `100%`.
pub(super) fn per_cent(part: f64) -> String {
    if part <= 0.0 {
        "0%".to_owned()
    } else if part < 0.01 {
        "<1%".to_owned()
    } else if part < 1.0 {
        format!("{}%", whole((part * 100.0).floor()))
    } else {
        format!("{}%", whole(part * 100.0).min(999))
    }
}

/// At most four columns.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 9.95 {
        format!("{seconds:.1}s")
    } else if seconds < 600.0 {
        format!("{seconds:.0}s")
    } else if seconds < 36_000.0 {
        format!("{:.0}m", seconds / 60.0)
    } else if seconds < 864_000.0 {
        format!("{:.0}h", seconds / 3600.0)
    } else {
        format!("{}d", whole(seconds / 86_400.0).min(999))
    }
}

/// At most five columns.
pub(super) fn lifetime(lifetime: Option<Lifetime>) -> String {
    match lifetime {
        None => "-".to_owned(),
        Some(lifetime) => {
            let sign = match lifetime.is {
                Bound::About => "",
                Bound::AtLeast => ">",
                Bound::AtMost => "<",
            };
            format!("{sign}{}", seconds(lifetime.seconds))
        }
    }
}

/// When a table will be full, in words; empty: it is not filling.
pub(super) fn until_full(until: Option<f64>) -> String {
    match until {
        None => String::new(),
        Some(until) if until < 0.5 => "is full".to_owned(),
        Some(until) => format!("full in {}", seconds(until)),
    }
}

/// `[####....]`, `width` columns in all.
pub(super) fn bar(part: f64, width: usize) -> String {
    let room = width.saturating_sub(2);
    let filled = usize::try_from(whole(part.clamp(0.0, 1.0) * as_f64(room as u64)))
        .unwrap_or(room)
        .min(room);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(room - filled))
}

/// `10.0.0.1:53 udp`
pub(super) fn address(destination: &Destination) -> String {
    let protocol = &destination.protocol;
    match destination.port {
        None => format!("{} {protocol}", destination.address),
        Some(port) => format!(
            "{} {protocol}",
            std::net::SocketAddr::new(destination.address, port)
        ),
    }
}

/// Columns of everything but the owner's name.
const FIGURES: usize = 58;
/// From this width on the totals of inserts and of evictions for its sake are shown too.
const WIDE: usize = 110;

fn line(name: &str, figures: [&str; 11], width: usize) -> String {
    let [
        kind,
        held,
        share,
        inserts,
        deletes,
        drop_rate,
        drops,
        evicted,
        lifetime,
        all_inserts,
        causes,
    ] = figures;
    let wide = width >= WIDE;
    let room = width.saturating_sub(FIGURES + if wide { 14 } else { 0 });
    let name = shorten(name, room);
    let line = format!(
        "{name:<room$} {kind:<6} {held:>7} {share:>5} {inserts:>5} {deletes:>5} {drop_rate:>6} \
         {drops:>5} {evicted:>5} {lifetime:>5}"
    );
    if wide {
        format!("{line} {all_inserts:>6} {causes:>6}")
    } else {
        line
    }
}

/// The titles of the columns of [`row`].
pub(super) fn header(width: usize) -> String {
    let titles = [
        "KIND", "LIVE", "SHARE", "INS/S", "DEL/S", "DROP/S", "DROPS", "EVICT", "LIFE", "INSERT",
        "CAUSED",
    ];
    line("OWNER", titles, width)
}

/// An owner in `width` columns.
pub(super) fn row(owner: &OwnerRow, width: usize) -> String {
    let name = if owner.present {
        owner.name.clone()
    } else {
        format!("{} (gone)", owner.name)
    };
    let kind = owner.kind.label();
    let figures = [
        if kind == owner.name { "-" } else { kind },
        &entries(owner.live),
        &per_cent(owner.live_share),
        &per_second(rate(&owner.inserts_per_second)),
        &per_second(rate(&owner.deletes_per_second)),
        &per_second(rate(&owner.drops_per_second)),
        &short(owner.drops),
        &short(owner.victims),
        &lifetime(owner.lifetime),
        &short(owner.inserts),
        &short(owner.causes),
    ];
    line(&name, figures, width)
}

/// `table_full 170, clash 7`
pub(super) fn reasons(drops: &std::collections::BTreeMap<String, u64>) -> String {
    let mut drops: Vec<_> = drops.iter().collect();
    drops.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let parts: Vec<_> = drops
        .iter()
        .map(|(reason, number)| format!("{reason} {}", grouped(**number)))
        .collect();
    parts.join(", ")
}

/// `HH:MM:SS`, UTC.
pub(super) fn time_of_day(since_1970: f64) -> String {
    let seconds = whole(since_1970) % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in [
            (0, "0"),
            (9_999, "9,999"),
            (10_000, "10.0k"),
            (99_999, "100k"),
            (262_144, "262k"),
            (999_999, "1.0M"),
            (12_345_678, "12.3M"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!(entries(262_144), "262,144");
        assert_eq!(per_second(0.04), "0.0");
        assert_eq!(per_second(17.7), "18");
        for (part, text) in [(0.0, "0%"), (0.001, "<1%"), (0.999, "99%"), (1.0, "100%")] {
            assert_eq!(per_cent(part), text);
        }
        for (time, text) in [
            (4.24, "4.2s"),
            (90.0, "90s"),
            (3600.0, "60m"),
            (9e9, "999d"),
        ] {
            assert_eq!(seconds(time), text);
        }
        assert_eq!(bar(0.5, 10), "[####....]");
        assert_eq!(bar(7.0, 4), "[##]");
        assert_eq!(bar(0.5, 1), "[]");
        assert_eq!(time_of_day(1_700_000_000.2), "22:13:20");
    }

    proptest! {
        #[test]
        fn every_figure_fits_its_column(number: u64, part in 0.0..1e9_f64) {
            prop_assert!(short(number).len() <= 5);
            prop_assert!(entries(number).len() <= 7);
            prop_assert!(per_second(as_f64(number)).len() <= 5);
            prop_assert!(per_cent(part).len() <= 4);
            prop_assert!(seconds(part).len() <= 4);
        }
    }
}
