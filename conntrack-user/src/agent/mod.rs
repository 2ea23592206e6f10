//! The agent: keeps the probes attached, samples once a second, and hands out what it knows.
//!
//! There is one writer. Once a second it makes a [`Snapshot`]; whoever wants numbers reads that,
//! and nobody else touches a BPF map, but for `ctpressure table`, which reads tags of entries (`Charged`). Events go out by `Handle::subscribe`: a watcher that is too slow
//! loses some and is told how many; it never slows the agent down.

mod background;
mod census;
mod charged;
mod clock;
mod drift;
mod hub;
mod nat;
mod near_limit;
mod own;
mod owner_sample;
mod ownership;
mod reconcile;
mod recount;
mod scans;
mod self_check;
mod snapshot;
mod states;
mod supervisor;
mod verdicts;

pub(crate) use background::Background;
pub(crate) use charged::Charged;
pub use hub::channel;
pub(crate) use hub::{Closed, Handle, Publisher, Subscription};
pub(crate) use nat::{NatTold, PortsUsed};
pub(crate) use own::Own;
pub use owner_sample::{Activity, OwnerSample, OwnerTotals, Tops};
pub use ownership::Bounds;
pub(crate) use reconcile::{LossCounts, NodeLosses, Reconciler, Uncharged};
pub(crate) use recount::Recount;
pub use self_check::{Moved, SelfCheck};
pub use snapshot::{AgentState, Owners, Snapshot, Table, Tables};
pub(crate) use snapshot::{Capabilities, Drift, KernelInfo, Probed};
pub(crate) use states::{NodeStates, StateEntries};
pub(crate) use supervisor::{AgentOptions, run};
