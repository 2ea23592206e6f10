//! What a ring record means to a person or a script.
//!
//! * [`Event`]: the printable form of a record, with its JSON contract;
//! * [`text`]: one line for people;
//! * [`Filter`]: which records somebody wants to see;
//! * [`Who`]: the owner that an event is charged to;
//! * [`Clock`] and [`Names`]: what turns the kernel's numbers into times and names.

mod clock;
mod event;
mod filter;
mod protocol;
#[cfg(test)]
pub(crate) mod sample;
pub mod text;
mod who;

pub use clock::Clock;
pub use event::{
    DropEvent, Event, EvictionEvent, InsertEvent, LostEvent, Names, Origin, Seen, Tuple,
};
pub use filter::{Filter, Kind, Netns, UnknownProtocol, parse_network, parse_protocol};
pub use protocol::{is_icmp, protocol_name, protocol_number};
pub use who::{OwnersBySlot, Who, direction_name};
