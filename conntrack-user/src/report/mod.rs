//! What happened: the report of an incident, or of any time, from a journal.

pub mod demand;
pub mod evidence;
pub mod incidents;
pub mod time;
