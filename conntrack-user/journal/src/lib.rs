//! The journal: the flight recorder of one node. Here is its format, and what reads it; the agent's
//! recorder writes it.
//!
//! One `SQLite` database, so that anyone can copy it off the node and query it with tools they know;
//! `schema.sql` is its documentation, `README.md` has queries to begin with. Nothing here is of Linux: a
//! copy is read on any system.

#![forbid(unsafe_code)]

pub mod database;
mod error;
mod loss;
mod reader;
mod record;

/// Which destinations are meant: `destination.what`.
pub use ctpressure_model::pressure::destinations::What;
pub use database::{APPLICATION_ID, FILE_NAME, VERSION};
pub use error::JournalError;
pub use loss::{Loss, Losses};
pub use reader::{Reader, Recording, milliseconds, seconds, time};
pub use record::{
    ChangeResult, ChangedBy, Coverage, DestinationSum, DestinationsOf, DropRow, EventCount,
    EvictionRow, Fact, KernelGrowth, KernelPoint, Life, LimitChange, NetnsId, OwnerId, OwnerPoint,
    OwnerSum, Path, RecordedNetns, Run, TablePoint, TotalPoint,
};

/// How the name of a [`Fact`] begins that says how many packets the instance has dropped beyond an allowance, as the driver of an interface counts them:
/// then comes the interface, a dot, and the allowance, such as `eth0.conntrack`.
pub const ALLOWANCE_EXCEEDED: &str = "allowance_exceeded.";
