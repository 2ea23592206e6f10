//! Who is on this node.

pub mod cgroup_path;
mod owner;

pub use owner::{Details, Key, Labels, Owner, OwnerKind, Workload};
