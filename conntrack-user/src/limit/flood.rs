//! Whether a larger limit is the wrong answer: a flood fills whatever it is given, and so do packets that wait.
//!
//! A flood is connections that nobody answers or completes (one-way, not assured), with one thing in
//! common: who sends them, whose they are, or whom they are sent to (a SYN flood with made-up
//! sources). When such entries are at least half of a table, they don't count as demand: the limit is
//! raised as far as the rest needs, and no further. The kernel may remove them early
//! (`early_drop`), and an attacker is not fed memory.
//!
//! Packets that wait (for a neighbour, in a queue) hold entries that are counted, but not confirmed yet and so in no list. When
//! these are at least half of a table, they are no demand either: what they wait for is the cause.

use serde::{Deserialize, Serialize};

/// One-way entries with something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FloodPart {
    /// What it is: an owner, an address, an address with a port.
    pub name: String,
    pub entries: u64,
}

/// What a table is made of, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Composition {
    /// Entries of the table, as it was listed.
    pub entries: u64,
    /// What the kernel counted meanwhile, the lowest; `None`: the listing says nothing about how many are in no list.
    #[serde(default)]
    pub count: Option<u64>,
    /// Those that nobody answered or that were not completed, and that the kernel may remove early.
    pub one_way: u64,
    /// TCP connections that both sides have closed.
    #[serde(default)]
    pub time_wait: u64,
    /// The sender with the most of them.
    pub source: Option<FloodPart>,
    /// The pod (or other owner, but for the host) that opened the most of them.
    pub opener: Option<FloodPart>,
    /// The server with the most of them.
    pub destination: Option<FloodPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flood {
    pub entries: u64,
    /// Of so many in the table.
    pub of: u64,
    /// Who sends it or whom it is sent to, in words.
    pub who: String,
}

impl Composition {
    /// Entries that are counted and in no list, if those are at least half of the table.
    pub(crate) fn unlisted(&self) -> Option<u64> {
        let unlisted = self.count?.saturating_sub(self.entries);
        (unlisted > 0 && unlisted >= self.entries).then_some(unlisted)
    }

    /// What to do about entries that are in no list.
    pub(crate) fn advice_of_unlisted(&self, unlisted: u64) -> String {
        let of = unlisted.saturating_add(self.entries);
        format!(
            "{unlisted} of {of} entries are counted but in no list: packets that wait hold them, so more room would only hold more \
             of them. Find out what they wait for: a neighbour that does not answer (`ip neigh`), a queue (`tc -s qdisc`), NFQUEUE"
        )
    }

    /// The flood in it, if there is one.
    pub(crate) fn flood(&self) -> Option<Flood> {
        let Self {
            entries,
            one_way,
            source,
            opener,
            destination,
            ..
        } = self;
        if one_way.saturating_mul(2) < *entries || *one_way == 0 {
            return None;
        }
        let most = |part: &Option<FloodPart>| {
            part.clone()
                .filter(|part| part.entries.saturating_mul(2) >= *one_way)
        };
        let to = most(destination)
            .map(|part| format!(" towards {}", part.name))
            .unwrap_or_default();
        let flood = |part: &FloodPart, who: String| Flood {
            entries: part.entries,
            of: *entries,
            who,
        };
        if let Some(opener) = most(opener) {
            Some(flood(&opener, format!("{}{to}", opener.name)))
        } else if let Some(source) = most(source) {
            Some(flood(&source, format!("{}{to}", source.name)))
        } else {
            let part = most(destination)?;
            let who = format!("many senders towards {}", part.name);
            Some(flood(&part, who))
        }
    }
}

impl Flood {
    /// What to do instead.
    pub(crate) fn advice(&self) -> String {
        let Self { entries, of, who } = self;
        format!(
            "{entries} of {of} entries are one-way connections of {who}: more room would only hold more of \
             them. Stop or rate-limit the sender, or exempt this traffic from tracking (notrack)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, entries: u64) -> FloodPart {
        FloodPart {
            name: name.to_owned(),
            entries,
        }
    }

    #[test]
    fn a_flood_has_one_sender_or_one_receiver_and_nobody_answers() {
        let pod = Composition {
            entries: 1000,
            count: Some(1000),
            one_way: 800,
            time_wait: 0,
            source: Some(part("10.42.1.2", 790)),
            opener: Some(part("shop/aggregator", 790)),
            destination: Some(part("10.0.0.9:8125/udp", 780)),
        };
        let flood = pod.flood().expect("a flood");
        assert_eq!(flood.who, "shop/aggregator towards 10.0.0.9:8125/udp");
        assert_eq!(flood.entries, 790);
        let outside = Composition {
            opener: None,
            source: Some(part("203.0.113.9", 790)),
            ..pod.clone()
        };
        assert!(
            outside
                .flood()
                .expect("a flood")
                .who
                .starts_with("203.0.113.9")
        );
        let spoofed = Composition {
            opener: None,
            source: Some(part("203.0.113.9", 3)),
            ..pod.clone()
        };
        assert_eq!(
            spoofed.flood().expect("a flood").who,
            "many senders towards 10.0.0.9:8125/udp"
        );
        assert!(
            spoofed
                .flood()
                .expect("a flood")
                .advice()
                .contains("notrack")
        );
        let scattered = Composition {
            destination: Some(part("10.0.0.9:53/udp", 9)),
            ..spoofed
        };
        assert_eq!(scattered.flood(), None);
        let answered = Composition {
            one_way: 499,
            ..pod
        };
        assert_eq!(answered.flood(), None);
        assert_eq!(Composition::default().flood(), None);
    }

    #[test]
    fn what_is_in_no_list_is_told_when_it_is_half_of_the_table() {
        let table = |entries, count| Composition {
            entries,
            count,
            ..Composition::default()
        };
        assert_eq!(table(59, Some(990)).unlisted(), Some(931));
        assert_eq!(table(500, Some(1000)).unlisted(), Some(500));
        assert_eq!(table(501, Some(1000)).unlisted(), None);
        assert_eq!(table(1000, Some(900)).unlisted(), None);
        assert_eq!(table(0, Some(0)).unlisted(), None);
        assert_eq!(table(0, None).unlisted(), None, "it can't be told");
        let advice = table(59, Some(990)).advice_of_unlisted(931);
        assert!(advice.starts_with("931 of 990 entries"), "{advice}");
    }
}
