//! What a table is made of, as far as it is judged by ([`ctpressure_model::verdict`]): counted entry by entry.

use std::{cell::OnceCell, net::IpAddr};

use conntrack_ebpf::owner::{Address, Direction, HOST, Party, UNKNOWN};
use ctpressure_model::verdict::{Composition, KNOWN, OverlayPart, Part as NamedPart, Tunnel};

use super::{
    Charging,
    groups::Groups,
    key::{By, CensusEntry, Endpoint, Part},
    summary::Group,
};
use crate::{
    kernel::entries::{EntryState, EntryWalk, TableEntry},
    probes::TagReader,
    sys::netns::Inode,
};

/// Different keys of each kind that are counted. Whoever has half of the one-way entries, in the order of their hash, is among the first so
/// many of them.
const MOST: usize = 1 << 12;
/// Rows among which the first is looked for that has a name.
const ROWS: usize = 8;

/// Counts the entries of one table.
pub(crate) struct CompositionCount<'a> {
    owners: &'a Charging,
    tags: Option<&'a TagReader>,
    tunnels: Vec<OverlayPart>,
    entries: u64,
    one_way: u64,
    time_wait: u64,
    groupings: [(Vec<By>, Groups); 4],
    /// Servers without their ports, as keys of [`By::Destination`].
    hosts: Groups,
    key: Vec<u8>,
}

impl<'a> CompositionCount<'a> {
    /// Nothing counted yet; `tunnels`: those of this node, besides the ones that are known by their ports.
    pub(crate) fn new(owners: &'a Charging, tunnels: &[Tunnel]) -> Self {
        let known = KNOWN.iter().filter(|known| !tunnels.contains(known));
        Self {
            owners,
            tags: None,
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

    /// Whose an entry is may be told by its tag, too.
    pub(crate) fn with_tags(self, tags: Option<&'a TagReader>) -> Self {
        Self { tags, ..self }
    }

    /// Counts an entry, which is charged to `party` as far as that is known already.
    #[inline]
    pub(crate) fn add(&mut self, netns: Inode, entry: &TableEntry, party: Option<Party>) {
        self.entries += 1;
        self.time_wait += u64::from(entry.state == EntryState::TIME_WAIT);
        // Connections of the usual kind end here.
        if entry.original.protocol != TCP && self.is_outer(entry) {
            return;
        }
        if !entry.one_way() || !entry.evictable() {
            return;
        }
        self.one_way += 1;
        let seen = CensusEntry {
            netns,
            entry,
            owners: self.owners,
            tags: self.tags,
            party: party.map_or_else(OnceCell::new, OnceCell::from),
            now: 0,
        };
        for (by, groups) in &mut self.groupings {
            self.key.clear();
            for by in by {
                by.write(&seen, &mut self.key);
            }
            groups.add(&self.key, true);
        }
        self.key.clear();
        let host = Endpoint {
            address: entry.reply.source,
            port: None,
            protocol: entry.reply.protocol,
        };
        host.write(&mut self.key);
        self.hosts.add(&self.key, true);
    }

    /// Whether it is an outer flow of an overlay, which is counted then. Nodes speak to each other from addresses of their own, and
    /// without NAT: what a pod sends to such a port, or a tunnel that somebody runs in one, is no overlay's.
    fn is_outer(&mut self, entry: &TableEntry) -> bool {
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
            IpAddr::V4(_) => part.ipv4 += 1,
            IpAddr::V6(_) => part.ipv6 += 1,
        }
        true
    }

    /// What was counted; `name`: of an owner by its slot.
    pub(crate) fn finish(
        self,
        walk: &EntryWalk,
        name: impl Fn(u32) -> Option<String>,
    ) -> Composition {
        let totals = super::Counts {
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
