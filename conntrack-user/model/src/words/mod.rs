//! How numbers, sizes, shares, times and the words of others are written for people: one rule each, for every command,
//! the report, the doctor, Kubernetes Events and log lines.
//!
//! | what | by | examples |
//! |---|---|---|
//! | a count | [`grouped`], [`plural`] | `1,234,567`, `1 packet`, `1,620 packets` |
//! | a figure that is not whole | [`figure`] | `2`, `2.4`, `17`, `<0.1` |
//! | a rate | [`per_second`], [`a_second`] | `0.4`, `27`, `1,500`, `1 connection a second` |
//! | bytes | [`bytes()`] | `512 bytes`, `1.5 MiB`, `23 GiB` |
//! | a share | [`share()`], [`share_f64`] | `0 %`, `<0.1 %`, `9.9 %`, `98 %`, `100 %` |
//! | how often something happens by chance | [`chance`] | `12 % of the time`, `once in 5,000` |
//! | a length of time | [`span`], [`seconds`], [`seconds_f64`] | `0.4 s`, `45 s`, `4 min 10 s`, `2 d 4 h` |
//! | how long an entry lives | [`lifetime`] | `30 s`, `>5 min`, `-` |
//! | an allowance of an instance | [`allowance_name`], [`allowance_fate`] | `allowance of tracked connections`, `drops or holds back` |
//! | a time | [`time`] | `2026-03-01T03:12:07Z`, `03:12:07` |
//! | words in lines | [`wrap`] | |
//! | words of others | [`clean`], [`clean_within`], [`shorten`] | `a\u{fffd}[2Jb`, `aggre…-1` |
//!
//! What has to fit a column of a screen is written by [`mod@column`]: the same figures in fewer letters.
//!
//! What is rounded: figures, rates and bytes to the nearest; shares and lengths of time down, so that only all of a table
//! is `100 %`, and nothing has lasted longer than it did. What is more than nothing is never written as nothing.
//!
//! JSON has numbers where this has words (bytes, seconds, shares from 0 to 1); a time in it is RFC 3339 ([`time::json`]).

mod allowance;
mod bytes;
pub mod column;
mod duration;
mod foreign;
mod lines;
mod moment;
mod number;
mod share;
pub mod time;

pub use allowance::{allowance_drops, allowance_fate, allowance_name};
pub use bytes::bytes;
pub use duration::{lifetime, seconds, seconds_f64, span};
pub use foreign::{NAME_BYTES, clean, clean_lines, clean_within, shorten};
pub use lines::wrap;
pub use number::{a_second, figure, grouped, list, per_second, plural};
pub use share::{chance, share, share_f64};
