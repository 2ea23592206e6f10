//! For the tests of this crate and of others: records, and series that are the same every time.

pub mod sample;
pub mod series;
