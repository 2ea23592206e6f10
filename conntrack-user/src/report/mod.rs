//! What happened: the report of an incident, or of any time, from a journal.
//!
//! * [`incidents`]: where the incidents are;
//! * [`gather`]: reads a journal and makes an [`evidence::Evidence`] of it;
//! * [`reading`]: adds it up; [`demand`]: the limit that would have held;
//! * [`cause`], [`advice`]: rules, each of which sees nothing but that;
//! * [`document`]: the report itself, as [`text`], [`html`] or JSON.

pub mod advice;
pub mod cause;
mod chart;
pub mod cost;
pub mod demand;
pub mod document;
pub mod evidence;
pub mod gather;
pub mod html;
pub mod incidents;
pub mod reading;
mod summary;
pub mod text;
pub mod time;
pub mod timeline;
mod words;

pub use document::Report;

#[cfg(test)]
mod tests;
