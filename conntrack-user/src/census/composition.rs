//! What a table is made of, as far as it is judged by ([`ctpressure_model::verdict`]): counted entry by entry.

use std::net::IpAddr;

use conntrack_ebpf::owner::{Address, Direction, HOST, UNKNOWN};
use ctpressure_model::verdict::{Composition, KNOWN, OverlayPart, Part as NamedPart, Tunnel};

use super::{
    Alike, Charging, Counts,
    groups::Groups,
    key::{By, Endpoint, Part},
    summary::Group,
};
use crate::kernel::entries::{EntryState, EntryWalk, TableEntry};

/// Different keys of each kind that are counted. Whoever has half of the one-way entries, in the order of their hash, is among the first so
/// many of them.
const MOST: usize = 1 << 12;
/// Rows among which the first is looked for that has a name.
const ROWS: usize = 8;

/// Counts the entries of one table.
pub(crate) struct CompositionCount<'a> {
    owners: &'a Charging,
    tunnels: Vec<OverlayPart>,
    entries: u64,
    one_way: u64,
    time_wait: u64,
    groupings: [(Vec<By>, Groups); 4],
    /// Servers without their ports, as keys of [`By::Destination`].
    hosts: Groups,
    key: Vec<u64>,
}

impl<'a> CompositionCount<'a> {
    /// Nothing counted yet; `tunnels`: those of this node, besides the ones that are known by their ports.
    pub(crate) fn new(owners: &'a Charging, tunnels: &[Tunnel]) -> Self {
        let known = KNOWN.iter().filter(|known| !tunnels.contains(known));
        Self {
            owners,
            tunnels: tunnels
                .iter()
                .chain(known)
                .map(|tunnel| OverlayPart {
                    tunnel: *tunnel,
                    ipv4: 0,
                    ipv6: 0,
                })
                .collect(),
            entries: 0,
            one_way: 0,
            time_wait: 0,
            groupings: [
                vec![By::Source],
                vec![By::Destination],
                vec![By::Owner, By::Direction],
                vec![By::Service],
            ]
            .map(|by| {
                let width = by.iter().map(|by| by.width()).sum();
                (by, Groups::with_most(width, MOST))
            }),
            hosts: Groups::with_most(By::Destination.width(), MOST),
            key: Vec::new(),
        }
    }

    /// The tunnels whose outer flows are counted apart.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = &Tunnel> {
        self.tunnels.iter().map(|part| &part.tunnel)
    }

    /// Counts entries.
    pub(crate) fn add(&mut self, alike: &Alike<'_>) {
        let (entry, entries) = (alike.entry, alike.entries);
        self.entries += entries;
        if entry.state == EntryState::TIME_WAIT {
            self.time_wait += entries;
        }
        // Connections of the usual kind end here.
        if entry.original.protocol != TCP && self.count_outer(entry, entries) {
            return;
        }
        if !entry.one_way() || !entry.evictable() {
            return;
        }
        self.one_way += entries;
        let counts = Counts::of(entries, true);
        for (by, groups) in &mut self.groupings {
            self.key.clear();
            for by in by {
                by.write(alike, self.owners, 0, &mut self.key);
            }
            groups.add(&self.key, counts);
        }
        let host = Endpoint {
            address: entry.reply.source,
            port: None,
            protocol: entry.reply.protocol,
        };
        self.hosts.add(&host.words(), counts);
    }

    /// Whether it is an outer flow of an overlay; so many are counted then. Nodes speak to each other from addresses of their own, and
    /// without NAT: what a pod sends to such a port, or a tunnel that somebody runs in one, is no overlay's.
    fn count_outer(&mut self, entry: &TableEntry, entries: u64) -> bool {
        let (protocol, ports) = (entry.original.protocol, entry.original.layer4.ports());
        let mut tunnels = self.tunnels.iter_mut();
        let Some(part) = tunnels.find(|part| part.tunnel.carries(protocol, ports)) else {
            return false;
        };
        let of_workload = |address| {
            let claim = self.owners.maps.addresses.get(&Address::of(address));
            claim.is_some_and(|claim| ![HOST, UNKNOWN].contains(&claim.slot))
        };
        if entry.source_translated()
            || entry.destination_translated()
            || [entry.original.source, entry.reply.source]
                .into_iter()
                .any(of_workload)
        {
            return false;
        }
        match entry.original.source {
            IpAddr::V4(_) => part.ipv4 += entries,
            IpAddr::V6(_) => part.ipv6 += entries,
        }
        true
    }

    /// What was counted; `name`: of an owner by its slot.
    pub(crate) fn finish(
        self,
        walk: &EntryWalk,
        name: impl Fn(u32) -> Option<String>,
    ) -> Composition {
        let totals = Counts {
            entries: self.one_way,
            evictable: self.one_way,
        };
        let [sources, destinations, openers, services] = self
            .groupings
            .map(|(by, groups)| Group::new(&by, &groups, totals, ROWS));
        let hosts = Group::new(&[By::Destination], &self.hosts, totals, ROWS);
        let server = |group| {
            first(group, |key| match key {
                [Part::Destination(endpoint) | Part::Service(Some(endpoint))] => {
                    Some(endpoint.to_string())
                }
                _ => None,
            })
        };
        let mut overlays: Vec<_> = self.tunnels;
        overlays.retain(|part| part.entries() > 0);
        overlays.sort_by_key(|part| std::cmp::Reverse(part.entries()));
        let read = Composition {
            entries: self.entries,
            count: walk.listable(),
            overlays,
            one_way: self.one_way,
            time_wait: self.time_wait,
            source: first(&sources, |key| match key {
                [Part::Source(address)] => Some(address.to_string()),
                _ => None,
            }),
            destination: server(&destinations),
            service: server(&services),
            host: server(&hosts),
            opener: first(&openers, |key| match key {
                [Part::Owner(slot), Part::Direction(Direction::Egress)]
                    if ![HOST, UNKNOWN].contains(slot) =>
                {
                    name(*slot)
                }
                _ => None,
            }),
        };
        if walk.stopped {
            read.of_whole(walk.counts[0].max(walk.counts[1]))
        } else {
            read
        }
    }
}

const TCP: u8 = 6;

/// The largest key that has a name.
fn first(group: &Group, name: impl Fn(&[Part]) -> Option<String>) -> Option<NamedPart> {
    group.rows.iter().find_map(|row| {
        Some(NamedPart {
            name: name(&row.key)?,
            entries: row.counts.entries,
        })
    })
}
