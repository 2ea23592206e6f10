//! What the machine under the node allows, at two moments.

use super::Facts;
use crate::kernel::{
    Root,
    allowances::{self, InterfaceAllowances},
};

/// An allowance that was exceeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// The interface whose driver counts it.
    pub interface: String,
    /// Such as `conntrack`.
    pub allowance: String,
    /// Packets since the driver was loaded.
    pub since_boot: u64,
    /// Packets between the two readings.
    pub between: u64,
}

pub(super) struct AllowanceReader {
    root: Root,
    first: Vec<InterfaceAllowances>,
}

impl AllowanceReader {
    pub(super) fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            first: allowances::read(root),
        }
    }

    pub(super) fn second(&self, facts: &mut Facts) {
        let second = allowances::read(&self.root);
        if second.iter().any(InterfaceAllowances::tells) {
            facts.looked.push("allowances of the instance");
        }
        facts.allowances = exceeded(&self.first, &second);
    }
}

fn exceeded(first: &[InterfaceAllowances], second: &[InterfaceAllowances]) -> Vec<Exceeded> {
    let mut exceeded = Vec::new();
    for interface in second {
        let before = first
            .iter()
            .find(|first| first.interface == interface.interface);
        for (allowance, packets) in &interface.exceeded {
            let before = before.and_then(|before| before.exceeded.get(allowance));
            if *packets > 0 {
                exceeded.push(Exceeded {
                    interface: interface.interface.clone(),
                    allowance: allowance.clone(),
                    since_boot: *packets,
                    between: before.map_or(0, |before| packets.saturating_sub(*before)),
                });
            }
        }
    }
    exceeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_exceeded_and_what_is() {
        let read = |conntrack, pps| {
            [InterfaceAllowances {
                interface: "eth0".to_owned(),
                driver: "ena".to_owned(),
                exceeded: [("conntrack".to_owned(), conntrack), ("pps".to_owned(), pps)].into(),
                ..InterfaceAllowances::default()
            }]
        };
        let found = exceeded(&read(7, 0), &read(10, 0));
        let one = Exceeded {
            interface: "eth0".to_owned(),
            allowance: "conntrack".to_owned(),
            since_boot: 10,
            between: 3,
        };
        assert_eq!(found, [one]);
        assert_eq!(
            exceeded(&[], &read(10, 0))[0].between,
            0,
            "it was not there before"
        );
    }
}
