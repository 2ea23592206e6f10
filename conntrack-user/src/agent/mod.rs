//! The agent: keeps the probes attached, samples once a second, and hands out what it knows.
//!
//! There is one writer. Once a second it makes a [`Snapshot`]; whoever wants numbers reads that,
//! and nobody else touches a BPF map. Events go out by [`Handle::subscribe`]: a watcher that is too slow
//! loses some and is told how many; it never slows the agent down.

mod background;
mod drift;
mod hub;
mod memory;
mod near_limit;
mod own;
mod owner_sample;
mod ownership;
mod reconcile;
mod recount;
mod scans;
mod snapshot;
mod supervisor;

pub use background::Background;
pub use hub::{Closed, Handle, Publisher, Subscription, channel};
pub use memory::table_bytes;
pub use own::Own;
pub use owner_sample::{Activity, OwnerSample, OwnerTotals, Tops};
pub use reconcile::{Explained, Reconciler, Unexplained};
pub use recount::Recount;
pub use snapshot::{Drift, KernelInfo, Snapshot, State, Table};
pub use supervisor::{AgentOptions, run};
