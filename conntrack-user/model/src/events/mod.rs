//! What a ring record means to a person or a script.
//!
//! * [`Event`]: the printable form of a record, with its JSON contract;
//! * [`text`]: one line for people;
//! * [`Filter`]: which records somebody wants to see;
//! * [`Who`]: the owner that an event is charged to;
//! * [`Names`]: what turns the kernel's numbers into names.

mod event;
mod filter;
mod reason;
pub mod text;
mod who;

pub use event::{
    DropEvent, Event, EvictionEvent, InsertEvent, LostEvent, Names, Occurrence, Origin, Tuple,
    VerdictEvent,
};
pub use filter::{Filter, Kind, Netns, UnknownProtocol, parse_network, parse_protocol};
pub use reason::Reason;
pub use who::{OwnersBySlot, Who, direction_name};
