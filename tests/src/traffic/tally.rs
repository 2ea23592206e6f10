//! Exact counts of what was sent and what the kernel said to it.

use std::{collections::BTreeMap, io};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Counts of one run; printed as one JSON object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Flows tried.
    pub sent: u64,
    /// Of those: how many first packets the kernel accepted.
    pub accepted: u64,
    /// The others, by the name of the error (`EPERM`: refused, by a full table among others).
    pub errors: BTreeMap<String, u64>,
    /// [`Tally::accepted`] by protocol and family, such as `udp4`.
    pub accepted_by: BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: f64,
    /// How long the kernel had each packet, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_ns: Option<SendTimes>,
}

/// How long the kernel had a packet from `sendto` to its return, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendTimes {
    /// Half of them took at most this.
    pub p50: u64,
    /// Of a hundred one took longer.
    pub p99: u64,
    /// Of a thousand one took longer.
    pub p999: u64,
    /// The longest.
    pub most: u64,
}

impl SendTimes {
    /// `None`: there were none.
    pub fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        let at = |share: usize| times.get(last * share / 1_000).copied();
        Some(Self {
            p50: at(500)?,
            p99: at(990)?,
            p999: at(999)?,
            most: at(1_000)?,
        })
    }
}

impl Tally {
    /// Counts one flow and what the kernel said to it.
    pub fn count(&mut self, class: &str, result: io::Result<()>) {
        self.sent += 1;
        match result {
            Ok(()) => {
                self.accepted += 1;
                match self.accepted_by.get_mut(class) {
                    Some(count) => *count += 1,
                    None => drop(self.accepted_by.insert(class.to_owned(), 1)),
                }
            }
            Err(error) => *self.errors.entry(error_name(&error)).or_default() += 1,
        }
    }

    /// Adds the counts of a run beside this one; the longer time stays.
    pub fn add(&mut self, other: &Self) {
        let Self {
            sent,
            accepted,
            errors,
            accepted_by,
            seconds,
            send_ns: _,
        } = other;
        self.sent += sent;
        self.accepted += accepted;
        for (name, count) in errors {
            *self.errors.entry(name.clone()).or_default() += count;
        }
        for (class, count) in accepted_by {
            *self.accepted_by.entry(class.clone()).or_default() += count;
        }
        self.seconds = self.seconds.max(*seconds);
    }

    /// How many flows met this error.
    pub fn error(&self, name: &str) -> u64 {
        self.errors.get(name).copied().unwrap_or(0)
    }
}

/// `EPERM` and the like; the text of errors that have no number.
fn error_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.kind().to_string(),
        |number| format!("{:?}", Errno::from_raw(number)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_slowest() {
        assert_eq!(SendTimes::of(Vec::new()), None);
        let times = SendTimes::of((0..=1_000).rev().collect()).unwrap();
        let SendTimes {
            p50,
            p99,
            p999,
            most,
        } = times;
        assert_eq!((p50, p99, p999, most), (500, 990, 999, 1_000));
    }

    #[test]
    fn counts_add_up_and_survive_json() {
        let mut tally = Tally::default();
        tally.count("udp4", Ok(()));
        tally.count("udp6", Err(io::Error::from_raw_os_error(1)));
        let mut other = Tally {
            seconds: 1.5,
            ..Tally::default()
        };
        other.count("udp4", Ok(()));
        other.count("udp4", Err(io::Error::from_raw_os_error(1)));
        other.count("udp4", Err(io::Error::from_raw_os_error(101)));
        tally.add(&other);
        assert_eq!((tally.sent, tally.accepted), (5, 2));
        assert_eq!((tally.error("EPERM"), tally.error("ENETUNREACH")), (2, 1));
        assert_eq!(tally.error("EINVAL"), 0);
        assert_eq!(tally.accepted_by["udp4"], 2);
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
    }
}
