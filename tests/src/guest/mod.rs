//! The handles of a scenario on the machine that it runs on.

pub mod agent;
pub mod backends;
pub mod bpf;
pub mod busy;
pub mod checks;
pub mod command;
pub mod confinement;
pub mod entries;
pub mod generator;
pub mod kernel;
pub mod net;
pub mod nfqueue;
pub mod owned;
pub mod prom;
pub mod unit;
pub mod watch;
