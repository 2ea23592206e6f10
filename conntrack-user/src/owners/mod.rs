//! Who is on this node, found without asking any API, and which slot each owner has in the kernel's
//! maps.
//!
//! | part | what it does |
//! |---|---|
//! | [`Scanner`] | looks around: control groups, one process of each for its network, `/proc/PID/net` for its addresses, log folders for the pods' names |
//! | [`Notifier`] | says when to look: soon after something began, else every ten seconds |
//! | `table_names` | what each table is called, by whose it is |
//! | [`Slots`] | gives slots, and says what to change in the kernel's maps so that each entry leaves on the account it came on |
//! | `Services` | learns from entries who is behind a Service address, for packets that got none |
//! | `cgroup_path` | what the path of a control group says |
//!
//! The agent's round (`conntrack-user/src/agent/ownership.rs`): wait for the notifier; scan, which blocks, on a thread of its own; give the slots; write their
//! changes in the order of the fields. What is live is read after the changes of the last round were written.
//!
//! An owner is whoever a process was found of: a pod by its UID; a systemd unit that is not a slice
//! (everything below it is its own); a slice with processes of its own; a container outside
//! Kubernetes by its ID; any other control group only if it has a network of its own. A network namespace of none of them that a
//! file keeps by a name (Docker Swarm's `ingress_sbox`) is an owner by that name. Everything else is the host's.
//!
//! Several slots may have the same metric labels: a pod that was made anew under its name has
//! another slot than the one before, as long as that one has entries. Sum them up.

mod addresses;
mod asked;
mod cgroup_path;
mod container_names;
mod discovery;
mod groups;
mod hierarchies;
mod host_addresses;
mod host_side;
mod kept;
pub mod kube;
mod networks;
mod notify;
mod pod_logs;
mod scanner;
mod services;
mod slots;
mod table_names;
mod tree;

pub use ctpressure_model::owner::{Details, Key, Labels, Owner, OwnerKind, Workload};
pub use discovery::Discovery;
#[cfg(test)]
pub(crate) use discovery::FoundOwner;
pub(crate) use discovery::Looks;
pub use notify::Notifier;
pub use scanner::Scanner;
pub(crate) use services::{ServiceCounts, Services, Sighting};
pub(crate) use slots::{FormerHolder, Occupancy, OccupantState, SlotMaps};
pub use slots::{SlotLimits, Slots};
pub(crate) use table_names::{ALL, TableOwner, TableOwners, as_argument, table_names};
