//! All that speaks to the Kubernetes API: the way there, the list of agents, and commands in their containers.

mod connection;
mod crowd;
mod exec;
mod list;
mod progress;
mod stream;

pub(crate) use connection::connect;
pub(crate) use crowd::{Asked, Crowd};
pub(crate) use list::list;
pub(crate) use stream::{Line, follow};
