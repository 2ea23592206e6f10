//! What the agent answers: HTTP for monitoring systems ([`http`]), and the local socket for its own
//! command line ([`socket`]).

pub mod http;
pub mod limit;
pub mod metrics;
pub mod names;
mod node_exporter;
pub mod socket;
mod status;
pub mod top;

pub use status::Status;
