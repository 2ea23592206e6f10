//! What NAT made of the entries that the last census found: the ports that it has used up, and what leads to where nobody is.

use std::{collections::HashMap, time::Duration};

use crate::{
    census::{Charging, NAT_PORTS, PortSpace, PortSpaces},
    kernel::entries::TableEntry,
    sys::netns::Inode,
};

/// Those that are told: the fullest.
const FOREMOST: usize = 10;
/// Those that are remembered for the next census, of all tables.
const MOST: usize = 1 << 10;

/// How many of so many alike entries lead to an address that somebody on this node had and nobody has now, and are not answered: somebody
/// elsewhere may have it.
pub(super) fn stale_entries(entry: &TableEntry, entries: u64, charging: &Charging) -> u64 {
    let leads_there = entry.destination_translated()
        && entry.one_way()
        && charging.vacant(entry.reply.source).is_some();
    let comes_from =
        entry.source_translated() && charging.vacant(entry.reply.destination).is_some();
    if leads_there || comes_from {
        entries
    } else {
        0
    }
}

/// What one census found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NatFound {
    spaces: Vec<(Inode, PortSpace, u64)>,
    /// See [`stale_entries`].
    pub(super) stale: u64,
}

impl NatFound {
    /// Takes over the spaces of the tables that were walked.
    pub(super) fn add_spaces(&mut self, spaces: &PortSpaces, walked: &HashMap<u32, bool>) {
        let of_walked = |(netns, ..): &(Inode, _, _)| walked.contains_key(netns);
        self.spaces.extend(spaces.used().filter(of_walked));
        self.spaces
            .sort_by(|a, b| b.2.cmp(&a.2).then(a.1.cmp(&b.1)));
        self.spaces.truncate(MOST);
    }
}

/// A port space and how much of it is used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortsUsed {
    /// Of whose table.
    pub(crate) netns: Inode,
    pub(crate) space: PortSpace,
    /// At least so many of [`NAT_PORTS`].
    pub(crate) ports: u64,
    /// Seconds until none is left, at the pace since the census before; `None`: it does not fill, or that one did not meet it.
    pub(crate) seconds_to_full: Option<f64>,
}

/// What the last census told, and the one before for the pace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NatTold {
    /// The fullest first.
    pub(crate) spaces: Vec<PortsUsed>,
    /// Entries that lead to, or come from, an address that nobody on this node has any more, without an answer.
    pub(crate) stale: u64,
    /// Of all spaces, for the next census.
    pub(crate) all: HashMap<(Inode, PortSpace), u64>,
}

impl NatTold {
    /// `since`: how long ago the census before ended.
    pub(super) fn of(found: &NatFound, before: Option<(&Self, Duration)>) -> Self {
        let foremost = found.spaces.iter().take(FOREMOST);
        let spaces = foremost.map(|(netns, space, ports)| PortsUsed {
            netns: *netns,
            space: *space,
            ports: *ports,
            seconds_to_full: before.and_then(|(told, since)| {
                let first = *told.all.get(&(*netns, *space))?;
                seconds_to_full(first, *ports, since)
            }),
        });
        Self {
            spaces: spaces.collect(),
            stale: found.stale,
            all: found
                .spaces
                .iter()
                .map(|(netns, space, ports)| ((*netns, *space), *ports))
                .collect(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "at most the ports that there are"
)]
fn seconds_to_full(before: u64, now: u64, since: Duration) -> Option<f64> {
    let grown = now.checked_sub(before).filter(|grown| *grown > 0)?;
    let left = NAT_PORTS.saturating_sub(now);
    Some(left as f64 * since.as_secs_f64() / grown as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(port: u16) -> PortSpace {
        PortSpace {
            address: [192, 0, 2, 1].into(),
            destination: [198, 51, 100, 7].into(),
            port,
            protocol: 6,
        }
    }

    fn found(spaces: &[(u16, u64)]) -> NatFound {
        let mut counted = PortSpaces::default();
        for (port, ports) in spaces {
            for netns in [1, 2] {
                counted.add_ports(netns, space(*port), *ports);
            }
        }
        let mut found = NatFound::default();
        found.add_spaces(&counted, &HashMap::from([(1, false)]));
        found
    }

    #[test]
    fn spaces_of_walked_tables_are_told_with_their_pace() {
        let first = NatTold::of(&found(&[(443, 10_000), (80, 50)]), None);
        let told: Vec<_> = first
            .spaces
            .iter()
            .map(|used| (used.netns, used.ports))
            .collect();
        assert_eq!(told, [(1, 10_000), (1, 50)]);
        assert_eq!(first.spaces[0].seconds_to_full, None);
        let later = found(&[(443, 12_000), (80, 40), (53, 7)]);
        let second = NatTold::of(&later, Some((&first, Duration::from_secs(10))));
        let told: Vec<_> = second
            .spaces
            .iter()
            .map(|used| used.seconds_to_full)
            .collect();
        assert_eq!(told, [Some(262.56), None, None]);
        let full = found(&[(443, 70_000)]);
        let third = NatTold::of(&full, Some((&second, Duration::from_secs(10))));
        assert_eq!(third.spaces[0].seconds_to_full, Some(0.0));
    }

    #[test]
    fn no_more_are_told_than_the_fullest() {
        let many: Vec<_> = (0..50).map(|port| (port, u64::from(port) + 1)).collect();
        let told = NatTold::of(&found(&many), None);
        assert_eq!((told.spaces.len(), told.spaces[0].ports), (FOREMOST, 50));
    }
}
