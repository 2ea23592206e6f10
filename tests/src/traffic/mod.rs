//! New flows of chosen tuples, and exact counts of what the kernel said to each.

pub mod bench;
pub mod flow;
pub mod packet;
pub mod race;
pub mod send;
pub mod sockets;
pub mod tally;
pub mod worker;
