//! Which drops and evictions are kept when there are more than there is room for: all those of some
//! flows, and none of the others.
//!
//! A packet that is refused is sent again, and a report has to tell a thousand flows from one that was
//! refused a thousand times. Among events that are picked at random most repetitions look like flows of
//! their own; among all the events of every eighth flow each repetition is seen as one. So an owner that
//! has more events than fit gets a smaller part of its flows, by a hash of the tuple, each time half of
//! the part before: what is kept is always all there is of the flows that are left.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, SystemTime},
};

use super::detail::MOST;
use crate::events::{DropEvent, EvictionEvent, Tuple, Who};

/// Of those that a tick keeps, events that are charged to one owner: the one that storms must not hide
/// the others.
const MOST_OF_ONE: usize = 48;
/// After this long without an event all flows of an owner are kept again,
const CALM: Duration = Duration::from_mins(1);
/// and after this long in any case: a trickle should not be seen through the sieve of a storm.
const RENEWED: Duration = Duration::from_mins(10);
/// Owners whose parts are remembered.
const MOST_OWNERS: usize = 256;
/// The smallest part of the flows is one of 2 to the power of this.
const SMALLEST: u32 = 32;

/// Which flows are kept, by kind of event.
#[derive(Debug, Default)]
pub(super) struct SameFlows {
    pub(super) drops: Parts,
    pub(super) evictions: Parts,
}

/// Which part of its flows is kept of each owner.
#[derive(Debug, Default)]
pub(super) struct Parts {
    hash: RandomState,
    owners: HashMap<Who, Part>,
}

/// One owner's.
#[derive(Debug)]
struct Part {
    /// One of 2 to the power of this is kept.
    halvings: u32,
    /// Its first event since then is kept whatever its flow: it says when it began.
    first: SystemTime,
    last: SystemTime,
}

/// What an event tells of its flow.
pub(super) trait OfFlow {
    /// Whom it is charged to.
    fn owner(&self) -> &Who;
    /// When it was.
    fn at(&self) -> SystemTime;
    /// Protocol and tuple, if they are known.
    fn flow(&self) -> Option<(Option<&str>, &Tuple)>;
}

impl OfFlow for DropEvent {
    fn owner(&self) -> &Who {
        &self.owner
    }

    fn at(&self) -> SystemTime {
        self.seen.time
    }

    fn flow(&self) -> Option<(Option<&str>, &Tuple)> {
        Some((self.seen.protocol.as_deref(), self.original.as_ref()?))
    }
}

impl OfFlow for EvictionEvent {
    fn owner(&self) -> &Who {
        &self.victim_owner
    }

    fn at(&self) -> SystemTime {
        self.seen.time
    }

    fn flow(&self) -> Option<(Option<&str>, &Tuple)> {
        Some((self.seen.protocol.as_deref(), self.victim.as_ref()?))
    }
}

impl Parts {
    /// Adds the event to those of this second, or not; how many events that are not kept this makes.
    pub(super) fn add<E: OfFlow>(&mut self, kept: &mut Vec<E>, event: E) -> u64 {
        self.seen(event.owner(), event.at());
        if !self.has(&event) {
            return 1;
        }
        kept.push(event);
        let mut left = 0;
        while let Some(owner) = too_many(kept) {
            let before = kept.len();
            let Some(first) = self.halve(&owner) else {
                kept.pop();
                left += 1;
                break;
            };
            let mut begin = false;
            kept.retain(|event| {
                *event.owner() != owner
                    || self.has(event)
                    || (event.at() == first && !std::mem::replace(&mut begin, true))
            });
            left += before - kept.len();
        }
        left as u64
    }

    /// Something of this owner is seen; if nothing was for long, all of its flows are kept again.
    fn seen(&mut self, owner: &Who, at: SystemTime) {
        let since = |then: SystemTime| at.duration_since(then).unwrap_or_default();
        if let Some(part) = self.owners.get_mut(owner) {
            if since(part.last) >= CALM || since(part.first) >= RENEWED {
                part.halvings = 0;
                part.first = at;
            }
            part.last = at;
            return;
        }
        if self.owners.len() >= MOST_OWNERS {
            let oldest = self.owners.iter().min_by_key(|(_, part)| part.last);
            if let Some(oldest) = oldest.map(|(owner, _)| owner.clone()) {
                self.owners.remove(&oldest);
            }
        }
        let part = Part {
            halvings: 0,
            first: at,
            last: at,
        };
        self.owners.insert(owner.clone(), part);
    }

    /// Whether its flow is in its owner's part. One that is not known is only while all are.
    fn has(&self, event: &impl OfFlow) -> bool {
        let part = self.owners.get(event.owner());
        part.is_none_or(|part| {
            let hash = || self.hash.hash_one(event.flow());
            part.halvings == 0
                || (event.flow().is_some() && hash().leading_zeros() >= part.halvings)
        })
    }

    /// Half of the owner's flows are not kept any more, but for its first event: when that was. `None` if
    /// there can't be fewer.
    fn halve(&mut self, owner: &Who) -> Option<SystemTime> {
        let part = self.owners.get_mut(owner);
        let part = part.filter(|part| part.halvings < SMALLEST)?;
        part.halvings += 1;
        Some(part.first)
    }
}

/// The owner that has too many of these: more than one may have, or most of more than fit.
fn too_many<E: OfFlow>(kept: &[E]) -> Option<Who> {
    let of = |owner: &Who| kept.iter().filter(|event| event.owner() == owner).count();
    let newest = kept.last()?.owner();
    if of(newest) > MOST_OF_ONE {
        return Some(newest.clone());
    }
    let owners = kept.iter().map(OfFlow::owner);
    (kept.len() > MOST)
        .then(|| owners.max_by_key(|owner| of(owner)))
        .flatten()
        .cloned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::events::{Origin, Seen};

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000 + milliseconds)
    }

    fn refused(pod: &str, port: u16, milliseconds: u64) -> DropEvent {
        DropEvent {
            reason: "table_full".to_owned(),
            seen: Seen {
                time: at(milliseconds),
                netns: 1,
                netns_name: "host".to_owned(),
                cpu: 0,
                weight: 1,
                protocol: Some("tcp".to_owned()),
            },
            owner: Who {
                kind: "pod".to_owned(),
                namespace: "shop".to_owned(),
                pod: pod.to_owned(),
                workload: String::new(),
                unit: String::new(),
                direction: "egress".to_owned(),
            },
            original: (port > 0).then(|| Tuple {
                source: [10, 88, 0, 2].into(),
                source_port: Some(port),
                destination: [10, 96, 0, 1].into(),
                destination_port: Some(80),
                icmp_id: None,
                icmp_type: None,
                icmp_code: None,
            }),
            reply: None,
            origin: Origin {
                zone: 0,
                ifindex: None,
                cgroup: None,
            },
        }
    }

    fn ports(kept: &[DropEvent]) -> Vec<u16> {
        let ports = kept.iter().filter_map(|event| event.original.as_ref());
        ports.filter_map(|tuple| tuple.source_port).collect()
    }

    #[test]
    fn all_of_few() {
        let (mut parts, mut kept) = (Parts::default(), Vec::new());
        for port in 1..=48 {
            assert_eq!(parts.add(&mut kept, refused("a", port, 0)), 0);
        }
        assert_eq!(kept.len(), 48);
    }

    #[test]
    fn each_repetition_of_a_part_of_the_flows() {
        let mut parts = Parts::default();
        let mut counts: HashMap<u16, usize> = HashMap::new();
        let (mut not_kept, mut last) = (0, HashSet::new());
        for round in 0..4_u64 {
            // What comes in a second: 2,000 flows, each once, the second halved in its course.
            let mut kept = Vec::new();
            for port in 1..=2_000_u16 {
                let event = refused("a", port, round * 1_000 + u64::from(port % 900) + 1);
                not_kept += parts.add(&mut kept, event);
            }
            assert!(kept.len() <= MOST_OF_ONE);
            last = ports(&kept).into_iter().collect();
            for port in ports(&kept) {
                *counts.entry(port).or_default() += 1;
            }
        }
        assert_eq!(counts.values().sum::<usize>() as u64 + not_kept, 8_000);
        // From the first second on there were no new ones, and what is kept to the end was from the first.
        assert!(last.len() >= 12, "{last:?}");
        assert!(last.iter().filter(|port| counts[port] < 4).count() <= 1);
    }

    #[test]
    fn a_storm_hides_nobody_and_the_first_is_kept() {
        let (mut parts, mut kept) = (Parts::default(), Vec::new());
        let mut not_kept = 0;
        for port in 1..=5_000 {
            not_kept += parts.add(&mut kept, refused("storm", port, u64::from(port)));
            if port % 1_000 == 0 {
                not_kept += parts.add(&mut kept, refused("victim", port, u64::from(port)));
            }
        }
        assert_eq!(kept.len() as u64 + not_kept, 5_005);
        assert_eq!(kept[0].original, refused("storm", 1, 0).original);
        let victims = kept.iter().filter(|event| event.owner.pod == "victim");
        assert_eq!(victims.count(), 5);
    }

    #[test]
    fn many_owners_share_the_room() {
        let (mut parts, mut kept) = (Parts::default(), Vec::new());
        let mut not_kept = 0;
        for port in 1..=1_000 {
            let pod = format!("pod-{}", port % 300);
            not_kept += parts.add(&mut kept, refused(&pod, port, u64::from(port)));
        }
        assert!(kept.len() <= MOST);
        assert_eq!(kept.len() as u64 + not_kept, 1_000);
        assert!(parts.owners.len() <= MOST_OWNERS);
    }

    #[test]
    fn packets_that_are_not_known_leave_room_for_those_that_are() {
        let (mut parts, mut kept) = (Parts::default(), Vec::new());
        for millisecond in 1..=500 {
            parts.add(&mut kept, refused("a", 0, millisecond));
        }
        kept.clear();
        for port in 1..=1_000 {
            parts.add(&mut kept, refused("a", 0, 1_000));
            parts.add(&mut kept, refused("a", port, 1_000));
        }
        assert!(ports(&kept).len() >= 12, "{}", kept.len());
    }

    #[test]
    fn after_a_calm_all_are_kept_again() {
        let (mut parts, mut kept) = (Parts::default(), Vec::new());
        for port in 1..=1_000 {
            parts.add(&mut kept, refused("a", port, 0));
        }
        kept.clear();
        for port in 1..=40 {
            let event = refused("a", port, 61_000 + u64::from(port));
            assert_eq!(parts.add(&mut kept, event), 0);
        }
    }
}
