//! What a table is full of that a higher limit would only hold more of: judged here and nowhere else. Whoever speaks of a full table (the
//! limit controller, `doctor`, `top`, `table`, `watch`, a report) repeats these [`Verdict`]s, and advises no raise for what they are about.
//!
//! * Held: packets that wait (for a neighbour, in a queue) hold entries that are counted, but not confirmed yet or already removed, and so in
//!   no list. What they wait for is the cause.
//! * An overlay: the outer packets of a tunnel between nodes. Each flow inside has an entry already; the outer one is of no use to anybody.
//! * A flood: connections that nobody answers or completes (one-way, not assured), with one thing in common: who sends them, whose they
//!   are, or whom they are sent to (a SYN flood with made-up sources). It fills whatever it is given; the kernel may remove such entries
//!   early (`early_drop`), and an attacker is not fed memory.
//!
//! All parts are of the kernel's count. No flood is called from a listing that is far below that.

use serde::{Deserialize, Serialize};

use crate::containment;
use crate::words::{grouped, share};

mod tunnel;

pub use tunnel::{KNOWN, Tunnel, TunnelKind};

/// Entries with something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Part {
    /// What it is: an owner, an address, an address with a port.
    pub name: String,
    /// How many of them there are.
    pub entries: u64,
}

/// Outer flows of one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPart {
    /// What tells its packets from others.
    pub tunnel: Tunnel,
    /// Entries of it between IPv4 addresses.
    pub ipv4: u64,
    /// Entries of it between IPv6 addresses.
    pub ipv6: u64,
}

impl OverlayPart {
    /// All of its entries.
    pub const fn entries(&self) -> u64 {
        self.ipv4.saturating_add(self.ipv6)
    }
}

/// What a table is made of, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composition {
    /// Entries of the table, as it was listed.
    pub entries: u64,
    /// What the kernel counted meanwhile, the lowest; `None`: the listing says nothing about how many are in no list.
    pub count: Option<u64>,
    /// Outer flows of overlays, the most first.
    pub overlays: Vec<OverlayPart>,
    /// Those, but for outer flows, that nobody answered or that were not completed, and that the kernel may remove early.
    pub one_way: u64,
    /// TCP connections that both sides have closed.
    pub time_wait: u64,
    /// The sender with the most of the one-way ones.
    pub source: Option<Part>,
    /// The pod (or other owner, but for the host) that opened the most of them.
    pub opener: Option<Part>,
    /// The server with the most of them, and its port.
    pub destination: Option<Part>,
    /// The Service with the most of them, as it was asked for: a flood on one goes to many servers.
    pub service: Option<Part>,
    /// The server with the most of them, by any port.
    pub host: Option<Part>,
}

/// Something that a higher limit would only hold more of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Verdict {
    /// Which of the three, and what is known of it.
    #[serde(flatten)]
    pub kind: VerdictKind,
    /// Entries that it is about, as they were counted.
    pub entries: u64,
    /// Of so many that the kernel counts in this table.
    pub of: u64,
}

/// What was said of a table, as a journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct TableVerdicts {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// All that there was to say.
    pub verdicts: Vec<Verdict>,
}

/// What a higher limit would only hold more of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum VerdictKind {
    /// Entries that are counted and in no list.
    Held,
    /// Outer packets of an overlay network.
    Overlay {
        /// By what its packets are told, and exempted from tracking.
        tunnel: Tunnel,
        /// Some are between IPv4 addresses.
        ipv4: bool,
        /// Some are between IPv6 addresses.
        ipv6: bool,
    },
    /// One-way connections with a sender or a receiver in common.
    Flood {
        /// Who sends them or whom they are sent to, in words.
        who: String,
    },
}

/// A part of the table that matters: a quarter.
const MATTERS: u64 = 4;
/// What a flood is of all that is no overlay's: half.
const MOST: u64 = 2;
/// From this part of the limit on it is asked what a table is full of: half.
const WORTH_IT: u64 = 2;

/// Percent of a limit that what is needed may fill: while it fills less, a raise would only hold more of what a verdict is about. The limit
/// controller's default leaves as much room after a raise.
pub const NEEDED_FITS: u64 = 60;

/// The limit in which so many entries that are needed fit.
pub const fn limit_for(needed: u64) -> u64 {
    needed.saturating_mul(100).div_ceil(NEEDED_FITS)
}

/// Whether a table is full enough for its verdicts to mean anything.
pub const fn is_worth_judging(entries: u64, limit: u64) -> bool {
    limit > 0 && entries.saturating_mul(WORTH_IT) >= limit
}

/// Whether `part` is at least one in `parts` of `all`, and not nothing.
const fn is_part(part: u64, all: u64, parts: u64) -> bool {
    part > 0 && part.saturating_mul(parts) >= all
}

impl Composition {
    /// Entries that the kernel counts.
    pub fn counted(&self) -> u64 {
        self.count.unwrap_or(0).max(self.entries)
    }

    /// The whole table, of which the kernel counts so many entries, where it was listed for a while only: the list is in the order of the
    /// hash, so the rest is like what was read.
    #[must_use]
    pub fn of_whole(mut self, counted: u64) -> Self {
        let read = self.entries;
        if read == 0 || counted <= read {
            return self;
        }
        let scale = |number: &mut u64| {
            let scaled = u128::from(*number) * u128::from(counted) / u128::from(read);
            *number = u64::try_from(scaled).unwrap_or(u64::MAX);
        };
        for part in &mut self.overlays {
            scale(&mut part.ipv4);
            scale(&mut part.ipv6);
        }
        let parts = [
            &mut self.source,
            &mut self.opener,
            &mut self.destination,
            &mut self.service,
            &mut self.host,
        ];
        for part in parts.into_iter().flatten() {
            scale(&mut part.entries);
        }
        scale(&mut self.one_way);
        scale(&mut self.time_wait);
        self.entries = counted;
        self
    }

    /// All that there is to say of it, the most entries first.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let of = self.counted();
        let held = (VerdictKind::Held, of.saturating_sub(self.entries));
        let overlays = self.overlays.iter().map(|part| {
            let kind = VerdictKind::Overlay {
                tunnel: part.tunnel,
                ipv4: part.ipv4 > 0,
                ipv6: part.ipv6 > 0,
            };
            (kind, part.entries())
        });
        let mut verdicts: Vec<Verdict> = overlays
            .chain([held])
            .filter(|(_, entries)| is_part(*entries, of, MATTERS))
            .chain(self.flood())
            .map(|(kind, entries)| Verdict { kind, entries, of })
            .collect();
        verdicts.sort_by_key(|verdict| std::cmp::Reverse(verdict.entries));
        verdicts
    }

    /// Entries that no verdict is about: what the table is needed for.
    pub fn needed(&self) -> u64 {
        let verdicts = self.verdicts();
        let others = verdicts.iter().map(|verdict| verdict.entries).sum();
        self.counted().saturating_sub(others)
    }

    /// The flood in it, and its entries, if there is one.
    fn flood(&self) -> Option<(VerdictKind, u64)> {
        let all = self.counted();
        let outer: u64 = self.overlays.iter().map(OverlayPart::entries).sum();
        if !is_part(self.one_way, all, MATTERS)
            || !is_part(self.one_way, all.saturating_sub(outer), MOST)
        {
            return None;
        }
        let most = |part: &Option<Part>| {
            let part = part.as_ref()?;
            is_part(part.entries, self.one_way, MOST).then(|| part.clone())
        };
        let to = most(&self.destination)
            .or_else(|| most(&self.service))
            .or_else(|| most(&self.host));
        let towards = to
            .as_ref()
            .map(|part| format!(" towards {}", part.name))
            .unwrap_or_default();
        let (who, entries) = if let Some(sender) = most(&self.opener).or_else(|| most(&self.source))
        {
            (format!("{}{towards}", sender.name), sender.entries)
        } else {
            let to = to?;
            (format!("many senders towards {}", to.name), to.entries)
        };
        Some((VerdictKind::Flood { who }, entries))
    }
}

impl Verdict {
    /// What it is called in metrics and JSON.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            VerdictKind::Held => "held",
            VerdictKind::Overlay { .. } => "overlay",
            VerdictKind::Flood { .. } => "flood",
        }
    }

    /// What it is, as the end of "but not for": `a flood`.
    pub const fn what(&self) -> &'static str {
        match self.kind {
            VerdictKind::Held => "entries that packets hold while they wait",
            VerdictKind::Overlay { .. } => "the outer packets of an overlay",
            VerdictKind::Flood { .. } => "a flood",
        }
    }

    /// The same with who or what: `the flood of shop/api towards 10.0.0.9:53 udp`.
    pub fn which(&self) -> String {
        match &self.kind {
            VerdictKind::Held => "what is in no list".to_owned(),
            VerdictKind::Overlay { tunnel, .. } => format!("what {tunnel} sends"),
            VerdictKind::Flood { who } => format!("the flood of {who}"),
        }
    }

    /// What was seen: `790 of 1,000 entries are one-way connections of ...`.
    pub fn seen(&self) -> String {
        let (entries, of) = (grouped(self.entries), grouped(self.of));
        match &self.kind {
            VerdictKind::Held => {
                format!("{entries} of {of} entries are in no list: packets that wait hold them")
            }
            VerdictKind::Overlay { tunnel, .. } => {
                format!("{entries} of {of} entries are outer packets of an overlay, {tunnel}")
            }
            VerdictKind::Flood { who } => {
                format!("{entries} of {of} entries are one-way connections of {who}")
            }
        }
    }

    /// What to do instead of making room.
    pub fn remedy(&self) -> String {
        match &self.kind {
            VerdictKind::Held => {
                "Find out what they wait for: a program that takes no packets out of NFQUEUE, a neighbour that does not answer (`ip neigh`), a \
                 slow queue (`tc -s qdisc`); if nothing waits, the kernel has lost track of them until it boots again"
                    .to_owned()
            }
            VerdictKind::Overlay { tunnel, .. } => format!(
                "Exempt {} from tracking (notrack) on each node, in PREROUTING and OUTPUT of the raw table: `ctpressure doctor` has the \
                 command lines",
                tunnel.address()
            ),
            VerdictKind::Flood { who } => {
                let sender = who.split(" towards ").next().and_then(containment::line);
                let contain = sender.map_or_else(String::new, |line| format!(" (`{line}`)"));
                format!("Stop or rate-limit the sender{contain}, or exempt this traffic from tracking (notrack), if it needs no NAT")
            }
        }
    }

    /// All of it in one line.
    pub fn advice(&self) -> String {
        format!(
            "{}: a higher limit would only hold more of them. {}",
            self.seen(),
            self.remedy()
        )
    }

    /// Its part of what the kernel counts.
    pub fn share(&self) -> String {
        share(self.entries, self.of)
    }
}

#[cfg(test)]
mod tests;
