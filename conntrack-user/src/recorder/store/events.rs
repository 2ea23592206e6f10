//! Writing drops and evictions: those that are kept with their detail, and how many flows they were of.

use ctpressure_journal::{Loss, milliseconds};
use ctpressure_model::events::{Tuple, Who};

use super::{insert::insert, rows::Writing};
use crate::recorder::second::Second;

/// Source and destination with their ports, as columns.
#[derive(Default)]
struct Columns {
    source: Option<String>,
    source_port: Option<u16>,
    destination: Option<String>,
    destination_port: Option<u16>,
}

impl Columns {
    fn new(tuple: Option<&Tuple>) -> Self {
        let Some(tuple) = tuple else {
            return Self::default();
        };
        let icmp = tuple.icmp_type.zip(tuple.icmp_code);
        let icmp = icmp.map(|(kind, code)| u16::from_be_bytes([kind, code]));
        Self {
            source: Some(tuple.source.to_string()),
            source_port: tuple.source_port.or(tuple.icmp_id),
            destination: Some(tuple.destination.to_string()),
            destination_port: tuple.destination_port.or(icmp),
        }
    }
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
            let netns = self.netns(event.seen.netns, &event.seen.netns_name)?;
            let path = Columns::new(event.original.as_ref());
            insert!(self.transaction, "INSERT" drop_event {
                tick: self.tick,
                at: milliseconds(event.seen.time),
                netns: netns,
                reason: event.reason.name(),
                owner: owner,
                direction: side(&event.owner),
                protocol: event.seen.protocol,
                source: path.source,
                source_port: path.source_port,
                destination: path.destination,
                destination_port: path.destination_port,
                zone: event.origin.zone,
                ifindex: event.origin.ifindex,
                cgroup: event.origin.cgroup.map(u64::cast_signed),
            })?;
        }
        for event in &detail.evictions.events {
            let victim = self.owner(&second.parties.owner(&event.victim_owner))?;
            let cause = self.owner(&second.parties.owner(&event.cause_owner))?;
            let netns = self.netns(event.seen.netns, &event.seen.netns_name)?;
            let path = Columns::new(event.victim.as_ref());
            let by = Columns::new(event.cause.as_ref());
            insert!(self.transaction, "INSERT" eviction_event {
                tick: self.tick,
                at: milliseconds(event.seen.time),
                netns: netns,
                victim: victim,
                victim_direction: side(&event.victim_owner),
                cause: cause,
                cause_direction: side(&event.cause_owner),
                protocol: event.seen.protocol,
                source: path.source,
                source_port: path.source_port,
                destination: path.destination,
                destination_port: path.destination_port,
                cause_protocol: event.cause_protocol,
                cause_destination: by.destination,
                cause_destination_port: by.destination_port,
                assured: event.assured,
                seen_reply: event.seen_reply,
            })?;
        }
        let kept =
            [detail.drops.events.len(), detail.evictions.events.len()].map(|kept| kept as u64);
        for ((kind, recorded), not_recorded) in (0..).zip(kept).zip(detail.not_recorded()) {
            if recorded + not_recorded > 0 {
                insert!(self.transaction, "INSERT" event_count {
                    tick: self.tick,
                    kind: kind,
                    recorded: recorded,
                    not_recorded: not_recorded,
                })?;
            }
        }
        Ok(())
    }
}
