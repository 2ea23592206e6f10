//! From the one writer to its readers: the latest snapshot, and events to whoever watches.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use conntrack_ebpf::{
    owner::{Direction, Party, UNKNOWN},
    record::{DropReason, FLAG_CAUSE_KNOWN, FLAG_INGRESS, View},
};
use ctpressure_model::{
    events::{Filter, Kind, Names, OwnersBySlot},
    pressure::destinations::Destinations,
};
use tokio::sync::{broadcast, watch};

use super::{Charged, Snapshot};
use crate::{
    owners::{Services, Sighting},
    sys::lock::locked,
};

mod subscription;

use subscription::InsertWatcher;
pub(crate) use subscription::Subscription;

/// Records that wait for the slowest watcher at most: about 1.5 MB.
const WAITING: usize = 8192;

/// What watchers could not take, and namespaces in events that nobody knows yet.
#[derive(Debug, Default)]
struct HubShared {
    watchers_lost: AtomicU64,
    unknown_netns: AtomicBool,
    unknown_owner: AtomicBool,
    known_netns: Mutex<HashSet<u32>>,
    destinations: Mutex<Destinations>,
    /// How many watch inserts.
    insert_watchers: watch::Sender<usize>,
    services: Arc<Mutex<Services>>,
}

/// The writing side; there is one.
#[derive(Debug)]
pub struct Publisher {
    snapshots: watch::Sender<Arc<Snapshot>>,
    names: watch::Sender<Names>,
    charged: watch::Sender<Arc<Charged>>,
    events: broadcast::Sender<View>,
    shared: Arc<HubShared>,
}

/// The reading side; made as often as needed.
#[derive(Clone, Debug)]
pub struct Handle {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    names: watch::Receiver<Names>,
    charged: watch::Receiver<Arc<Charged>>,
    events: broadcast::WeakSender<View>,
    shared: Arc<HubShared>,
}

/// The agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent has ended")]
pub struct Closed;

/// Both sides: the agent's, and that of its readers.
pub fn channel() -> (Publisher, Handle) {
    let (snapshots, latest) = watch::channel(Arc::new(Snapshot::default()));
    let (names, known) = watch::channel(Names::default());
    let (charged, whose) = watch::channel(Arc::default());
    let (events, _) = broadcast::channel(WAITING);
    let shared = Arc::new(HubShared::default());
    let handle = Handle {
        snapshots: latest,
        names: known,
        charged: whose,
        events: events.downgrade(),
        shared: Arc::clone(&shared),
    };
    (
        Publisher {
            snapshots,
            names,
            charged,
            events,
            shared,
        },
        handle,
    )
}

impl Publisher {
    /// Hands out what is known of one second: once, and it is never changed.
    pub fn publish(&self, snapshot: Snapshot) {
        let mut known = locked(&self.shared.known_netns);
        known.clear();
        known.extend(snapshot.tables.list.iter().map(|table| table.netns));
        drop(known);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// The snapshot that was published last.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Replaces the names of network namespaces and owners in events; these may come between seconds.
    pub fn name(&self, names: Names) {
        self.names.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
    }

    /// Replaces the names of owners only.
    pub fn name_owners(&self, owners: OwnersBySlot) {
        let names = self.names.borrow().clone().with_owners(owners);
        self.name(names);
    }

    /// Replaces by what entries are charged; that may come between seconds.
    pub(crate) fn charge(&self, charged: Charged) {
        self.charged.send_if_modified(|known| {
            let is_new = **known != charged;
            if is_new {
                *known = Arc::new(charged);
            }
            is_new
        });
    }

    /// What hands records to the watchers; costs next to nothing while there are none.
    pub fn sink(&self) -> impl FnMut(&View) + use<> {
        let events = self.events.clone();
        let shared = Arc::clone(&self.shared);
        let mut last = None;
        move |view| {
            let netns = view.header().netns;
            if last != Some(netns) {
                last = Some(netns);
                if !locked(&shared.known_netns).contains(&netns) {
                    shared.unknown_netns.store(true, Ordering::Relaxed);
                }
            }
            note_destination(&shared.destinations, view);
            note_service(&shared.services, view);
            if is_nobodys(view) {
                shared.unknown_owner.store(true, Ordering::Relaxed);
            }
            if events.receiver_count() > 0 {
                // An error says that the last watcher has just left.
                let _: Result<_, _> = events.send(*view);
            }
        }
    }

    /// Whether an event came from a namespace that is not in the snapshot, since last asked.
    pub fn take_unknown_netns(&self) -> bool {
        self.shared.unknown_netns.swap(false, Ordering::Relaxed)
    }

    /// Whether an event was nobody's that is known, since last asked.
    pub fn take_unknown_owner(&self) -> bool {
        self.shared.unknown_owner.swap(false, Ordering::Relaxed)
    }

    /// Where connections go, by owner.
    pub fn destinations(&self) -> MutexGuard<'_, Destinations> {
        locked(&self.shared.destinations)
    }

    /// Who is behind Service addresses.
    pub fn services(&self) -> Arc<Mutex<Services>> {
        Arc::clone(&self.shared.services)
    }

    /// Follows how many watch inserts.
    pub(super) fn insert_watchers(&self) -> watch::Receiver<usize> {
        self.shared.insert_watchers.subscribe()
    }

    /// Records that watchers were too slow to take.
    pub fn watchers_lost(&self) -> u64 {
        self.shared.watchers_lost.load(Ordering::Relaxed)
    }
}

/// Who is charged, by the slot in a record.
fn party(view: &View, owner: u16) -> Party {
    let direction = if view.header().flags & FLAG_INGRESS == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    Party::new(u32::from(owner), direction)
}

/// Adds who answers to what is known of the Service that was asked for.
fn note_service(services: &Mutex<Services>, view: &View) {
    let View::Insert(record) = view else { return };
    let party = party(view, record.origin.owner);
    let netns = record.header.netns;
    if let Some(sighting) = Sighting::of(&record.original, &record.reply, netns, party) {
        locked(services).entered(&sighting);
    }
}

/// Whether a packet was lost for this reason; one of a newer program is taken for one.
fn loses_packet(reason: u8) -> bool {
    DropReason::from_number(reason).is_none_or(DropReason::loses_packet)
}

/// Adds where the event's connection goes to what is known of its owner.
fn note_destination(destinations: &Mutex<Destinations>, view: &View) {
    let flags = view.header().flags;
    let party = |owner: u16| party(view, owner);
    let mut destinations = locked(destinations);
    match view {
        View::Insert(record) => {
            destinations.insert(party(record.origin.owner), &record.original, &record.reply);
        }
        View::Drop(record)
            if flags & FLAG_CAUSE_KNOWN != 0 && loses_packet(record.header.reason) =>
        {
            destinations.dropped(party(record.origin.owner), &record.original);
        }
        View::Drop(_) | View::Eviction(_) => {}
    }
}

/// Whether nobody that is known is charged.
fn is_nobodys(view: &View) -> bool {
    let owner = match view {
        View::Insert(record) => record.origin.owner,
        View::Drop(record) => record.origin.owner,
        View::Eviction(record) => record.victim_owner,
    };
    u32::from(owner) == UNKNOWN
}

impl Handle {
    /// The snapshot that was published last.
    pub fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// By what entries are charged now.
    pub(crate) fn charged(&self) -> Arc<Charged> {
        Arc::clone(&self.charged.borrow())
    }

    /// Follows the snapshots, one a second.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Events from now on.
    ///
    /// # Errors
    /// [`Closed`] after the agent has ended.
    pub fn subscribe(&self, filter: Filter) -> Result<Subscription, Closed> {
        let mut snapshots = self.snapshots.clone();
        let latest = Arc::clone(&snapshots.borrow_and_update());
        let wants_inserts = filter.wants(Kind::Insert);
        Ok(Subscription {
            _inserts: wants_inserts.then(|| InsertWatcher::new(&self.shared)),
            filter,
            events: self.events.upgrade().ok_or(Closed)?.subscribe(),
            snapshots,
            shared: Arc::clone(&self.shared),
            names: self.names.clone(),
            lost: latest.probes.totals.lost,
            clock: super::clock::BootClock::default(),
            told: HashMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use ctpressure_model::{
        events::Event,
        pressure::state::Pressure,
        tests::sample,
        verdict::{Verdict, VerdictKind},
    };
    use tokio::time::timeout;

    use crate::{
        agent::{Probed, Table, Tables},
        probes::{DropTotals, Lost, Totals},
    };

    fn filter(kinds: &[Kind]) -> Filter {
        Filter {
            kinds: kinds.to_vec(),
            ..Filter::default()
        }
    }

    #[tokio::test]
    async fn events_that_pass_arrive_in_order() {
        let (publisher, handle) = channel();
        let mut watcher = handle
            .subscribe(filter(&[Kind::Drop, Kind::Eviction]))
            .expect("the agent runs");
        let mut sink = publisher.sink();
        for view in [sample::insert(), sample::eviction(), sample::icmpv6_drop()] {
            sink(&view);
        }
        let mut events = Vec::new();
        watcher.next(&mut events).await.expect("the agent runs");
        assert!(
            matches!(events.as_slice(), [Event::Eviction(_), Event::Drop(_)]),
            "{events:?}"
        );
    }

    #[tokio::test]
    async fn who_watches_inserts_is_counted_for_as_long_as_he_does() {
        let (publisher, handle) = channel();
        let watchers = publisher.insert_watchers();
        let watch = |kinds: &[Kind]| handle.subscribe(filter(kinds)).expect("the agent runs");
        let _other = watch(&[Kind::Drop, Kind::Eviction]);
        assert_eq!(*watchers.borrow(), 0);
        let first = watch(&[Kind::Insert]);
        let second = watch(&[Kind::Drop, Kind::Insert]);
        assert_eq!(*watchers.borrow(), 2);
        drop(first);
        assert_eq!(*watchers.borrow(), 1);
        drop(second);
        assert_eq!(*watchers.borrow(), 0);
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_how_many_it_lost() {
        let (publisher, handle) = channel();
        let mut watcher = handle
            .subscribe(filter(&[Kind::Drop]))
            .expect("the agent runs");
        let mut sink = publisher.sink();
        let sent = WAITING as u64 + 100;
        for _ in 0..sent {
            sink(&sample::icmpv6_drop());
        }
        let mut events = Vec::new();
        while events.len() < WAITING {
            watcher.next(&mut events).await.expect("the agent runs");
        }
        let lost: u64 = events
            .iter()
            .map(|event| {
                if let Event::Lost(lost) = event {
                    lost.watcher
                } else {
                    0
                }
            })
            .sum();
        let drops = events
            .iter()
            .filter(|event| matches!(event, Event::Drop(_)))
            .count() as u64;
        assert_eq!(lost, 100);
        assert_eq!(lost + drops, sent);
        assert_eq!(publisher.watchers_lost(), 100);
    }

    #[tokio::test]
    async fn of_what_a_table_is_full_is_told_once_for_as_long_as_it_is() {
        let (publisher, handle) = channel();
        let mut watcher = handle
            .subscribe(filter(&[Kind::Drop]))
            .expect("the agent runs");
        let publish = |entries: Option<u64>| {
            let verdicts = entries.map(|entries| Verdict {
                kind: VerdictKind::Held,
                entries,
                of: 1_000,
            });
            let host = Table {
                netns: 1,
                name: "host".to_owned(),
                entries: 1_000,
                pressure: Pressure::Full,
                verdicts: verdicts.into_iter().collect(),
                ..Table::default()
            };
            publisher.publish(Snapshot {
                tables: Tables {
                    list: vec![host],
                    ..Tables::default()
                },
                ..Snapshot::default()
            });
        };
        let mut events = Vec::new();
        for (entries, told) in [(990, 1), (980, 1), (0, 1), (970, 2)] {
            publish(Some(entries).filter(|entries| *entries > 0));
            let next = watcher.next(&mut events);
            // Nothing comes of a second in which there is nothing to tell.
            let _: Result<_, _> = timeout(Duration::from_millis(50), next).await;
            assert_eq!(events.len(), told, "{entries}: {events:?}");
        }
        let Event::Verdict(first) = &events[0] else {
            panic!("{events:?}");
        };
        assert!(
            first
                .advice
                .starts_with("990 of 1,000 entries are in no list"),
            "{first:?}"
        );
    }

    #[tokio::test]
    async fn losses_in_the_kernel_are_told_by_kind() {
        let (publisher, handle) = channel();
        let mut watcher = handle
            .subscribe(filter(&[Kind::Drop]))
            .expect("the agent runs");
        let lost = Lost {
            drop_records: 3,
            drops_not_detailed: 4,
            insert_records: 50,
            ..Lost::default()
        };
        let totals = Totals {
            drops: DropTotals::default(),
            lost,
            ..Totals::default()
        };
        publisher.publish(Snapshot {
            probes: Probed {
                totals,
                ..Probed::default()
            },
            ..Snapshot::default()
        });
        let mut events = Vec::new();
        watcher.next(&mut events).await.expect("the agent runs");
        let [Event::Lost(lost)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(
            (lost.records, lost.drops, lost.drops_not_detailed),
            (7, 3, 4)
        );
        assert_eq!(lost.inserts, 0, "inserts were not asked for");
    }

    #[tokio::test]
    async fn the_end_of_the_agent_ends_the_stream() {
        let (publisher, handle) = channel();
        let mut watcher = handle
            .subscribe(filter(&[Kind::Drop]))
            .expect("the agent runs");
        drop(publisher);
        assert_eq!(watcher.next(&mut Vec::new()).await, Err(Closed));
        assert!(handle.subscribe(filter(&[])).is_err());
    }

    #[test]
    fn an_event_of_an_unknown_namespace_asks_for_a_look() {
        let (publisher, _handle) = channel();
        assert!(!publisher.take_unknown_netns());
        publisher.sink()(&sample::insert());
        assert!(publisher.take_unknown_netns());
        assert!(!publisher.take_unknown_netns());
    }
}
