//! What is to be said of pods: which one holds most of a full table, and which lose packets. Pure.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Duration,
};

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    kubernetes::{About, Notice, Severity},
    pressure::{as_f64, state::Pressure},
    words::{a_second, grouped, seconds, share},
};

use super::bucket::Bucket;
use crate::{
    agent::{OwnerSample, Snapshot},
    owners::{Key, OwnerKind},
};

/// How long something lasts before it is said: figures of ten seconds tell more than those of one, and most trouble
/// that is over sooner is over before anybody looks.
const GATHER: Duration = Duration::from_secs(10);
/// How soon the same is said again of the same pod. Less than the six minutes for which `kube` counts up an Event.
const AGAIN: Duration = Duration::from_mins(5);
/// From which part of the limit on a pod holds most of a table, as the alert `CtpressureOneOwnerHoldsTable` has it.
const MOST: f64 = 0.5;
/// Where the host's table is not full but that of some network namespace is, only who holds so much can have filled it.
const OWN: f64 = 0.9;
/// Clashes come now and then on any busy node; fewer than this within [`AGAIN`] are not said.
const CLASHES: u64 = 10;
/// Events on pods: so many at once, then one each ...
const AT_ONCE: u32 = 20;
/// ... so often: 240 an hour, however many pods lose packets.
const EVERY: Duration = Duration::from_secs(15);

/// The reasons that are told apart.
const REASONS: [DropReason; 3] = [
    DropReason::TableFull,
    DropReason::ChainTooLong,
    DropReason::Clash,
];

/// Packets of a pod that were lost, by [`REASONS`].
type Losses = [u64; REASONS.len()];

/// Something that lasts, and when it was said.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    since: Option<Duration>,
    told: Option<Duration>,
}

impl Course {
    /// Whether it is to be said now.
    fn is_due(&self, at: Duration) -> bool {
        let after = |time: Option<Duration>, pause: Duration| {
            time.is_some_and(|time| at.saturating_sub(time) >= pause)
        };
        after(self.since, GATHER) && (self.told.is_none() || after(self.told, AGAIN))
    }
}

/// What was said of one pod.
#[derive(Clone, Debug, Default)]
struct Told {
    holds: Course,
    loses: Course,
    /// What it had lost when that was last said, or began to be counted.
    lost: Losses,
}

/// Follows the pods of a node.
#[derive(Debug)]
pub(super) struct Pods {
    node: String,
    told: HashMap<Key, Told>,
    bucket: Bucket,
}

impl Pods {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            told: HashMap::new(),
            bucket: Bucket::new(AT_ONCE, EVERY),
        }
    }

    /// What is to be said after this snapshot. What has to wait for the rate stays as it is and is said later, with
    /// all that has come to it until then.
    pub(super) fn next(&mut self, at: Duration, snapshot: &Snapshot) -> Vec<Notice> {
        let full = Full::of(snapshot);
        let pods: Vec<&OwnerSample> = snapshot
            .owners
            .list
            .iter()
            .filter(|sample| sample.owner.kind == OwnerKind::Pod)
            .collect();
        let there: HashSet<Key> = pods.iter().map(|sample| sample.owner.key()).collect();
        self.told.retain(|key, _| there.contains(key));
        let mut due = Vec::new();
        for sample in pods {
            let told = self.told.entry(sample.owner.key()).or_default();
            let holds = sample.present && full.is_held_by(sample);
            told.holds.since = holds.then(|| told.holds.since.unwrap_or(at));
            let new = told.count(at, losses(sample));
            // Nobody could find it without its name; it is soon known.
            if sample.owner.pod.is_empty() {
                continue;
            }
            if told.holds.is_due(at) {
                due.push((Reverse((true, sample.live())), sample, None));
            }
            if told.loses.is_due(at) && is_worth_it(new) {
                due.push((Reverse((false, new.iter().sum::<u64>())), sample, Some(new)));
            }
        }
        // Who fills a table first, then who loses most.
        due.sort_by_key(|(order, ..)| *order);
        let mut notices = Vec::new();
        for (_, sample, new) in due {
            if !self.bucket.take(at) {
                break;
            }
            let Some(told) = self.told.get_mut(&sample.owner.key()) else {
                continue;
            };
            notices.push(match new {
                None => {
                    told.holds.told = Some(at);
                    holder(&self.node, sample, &full)
                }
                Some(new) => {
                    let since = told.loses.since.take().unwrap_or(at);
                    told.loses.told = Some(at);
                    told.lost = losses(sample);
                    loser(&self.node, sample, new, at.saturating_sub(since), &full)
                }
            });
        }
        notices
    }
}

impl Told {
    /// Packets lost since that was last said; whether there is anything to be said follows from it.
    fn count(&mut self, at: Duration, lost: Losses) -> Losses {
        let mut new = Losses::default();
        for ((new, lost), was) in new.iter_mut().zip(lost).zip(self.lost) {
            *new = lost.saturating_sub(was);
        }
        if new == Losses::default() {
            self.loses.since = None;
            return new;
        }
        let since = *self.loses.since.get_or_insert(at);
        if !is_worth_it(new) && at.saturating_sub(since) >= AGAIN {
            self.lost = lost;
            self.loses.since = None;
        }
        new
    }
}

const fn is_worth_it([table_full, chain, clash]: Losses) -> bool {
    table_full + chain > 0 || clash >= CLASHES
}

/// The tables that are full.
struct Full<'a> {
    limit: u64,
    /// Who holds what is counted.
    counted: bool,
    host: bool,
    tables: Vec<&'a str>,
    /// The pods that hold most of one, by namespace and name.
    holders: Vec<(&'a str, &'a str)>,
}

impl<'a> Full<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let full = snapshot
            .tables
            .list
            .iter()
            .filter(|table| table.pressure == Pressure::Full);
        let tables: Vec<&str> = full.map(|table| table.name.as_str()).collect();
        let mut this = Self {
            limit: snapshot.tables.limit.unwrap_or_default(),
            counted: snapshot.probes.totals.flow().is_some(),
            host: tables.contains(&"host"),
            tables,
            holders: Vec::new(),
        };
        let pods = snapshot.owners.list.iter().filter(|sample| {
            sample.present && sample.owner.kind == OwnerKind::Pod && this.is_held_by(sample)
        });
        this.holders = pods
            .map(|sample| (sample.owner.namespace.as_str(), sample.owner.pod.as_str()))
            .collect();
        this
    }

    /// Whether this owner holds most of one of them.
    fn is_held_by(&self, sample: &OwnerSample) -> bool {
        let least = if self.host { MOST } else { OWN };
        !self.tables.is_empty()
            && self.counted
            && self.limit > 0
            && as_f64(sample.live()) >= least * as_f64(self.limit)
    }
}

fn losses(sample: &OwnerSample) -> Losses {
    let sum = sample.egress + sample.ingress;
    REASONS.map(|reason| sum.dropped(reason))
}

fn warning(sample: &OwnerSample, reason: &'static str, action: &'static str, note: &str) -> Notice {
    let about = About::Pod {
        namespace: sample.owner.namespace.clone(),
        name: sample.owner.pod.clone(),
        uid: sample.owner.uid.clone(),
    };
    Notice::new(about, Severity::Warning, reason, action, note)
}

fn holder(node: &str, sample: &OwnerSample, full: &Full<'_>) -> Notice {
    let live = sample.live();
    let opens = sample.activity.inserts_per_second.ten_seconds;
    let text = format!(
        "This pod holds {} of the {} entries that a conntrack table of node {node} may have ({}), and it is full: \
         new connections {}fail. It opens {}.",
        grouped(live),
        grouped(full.limit),
        share(live, full.limit),
        if full.host {
            "of every pod there may "
        } else {
            ""
        },
        a_second(opens.unwrap_or_default(), "connection", "connections"),
    );
    warning(sample, "ConntrackTableHeld", "FillTable", &text)
}

fn loser(
    node: &str,
    sample: &OwnerSample,
    [table_full, chain, clash]: Losses,
    within: Duration,
    full: &Full<'_>,
) -> Notice {
    let parts = [
        (
            table_full,
            format!("the conntrack table is full{}", who(sample, full)),
        ),
        (
            chain,
            "a hash chain of the conntrack table is too long".to_owned(),
        ),
        (
            clash,
            "their conntrack entry clashes with another one".to_owned(),
        ),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, why)| format!("{} because {why}", grouped(number)))
        .collect();
    let text = format!(
        "Node {node} dropped packets of this pod, within {}: {}.",
        seconds(within.as_secs().max(1)),
        parts.join(", ")
    );
    warning(sample, "ConntrackPacketsDropped", "DropPackets", &text)
}

/// Who holds most of the table, as far as those who may read this pod's Events may know: names of pods of other
/// namespaces are none of their business.
fn who(sample: &OwnerSample, full: &Full<'_>) -> String {
    let (namespace, name) = (sample.owner.namespace.as_str(), sample.owner.pod.as_str());
    let said = |holder: &(&str, &str)| match *holder {
        holder if holder == (namespace, name) => "this pod itself".to_owned(),
        (of, pod) if of == namespace => format!("pod {pod}"),
        _ => "a pod of another namespace".to_owned(),
    };
    let holder = full.holders.first().map(said);
    holder.map_or_else(String::new, |holder| {
        format!(" ({holder} holds most of it)")
    })
}
