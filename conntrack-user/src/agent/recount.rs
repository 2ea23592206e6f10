//! When the agent makes a census, so that its counts by owner are compared with what is in the tables.
//!
//! The first one gives the entries that were there before the counts began. Later ones find
//! addresses whose earlier entries are gone, and correct what does not fit, which should be nothing.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use super::census::{Census, CensusOrder, CensusResult};
use crate::{
    kernel::Root,
    sys::priority,
    walk::{CensusSource, TableWalker, WalkSource},
};

/// How often there is a census.
struct Pace {
    /// Without need.
    every: Duration,
    /// Of the time, at most one part in so many goes into it, unless that would put it off for too long.
    share: u32,
    /// How long it may be put off for what it costs.
    longest: Duration,
}

/// A walk over the hash table takes one in a hundred parts of a core at most (a million entries: well below a second).
const OVER_HASH: Pace = Pace {
    every: Duration::from_secs(10),
    share: 100,
    longest: Duration::from_mins(10),
};
/// What ctnetlink lists costs many times as much.
const BY_LIST: Pace = Pace {
    every: Duration::from_mins(1),
    share: 50,
    longest: Duration::from_mins(1),
};
/// How often there is one while a table is nearly full, and what part of the time may go into it then: who looks at a node in distress
/// wants to know.
const WHILE_FULL: Duration = Duration::from_secs(5);
const SHARE_WHILE_FULL: u32 = 10;
/// A table that has fewer entries than one in so many buckets is looked at once and then at the usual pace: the kernel goes through all
/// empty buckets at one stretch (`ctnetlink_dump_table`), and where it can't be preempted no event is read on that CPU meanwhile
/// (262,144 buckets: 15 million instructions).
const BUCKETS_TO_AN_ENTRY: u64 = 16;
/// How soon there can be another one.
const PAUSE: Duration = Duration::from_secs(1);

/// The last census, for `ctpressure status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Recount {
    /// How many there were.
    pub times: u64,
    /// Seconds that the last one took.
    pub seconds: f64,
    /// The moment at which the last census was over; `None`: there was none yet.
    #[serde(skip)]
    pub ended: Option<Instant>,
    /// Entries that it found.
    pub entries: u64,
    /// Where they came from; `None`: there was none yet.
    pub source: Option<CensusSource>,
    /// Walks over the hash table that began anew so far, since the kernel made another one meanwhile.
    pub restarts: u64,
    /// Owners whose entries are known exactly.
    pub exact_owners: usize,
    /// Owners, the host and nobody included.
    pub owners: usize,
    /// Entries between the bounds of those whose entries are not known exactly, the widest; `None`: of some nothing is known
    /// yet.
    pub widest: Option<u64>,
    /// Entries by which a census was outside of what was known before, so far; 0 unless something was missed.
    pub drift: u64,
}

/// When there is to be a census, and the one that is under way. A new one is due: there has to be a first one, and one
/// again when the counts begin anew.
pub(super) struct Recounter {
    source: WalkSource,
    /// Made for the first census; it is with the one that is under way.
    walker: Option<TableWalker>,
    running: Option<oneshot::Receiver<(CensusResult, TableWalker)>>,
    /// The last one walked over the hash table.
    over_hash: bool,
    ended: Option<Instant>,
    took: Duration,
    /// Which of the tables that are walked in turn is the first of the next one.
    turn: usize,
}

impl Recounter {
    /// For censuses from this source.
    pub(super) const fn new(source: WalkSource) -> Self {
        Self {
            source,
            walker: None,
            running: None,
            over_hash: false,
            ended: None,
            took: Duration::ZERO,
            turn: 0,
        }
    }

    /// Whether one should begin now; `needed`: there is something to find out, `hurried`: a table is full, and it is to be told of what.
    pub(super) fn is_due(&self, needed: bool, hurried: bool) -> bool {
        match (&self.running, self.ended) {
            (Some(_), _) => false,
            (None, None) => true,
            (None, Some(ended)) => {
                let pace = if self.over_hash { &OVER_HASH } else { &BY_LIST };
                let pause = (self.took * pace.share).clamp(PAUSE, pace.longest);
                let pause = if needed { pause } else { pause.max(pace.every) };
                let while_full = (self.took * SHARE_WHILE_FULL).clamp(WHILE_FULL, BY_LIST.every);
                ended.elapsed()
                    >= if hurried {
                        pause.min(while_full)
                    } else {
                        pause
                    }
            }
        }
    }

    /// Begins one, on a thread of its own.
    pub(super) fn begin(&mut self, order: CensusOrder) {
        let (sender, found) = oneshot::channel();
        let (first, source, walker) = (self.turn, self.source, self.walker.take());
        let count = move || {
            let mut walker = walker.unwrap_or_else(|| TableWalker::new(&Root::system(), source));
            let found = Census::new(order).count(&mut walker, first);
            drop(sender.send((found, walker)));
        };
        match priority::thread("census", count) {
            Ok(_) => self.running = Some(found),
            Err(error) => {
                tracing::warn!(%error, "no thread for a census");
                self.ended = Some(Instant::now());
            }
        }
    }

    /// Waits for the one that is under way; never ends while there is none. May be cancelled.
    pub(super) async fn finished(&mut self) -> CensusResult {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        // An error: the thread panicked. As if it had found out nothing.
        let (found, walker) = running.await.map_or_else(
            |_| Default::default(),
            |(found, walker)| (found, Some(walker)),
        );
        self.running = None;
        self.walker = walker;
        self.ended = Some(Instant::now());
        self.took = found.took;
        self.over_hash = matches!(found.source, Some(CensusSource::Hash { .. }));
        self.turn = self.turn.wrapping_add(found.walked.len());
        found
    }
}

/// Whether a table with so many entries may be walked more often than others in a hash of so many buckets.
pub(super) fn fills_its_buckets(entries: u64, buckets: Option<u64>) -> bool {
    buckets.is_some_and(|buckets| entries.saturating_mul(BUCKETS_TO_AN_ENTRY) >= buckets)
}
