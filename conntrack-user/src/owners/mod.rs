//! Who is on this node.

pub mod cgroup_path;
mod discovery;
mod owner;
mod slots;

pub use discovery::{Discovery, Found};
pub use owner::{Details, Key, Labels, Owner, OwnerKind, Workload};
pub use slots::{Changes, Limits, MapChanges, Maps, Occupancy, Occupant, Slots, State};
