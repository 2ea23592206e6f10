//! What happened: the report of an incident, or of any time, from a journal.
//!
//! * `incidents`: where the incidents are;
//! * `gather`: reads a journal and makes an [`evidence::Evidence`] of it;
//! * `reading`: adds it up; `demand`: the limit that would have held;
//! * `cause`, `advice`: rules, each of which sees nothing but that;
//! * `document`: the report itself, as [`text`], `html` or JSON;
//! * [`ReportCommand`]: the command line of it.
//!
//! Nothing here is of Linux: a journal is read where it was copied to.

#![forbid(unsafe_code)]

mod advice;
mod cause;
mod chart;
mod command;
mod demand;
mod document;
pub mod evidence;
mod file;
mod gather;
mod html;
mod incidents;
pub mod page;
mod reading;
mod summary;
pub mod text;
mod timeline;

pub use command::ReportCommand;
pub use document::Report;
pub use file::write_whole;

#[cfg(test)]
mod tests;
