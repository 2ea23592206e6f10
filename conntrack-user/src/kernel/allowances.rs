//! What the machine under the node allows: some cloud instances drop packets beyond an allowance of their own, whatever the kernel's tables
//! say. Only the driver of the network interface counts them.
//!
//! The counters are known by their names, not by the driver's: `<allowance>_allowance_exceeded` and
//! `<allowance>_allowance_available`. The ENA driver (AWS) has them for `conntrack`, `bw_in`, `bw_out`, `pps` and `linklocal`. Those of Google
//! (gve) and Azure (mana, `hv_netvsc`, mlx5) count no such thing.

use std::{collections::BTreeMap, fs, io};

use serde::Serialize;

use super::Root;
use crate::sys::ethtool::{self, DriverStatistics};

/// Interfaces that are asked at most.
const MOST_INTERFACES: usize = 64;
/// Allowances of one interface at most.
const MOST_ALLOWANCES: usize = 32;

const EXCEEDED: &str = "_allowance_exceeded";
const AVAILABLE: &str = "_allowance_available";

/// What an instance allows an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InterfaceAllowances {
    /// Its name, such as `eth0`.
    pub interface: String,
    /// The name of its driver, such as `ena`.
    pub driver: String,
    /// How many statistics the driver has.
    pub statistics: usize,
    /// Packets that the instance dropped or held back because an allowance was used up, by its name, such as `conntrack`.
    pub exceeded: BTreeMap<String, u64>,
    /// What is left of an allowance: for `conntrack` connections that may still be opened.
    pub available: BTreeMap<String, u64>,
}

impl InterfaceAllowances {
    fn new(interface: &str, found: DriverStatistics) -> Self {
        let named = |ending: &str| {
            let values = found.values.iter();
            let named = values.filter_map(|(name, value)| {
                let allowance = name.strip_suffix(ending)?;
                Some((allowance.to_owned(), *value))
            });
            named.take(MOST_ALLOWANCES).collect()
        };
        Self {
            interface: interface.to_owned(),
            exceeded: named(EXCEEDED),
            available: named(AVAILABLE),
            statistics: found.values.len(),
            driver: found.driver,
        }
    }

    /// Whether its driver tells of any allowance.
    pub fn tells(&self) -> bool {
        !self.exceeded.is_empty() || !self.available.is_empty()
    }
}

/// What each interface that is a device (not a bridge, nor an end of a pod's cable) is allowed, as its driver says, in the calling thread's
/// network namespace, which has to be the one that `/sys` shows.
pub(crate) fn read(root: &Root) -> Vec<InterfaceAllowances> {
    if !root.is_live() {
        return Vec::new();
    }
    let mut found: Vec<_> = devices(root)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|interface| {
            let statistics = ethtool::statistics(&interface).ok()?;
            Some(InterfaceAllowances::new(&interface, statistics))
        })
        .collect();
    found.sort_by(|one, other| one.interface.cmp(&other.interface));
    found
}

fn devices(root: &Root) -> io::Result<Vec<String>> {
    let mut devices = Vec::new();
    for interface in fs::read_dir(root.sys("class/net"))?.flatten() {
        if devices.len() < MOST_INTERFACES && interface.path().join("device").exists() {
            devices.push(interface.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(devices)
}

/// Allowances as they are exported: what a driver counts begins at 0 when it is loaded anew, and what is exported never falls.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowanceSums {
    sums: BTreeMap<(String, String), (u64, u64)>,
}

impl AllowanceSums {
    /// Adds what has come since the last look.
    pub(crate) fn add(&mut self, found: &mut [InterfaceAllowances]) {
        for interface in found {
            for (allowance, value) in &mut interface.exceeded {
                let key = (interface.interface.clone(), allowance.clone());
                let (sum, last) = self.sums.entry(key).or_insert((*value, *value));
                // Less than before: a driver that was loaded anew has counted this since.
                *sum += value.checked_sub(*last).unwrap_or(*value);
                *last = *value;
                *value = *sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `ethtool -S` prints them on an instance with the ENA driver 2.13, without most of what it counts for each queue.
    const ENA: &str = "\
NIC statistics:
     total_resets: 0
     reset_fail: 0
     tx_timeout: 0
     suspend: 0
     resume: 0
     wd_expired: 0
     interface_up: 1
     interface_down: 0
     admin_q_pause: 0
     bw_in_allowance_exceeded: 12
     bw_out_allowance_exceeded: 0
     pps_allowance_exceeded: 3
     conntrack_allowance_available: 136812
     conntrack_allowance_exceeded: 4711
     linklocal_allowance_exceeded: 0
     queue_0_tx_cnt: 1234
     queue_0_rx_cnt: 4321
     ena_admin_q_aborted_cmd: 0
";

    fn ena(text: &str) -> InterfaceAllowances {
        let values = text.lines().skip(1).map(|line| {
            let (name, value) = line.trim().split_once(": ").expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        let found = DriverStatistics {
            driver: "ena".to_owned(),
            values: values.collect(),
        };
        InterfaceAllowances::new("eth0", found)
    }

    #[test]
    fn allowances_are_known_by_their_names() {
        let found = ena(ENA);
        let exceeded: Vec<_> = found
            .exceeded
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            exceeded,
            [
                ("bw_in", 12),
                ("bw_out", 0),
                ("conntrack", 4711),
                ("linklocal", 0),
                ("pps", 3)
            ]
        );
        assert_eq!(found.available, [("conntrack".to_owned(), 136_812)].into());
        assert_eq!(found.statistics, 18);
        assert!(found.tells());
        assert!(!ena("NIC statistics:\n     rx_queue_0_packets: 5\n").tells());
    }

    #[test]
    fn a_driver_that_begins_anew_does_not_make_a_sum_fall() {
        let mut sums = AllowanceSums::default();
        let seen: Vec<u64> = [5, 7, 2, 2, 10]
            .into_iter()
            .map(|value| {
                let text = format!("NIC statistics:\n     conntrack_allowance_exceeded: {value}\n");
                let mut found = [ena(&text)];
                sums.add(&mut found);
                found[0].exceeded["conntrack"]
            })
            .collect();
        assert_eq!(seen, [5, 7, 9, 9, 17]);
    }
}
