//! The journal: the flight recorder of one node.
//!
//! One `SQLite` database, so that anyone can copy it off the node and query it with tools they know;
//! `schema.sql` is its documentation, `README.md` has queries to begin with.

mod copying;
mod database;
mod detail;
mod error;
mod facts;
mod health;
mod known_flows;
mod loss;
mod reader;
mod record;
mod recorder;
mod second;
mod store;
mod writer;

pub use database::{APPLICATION_ID, FILE_NAME, VERSION};
pub use error::JournalError;
pub use health::{Health, JournalStatus};
pub use loss::{Loss, Losses, packets};
pub use reader::{Reader, Recording};
pub use record::{
    ChangeResult, ChangedBy, Coverage, DestinationSum, DestinationsOf, DropRow, EventCount,
    EvictionRow, Fact, KernelPoint, Life, LimitChange, NetnsId, OwnerId, OwnerPoint, OwnerSum,
    Path, RecordedNetns, RecordedOwner, Run, TablePoint, TotalPoint, What,
};
pub use recorder::{Journal, JournalOptions, JournalQueue};
pub use store::Bounds;

#[cfg(test)]
mod tests;
