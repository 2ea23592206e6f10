//! Whether a larger limit is the wrong answer: a flood fills whatever it is given.
//!
//! A flood is connections that nobody answers or completes (one-way, not assured), with one thing in
//! common: who sends them, whose they are, or whom they are sent to (a SYN flood with made-up
//! sources). When such entries are at least half of a table, they don't count as demand: the limit is
//! raised as far as the rest needs, and no further. The kernel may remove them early
//! (`early_drop`), and an attacker is not fed memory.

use serde::{Deserialize, Serialize};

/// States of connections that were not completed (see [`State::name`](crate::kernel::entries::State::name)).
pub(crate) const ONE_WAY: [&str; 9] = [
    "UNREPLIED",
    "SYN_SENT",
    "SYN_SENT2",
    "SYN_RECV",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "REQUEST",
    "RESPOND",
];

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
    /// Entries of the table.
    pub entries: u64,
    /// Those in a state of [`ONE_WAY`] that the kernel may remove early.
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
}
