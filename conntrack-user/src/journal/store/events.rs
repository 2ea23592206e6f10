//! Writing drops and evictions: those that are kept with their detail, and how many flows they were of.

use std::net::IpAddr;

use rusqlite::params;

use super::rows::Writing;
use crate::{
    events::{Tuple, Who},
    journal::{Loss, reader::milliseconds, second::Second},
};

/// Source and destination with their ports, as columns.
struct Columns<'a> {
    protocol: Option<&'a str>,
    source: Option<IpAddr>,
    source_port: Option<u16>,
    destination: Option<IpAddr>,
    destination_port: Option<u16>,
}

impl<'a> Columns<'a> {
    fn new(tuple: Option<&Tuple>, protocol: Option<&'a str>) -> Self {
        let icmp = |tuple: &Tuple| {
            tuple
                .icmp_type
                .zip(tuple.icmp_code)
                .map(|(kind, code)| u16::from_be_bytes([kind, code]))
        };
        Self {
            protocol,
            source: tuple.map(|tuple| tuple.source),
            source_port: tuple.and_then(|tuple| tuple.source_port.or(tuple.icmp_id)),
            destination: tuple.map(|tuple| tuple.destination),
            destination_port: tuple
                .and_then(|tuple| tuple.destination_port.or_else(|| icmp(tuple))),
        }
    }
}

fn text(address: Option<IpAddr>) -> Option<String> {
    address.map(|address| address.to_string())
}

fn side(who: &Who) -> i64 {
    i64::from(who.direction == "ingress")
}

impl Writing<'_> {
    pub(super) fn flows_lost(&mut self, second: &Second) -> rusqlite::Result<()> {
        let detail = &second.detail;
        for (owners, [first, again]) in [
            (&detail.refused, [Loss::RefusedFirst, Loss::RefusedAgain]),
            (&detail.evicted, [Loss::EvictedFirst, Loss::EvictedAgain]),
        ] {
            for (who, flows) in owners {
                let owner = self.owner(&second.parties.owner(who))?;
                for (what, number) in [(first, flows.first), (again, flows.again)] {
                    if number > 0 {
                        self.loss(owner, side(who), what, number)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn events(&mut self, second: &Second) -> rusqlite::Result<()> {
        let detail = &second.detail;
        for event in &detail.drops.events {
            let owner = self.owner(&second.parties.owner(&event.owner))?;
            let netns = self.netns_by(event.seen.netns, &event.seen.netns_name)?;
            let path = Columns::new(event.original.as_ref(), event.seen.protocol.as_deref());
            self.transaction
                .prepare_cached(
                    "INSERT INTO drop_event (tick, at, netns, reason, owner, direction, protocol, source, \
                     source_port, destination, destination_port, zone, ifindex, cgroup) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                )?
                .execute(params![
                    self.tick,
                    milliseconds(event.seen.time),
                    netns,
                    event.reason,
                    owner,
                    side(&event.owner),
                    path.protocol,
                    text(path.source),
                    path.source_port,
                    text(path.destination),
                    path.destination_port,
                    event.origin.zone,
                    event.origin.ifindex,
                    event.origin.cgroup.map(u64::cast_signed)
                ])?;
        }
        for event in &detail.evictions.events {
            let victim = self.owner(&second.parties.owner(&event.victim_owner))?;
            let cause = self.owner(&second.parties.owner(&event.cause_owner))?;
            let netns = self.netns_by(event.seen.netns, &event.seen.netns_name)?;
            let path = Columns::new(event.victim.as_ref(), event.seen.protocol.as_deref());
            let by = Columns::new(event.cause.as_ref(), event.cause_protocol.as_deref());
            self.transaction
                .prepare_cached(
                    "INSERT INTO eviction_event (tick, at, netns, victim, victim_direction, cause, \
                     cause_direction, protocol, source, source_port, destination, destination_port, \
                     cause_protocol, cause_destination, cause_destination_port, assured, seen_reply) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
                )?
                .execute(params![
                    self.tick,
                    milliseconds(event.seen.time),
                    netns,
                    victim,
                    side(&event.victim_owner),
                    cause,
                    side(&event.cause_owner),
                    path.protocol,
                    text(path.source),
                    path.source_port,
                    text(path.destination),
                    path.destination_port,
                    by.protocol,
                    text(by.destination),
                    by.destination_port,
                    event.assured,
                    event.seen_reply
                ])?;
        }
        let kept =
            [detail.drops.events.len(), detail.evictions.events.len()].map(|kept| kept as u64);
        for ((kind, recorded), not_recorded) in (0..).zip(kept).zip(detail.not_recorded()) {
            if recorded + not_recorded > 0 {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO event_count (tick, kind, recorded, not_recorded) VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![self.tick, kind, recorded, not_recorded])?;
            }
        }
        Ok(())
    }
}
