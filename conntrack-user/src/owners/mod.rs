//! Who is on this node.

mod addresses;
pub mod cgroup_path;
mod discovery;
mod groups;
mod hierarchies;
mod networks;
mod owner;
mod pod_logs;
mod scanner;
mod slots;
mod tree;

pub use discovery::{Discovery, Found};
pub use owner::{Details, Key, Labels, Owner, OwnerKind, Workload};
pub use scanner::Scanner;
pub use slots::{Changes, Limits, MapChanges, Maps, Occupancy, Occupant, Slots, State};
