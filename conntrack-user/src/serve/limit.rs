//! What `ctpressure limit` shows: one object, of the running agent or of the command's own look.
//!
//! | field | what it is |
//! |---|---|
//! | `limit`, `buckets` | what all tables share; `limit` 0: none |
//! | `table_bytes` | kernel memory of entries and buckets now, without extensions |
//! | `fullest` | `name`, `netns` (inode number) and `entries` of the table with the most |
//! | `controller` | [`Report`]: what it may do, its ceiling and cost, what it waits for, the last changes |
//! | `set` | after `limit set`: what was done, and what was overridden |

use serde::{Deserialize, Serialize};

use crate::{
    agent::{Handle, Snapshot},
    limit::{
        Control, Mode, Report,
        controller::{LimitSet, SetError, SetRequest},
    },
};

/// Bytes of a line at most: as many changes as are kept, with the longest texts.
pub(crate) const LINE_BYTES: u64 = 512 << 10;

/// The table with the most entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Fullest {
    /// Inode number of its network namespace.
    #[serde(default)]
    pub netns: u32,
    pub name: String,
    pub entries: u64,
}

/// What is shown. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LimitView {
    /// Entries that each table may hold; 0: unlimited. `None`: not known.
    pub limit: Option<u64>,
    /// Buckets of the hash that all share.
    pub buckets: Option<u64>,
    pub table_bytes: Option<u64>,
    /// The table with the most entries.
    pub fullest: Option<Fullest>,
    /// What the controller says; `None`: the agent runs without one.
    pub controller: Option<Report>,
    /// What came of `limit set`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Result<LimitSet, SetError>>,
}

impl From<&Snapshot> for LimitView {
    fn from(snapshot: &Snapshot) -> Self {
        let fullest = snapshot
            .tables
            .list
            .iter()
            .max_by_key(|table| table.entries);
        Self {
            limit: snapshot.tables.limit,
            buckets: snapshot.tables.buckets,
            table_bytes: snapshot.tables.table_bytes,
            fullest: fullest.map(|table| Fullest {
                netns: table.netns,
                name: table.name.clone(),
                entries: table.entries,
            }),
            ..Self::default()
        }
    }
}

/// Serves a request. A limit is set only by a controller that may act: else the caller has to do it.
pub(crate) async fn answer(
    set: Option<SetRequest>,
    agent: &Handle,
    controller: Option<&Control>,
) -> LimitView {
    let acts = controller.filter(|control| control.settings().mode == Mode::On);
    let set = match (set, acts) {
        (Some(set), Some(control)) => Some(control.set(set).await),
        _ => None,
    };
    let mut view = LimitView::from(&*agent.latest());
    if let Some(control) = controller {
        view.controller = Some((*control.report()).clone());
    }
    if let Some(Ok(done)) = &set
        && let Some(change) = done.changes.last()
    {
        view.limit = Some(change.after.limit);
        view.buckets = Some(change.after.buckets);
    }
    view.set = set;
    view
}
