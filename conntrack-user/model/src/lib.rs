//! What every part of ctpressure speaks of: pure types and functions, with nothing of Linux in them, so
//! that a report can be made anywhere.
//!
//! * [`owner`]: who a count is attributed to;
//! * [`events`]: what a record means to a person or a script, and filters;
//! * [`pressure`]: how full, by whom, until when: pure functions over samples;
//! * [`verdict`]: what a table is full of that a higher limit would not help;
//! * [`protocol`]: names and numbers of transport protocols;
//! * [`words`]: how numbers, sizes, shares, times and the words of others are written, one rule each;
//! * [`cost`]: what an entry costs, and how many buckets a limit asks for;
//! * [`command_line`]: what both programs do the same way at a terminal;
//! * [`containment`]: the command line that stops an owner;
//! * [`limit_change`]: the record of one change of the limit;
//! * [`kubernetes`]: what the Kubernetes API is asked, what it says of pods, what its Events say.

#![forbid(unsafe_code)]

pub mod command_line;
pub mod containment;
pub mod cost;
pub mod events;
pub mod kubernetes;
pub mod limit_change;
pub mod owner;
pub mod pressure;
pub mod protocol;
#[cfg(any(test, feature = "testing"))]
#[expect(missing_docs, reason = "for tests")]
pub mod tests;
pub mod verdict;
pub mod words;
