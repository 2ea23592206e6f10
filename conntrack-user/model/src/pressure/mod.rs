//! How full, since when, by whom, for how long: pure functions over samples. No input or output, no
//! clock: times are passed in.
//!
//! * [`state`]: the state of a table: calm, rising, high, full;
//! * [`rate`]: rates over a second, ten seconds and a minute, from counters;
//! * [`lifetime`]: how long entries live on average;
//! * [`forecast`]: when a table will be full;
//! * [`share`]: the part of a table that each owner holds, and the part that it fills;
//! * [`destinations`]: where the connections of each owner go;
//! * [`heavy`]: the heaviest keys of a stream, in bounded memory.

pub mod destinations;
pub mod forecast;
pub mod heavy;
pub mod lifetime;
pub mod rate;
pub mod share;
pub mod state;
mod tracker;
mod trend;

pub use state::PressureSample;
pub use tracker::Tracker;

/// As a number to compute with.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub const fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Rounded; what is below 0 is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the conversion saturates"
)]
pub fn as_count(number: f64) -> u64 {
    number.round() as u64
}
