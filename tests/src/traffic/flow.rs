//! Which flows: a number for each, and from the number its tuple. No two numbers share a tuple.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use ipnet::IpNet;
use serde::Serialize;

/// What a flow's first packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A UDP datagram.
    Udp,
    /// A TCP SYN. No socket stands behind it, so nothing is sent again.
    Tcp,
    /// An ICMP or `ICMPv6` echo request; the source port is its id.
    Icmp,
    /// An SCTP INIT chunk.
    Sctp,
    /// GRE without a key: conntrack knows it by its addresses.
    Gre,
    /// Protocol 253 (RFC 3692, for experiments): conntrack knows it by its addresses.
    Other,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Udp,
        Self::Tcp,
        Self::Icmp,
        Self::Sctp,
        Self::Gre,
        Self::Other,
    ];

    /// Number in the IP header.
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Udp, _) => 17,
            (Self::Tcp, _) => 6,
            (Self::Icmp, Family::V4) => 1,
            (Self::Icmp, Family::V6) => 58,
            (Self::Sctp, _) => 132,
            (Self::Gre, _) => 47,
            (Self::Other, _) => 253,
        }
    }

    /// Name in ctpressure's output.
    pub const fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Udp, _) => "udp",
            (Self::Tcp, _) => "tcp",
            (Self::Icmp, Family::V4) => "icmp",
            (Self::Icmp, Family::V6) => "icmpv6",
            (Self::Sctp, _) => "sctp",
            (Self::Gre, _) => "gre",
            (Self::Other, _) => "253",
        }
    }
}

/// The address family of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
pub enum Family {
    /// IPv4
    #[value(name = "4")]
    V4,
    /// IPv6
    #[value(name = "6")]
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V4 => "4",
            Self::V6 => "6",
        })
    }
}

/// Ports from one to another, both included: `1024-65535`, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            text.parse::<u16>()
                .with_context(|| format!("`{text}` is not a port (0 to 65535)"))
        };
        let (low, high) = (port(low)?, port(high)?);
        ensure!(low <= high, "the port range {low}-{high} is empty");
        Ok(Self(low..=high))
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self(port..=port)
    }
}

impl Ports {
    pub(super) fn count(&self) -> u64 {
        u64::from(*self.0.end()) - u64::from(*self.0.start()) + 1
    }

    pub(super) fn nth(&self, number: u64) -> u16 {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        self.0.start().saturating_add(number)
    }
}

/// The tuple of one flow, as its first packet has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What the packet is.
    pub protocol: Protocol,
    /// Where it says that it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Source port, or ICMP id; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub destination_port: u16,
}

impl Flow {
    /// The family of both addresses.
    pub const fn family(&self) -> Family {
        match self.source {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// Where the flows of one family come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Source prefix.
    pub source: IpNet,
    /// Destination prefix.
    pub destination: IpNet,
}

/// All flows of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    classes: Vec<(Protocol, Addresses)>,
    source_ports: Ports,
    destination_ports: Ports,
    first: u64,
    flows: u64,
}

impl Plan {
    /// The flows `first` to `first + flows - 1` of the given ranges, dealt out over protocols and
    /// families in turn.
    ///
    /// # Errors
    ///
    /// When a range mixes families, or when there are fewer distinct tuples than flows.
    pub fn new(
        protocols: &[Protocol],
        addresses: &[Addresses],
        source_ports: Ports,
        destination_ports: Ports,
        first: u64,
        flows: u64,
    ) -> Result<Self> {
        for Addresses {
            source,
            destination,
        } in addresses
        {
            ensure!(
                source.addr().is_ipv4() == destination.addr().is_ipv4(),
                "{source} and {destination} are of different families"
            );
        }
        let classes: Vec<_> = protocols
            .iter()
            .flat_map(|&protocol| {
                addresses
                    .iter()
                    .map(move |&addresses| (protocol, addresses))
            })
            .collect();
        ensure!(
            !classes.is_empty(),
            "no protocol or no address family was chosen"
        );
        let plan = Self {
            classes,
            source_ports,
            destination_ports,
            first,
            flows,
        };
        let last = first
            .checked_add(flows)
            .context("flow numbers beyond 2^64")?;
        let per_class = last.div_ceil(plan.classes.len() as u64);
        for (protocol, addresses) in &plan.classes {
            let capacity = plan.capacity(*protocol, addresses);
            if capacity < per_class {
                bail!(
                    "these ranges have {capacity} distinct {protocol:?} tuples from {} to {}, and \
                     flow number {last} needs {per_class}: widen an address or port range",
                    addresses.source,
                    addresses.destination,
                );
            }
        }
        Ok(plan)
    }

    /// How many flows.
    pub const fn flows(&self) -> u64 {
        self.flows
    }

    /// Flow number `index` of the plan, from 0.
    pub fn flow(&self, index: u64) -> Flow {
        let number = self.first + index;
        let classes = self.classes.len() as u64;
        let class = usize::try_from(number % classes).unwrap_or(0);
        let (protocol, addresses) = self.classes[class];
        let mut rest = number / classes;
        let mut digit = |base: u64| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let (source_ports, destination_ports) = self.port_counts(protocol);
        let source_port = digit(source_ports);
        let destination_port = digit(destination_ports);
        let source = nth_address(&addresses.source, digit(size(&addresses.source)));
        let destination = nth_address(&addresses.destination, digit(size(&addresses.destination)));
        let (has_source, has_destination) = has_ports(protocol);
        Flow {
            protocol,
            source,
            destination,
            source_port: if has_source {
                self.source_ports.nth(source_port)
            } else {
                0
            },
            destination_port: if has_destination {
                self.destination_ports.nth(destination_port)
            } else {
                0
            },
        }
    }

    fn port_counts(&self, protocol: Protocol) -> (u64, u64) {
        let (source, destination) = has_ports(protocol);
        (
            if source { self.source_ports.count() } else { 1 },
            if destination {
                self.destination_ports.count()
            } else {
                1
            },
        )
    }

    fn capacity(&self, protocol: Protocol, addresses: &Addresses) -> u64 {
        let (source_ports, destination_ports) = self.port_counts(protocol);
        source_ports
            .saturating_mul(destination_ports)
            .saturating_mul(size(&addresses.source))
            .saturating_mul(size(&addresses.destination))
    }
}

/// Whether the tuple has a source and a destination port (an echo request has an id only).
const fn has_ports(protocol: Protocol) -> (bool, bool) {
    match protocol {
        Protocol::Udp | Protocol::Tcp | Protocol::Sctp => (true, true),
        Protocol::Icmp => (true, false),
        Protocol::Gre | Protocol::Other => (false, false),
    }
}

/// Addresses in a prefix; at most 2^63.
fn size(net: &IpNet) -> u64 {
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    1 << host_bits.min(63)
}

fn nth_address(net: &IpNet, number: u64) -> IpAddr {
    match net.network() {
        IpAddr::V4(first) => {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            Ipv4Addr::from_bits(first.to_bits() | number).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | u128::from(number)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn both() -> [Addresses; 2] {
        [
            addresses("198.18.0.0/16", "198.19.0.0/16"),
            addresses("fd00:c7:0:1::/112", "fd00:c7:0:2::/112"),
        ]
    }

    fn ports(text: &str) -> Ports {
        text.parse().unwrap()
    }

    #[test]
    fn two_hundred_thousand_mixed_flows_are_distinct() {
        let plan = Plan::new(
            &Protocol::ALL,
            &both(),
            ports("1024-65535"),
            ports("7000"),
            0,
            200_000,
        )
        .unwrap();
        let flows: HashSet<_> = (0..plan.flows()).map(|index| plan.flow(index)).collect();
        assert_eq!(flows.len(), 200_000);
        for protocol in Protocol::ALL {
            for family in [Family::V4, Family::V6] {
                let of_class = flows
                    .iter()
                    .filter(|flow| flow.protocol == protocol && flow.family() == family);
                assert!(
                    (16_666..=16_667).contains(&of_class.count()),
                    "{protocol:?} {family}"
                );
            }
        }
    }

    #[test]
    fn too_few_tuples_is_an_error_and_just_enough_is_not() {
        let small = [addresses("198.18.0.0/31", "198.19.0.0/32")];
        let plan = |flows| {
            Plan::new(
                &[Protocol::Udp],
                &small,
                ports("10-12"),
                ports("5-6"),
                0,
                flows,
            )
        };
        let plan_12 = plan(12).unwrap();
        let flows: HashSet<_> = (0..12).map(|index| plan_12.flow(index)).collect();
        assert_eq!(flows.len(), 12);
        let error = plan(13).unwrap_err().to_string();
        assert!(error.contains("12 distinct Udp tuples"), "{error}");
    }

    #[test]
    fn families_cannot_be_mixed_in_one_flow() {
        let mixed = [addresses("198.18.0.0/16", "fd00:c7:0:2::/112")];
        assert!(Plan::new(&[Protocol::Udp], &mixed, ports("1"), ports("1"), 0, 1).is_err());
    }

    #[test]
    fn port_ranges() {
        assert_eq!(ports("53").count(), 1);
        assert_eq!(ports("0-65535").count(), 65_536);
        assert!("9-8".parse::<Ports>().is_err());
        assert!("70000".parse::<Ports>().is_err());
        assert!("".parse::<Ports>().is_err());
    }

    proptest! {
        #[test]
        fn different_numbers_have_different_tuples(a in 0u64..3_000_000, b in 0u64..3_000_000) {
            prop_assume!(a != b);
            let plan = Plan::new(
                &Protocol::ALL, &both(), ports("1024-1100"), ports("7000-7003"), 0, 3_000_000,
            ).unwrap();
            prop_assert_ne!(plan.flow(a), plan.flow(b));
        }
    }
}
