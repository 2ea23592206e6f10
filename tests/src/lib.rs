//! End-to-end scenarios and their traffic generator.
//!
//! * [`traffic`]: what `ctgen` does: new flows of chosen tuples, counted to the entry;
//! * [`guest`]: the handles of a scenario on the machine that it runs on: the agent, the kernel's
//!   own counts, network namespaces, metrics, the event stream;
//! * [`schemas`]: the JSON of each `-o json`, and what it may be;
//! * [`documents`]: the documents of the project, and the command lines in them;
//! * [`containers`]: pods by a real container runtime;
//! * [`scenarios`]: what has to hold, one function for each;
//! * [`torture`]: everything at once, by chance;
//! * [`busy_node`]: what a census costs, and a start with a million entries;
//! * [`agent_cost`]: what the agent itself costs, beside `node_exporter`.
//!
//! Scenarios change sysctls, load modules and fill tables, so they run in a guest only
//! (`cargo xtask vm`); the unit tests of this package run anywhere.

pub mod agent_cost;
pub mod busy_node;
pub mod containers;
pub mod documents;
pub mod guest;
pub mod scenarios;
pub mod schemas;
pub mod torture;
pub mod traffic;
