//! What the agent answers: HTTP for monitoring systems (`http`), where whoever asks may be a stranger, and the local socket for its own
//! command line ([`socket`]), where only root asks; and what it tells systemd.

mod allowances;
pub(crate) mod charged;
mod companions;
pub(crate) mod containments;
mod family;
pub(crate) mod http;
mod life;
pub(crate) mod limit;
pub(crate) mod metrics;
mod node_exporter;
pub mod socket;
mod status;
mod systemd;
pub(crate) mod top;

pub(crate) use allowances::AllowanceWatch;
pub(crate) use companions::CompanionStatus;
pub use companions::Companions;
pub(crate) use status::StatusPage;
pub(crate) use systemd::ServiceManager;
