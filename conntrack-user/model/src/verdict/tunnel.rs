//! The outer packets of overlay networks: each flow inside of one is a flow of its own outside, by a source port of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

const UDP: u8 = 17;

/// What an overlay is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TunnelKind {
    /// RFC 7348: flannel, Cilium, Calico, Docker Swarm, OVN.
    Vxlan,
    /// RFC 8926: Antrea, OVN, Cilium.
    Geneve,
    /// Encrypted: Cilium, Calico, flannel.
    WireGuard,
    /// Weave's fast datapath, which is VXLAN of its own.
    Weave,
    /// Any protocol in UDP (FOU, GUE).
    Fou,
    /// Any protocol in IP (RFC 2784): Open vSwitch, routers.
    Gre,
    /// IPv4 or IPv6 in IP: Calico, kube-router.
    Ipip,
    /// Encrypted IP (RFC 4303): `IPsec` between nodes.
    Esp,
}

impl TunnelKind {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::WireGuard => "WireGuard",
            Self::Weave => "Weave",
            Self::Fou => "FOU or GUE",
            Self::Gre => "GRE",
            Self::Ipip => "IP in IP",
            Self::Esp => "IPsec (ESP)",
        }
    }

    /// Whether both ends may send from the port as well: its peers have ports of their own.
    const fn sends_from_port(self) -> bool {
        matches!(self, Self::WireGuard)
    }
}

/// A tunnel, by what tells its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Tunnel {
    /// What the packets are put into.
    pub kind: TunnelKind,
    /// The number of its IP protocol.
    pub protocol: u8,
    /// The UDP port that it is sent to; `None`: the protocol has none.
    pub port: Option<u16>,
}

const fn udp(kind: TunnelKind, port: u16) -> Tunnel {
    Tunnel {
        kind,
        protocol: UDP,
        port: Some(port),
    }
}

const fn plain(kind: TunnelKind, protocol: u8) -> Tunnel {
    Tunnel {
        kind,
        protocol,
        port: None,
    }
}

/// Those that are known by their ports (IANA, or the default of who makes them) and protocols.
pub const KNOWN: [Tunnel; 14] = [
    udp(TunnelKind::Vxlan, 4789),
    // The default of Linux, and so of flannel and Cilium.
    udp(TunnelKind::Vxlan, 8472),
    udp(TunnelKind::Vxlan, 4790),
    udp(TunnelKind::Geneve, 6081),
    udp(TunnelKind::WireGuard, 51820),
    // Of flannel and Calico for IPv6, of Cilium.
    udp(TunnelKind::WireGuard, 51821),
    udp(TunnelKind::WireGuard, 51871),
    udp(TunnelKind::Weave, 6784),
    udp(TunnelKind::Fou, 5555),
    udp(TunnelKind::Fou, 6080),
    plain(TunnelKind::Ipip, 4),
    plain(TunnelKind::Ipip, 41),
    plain(TunnelKind::Gre, 47),
    plain(TunnelKind::Esp, 50),
];

impl Tunnel {
    /// A tunnel whose packets go to a UDP port.
    pub const fn of_port(kind: TunnelKind, port: u16) -> Self {
        udp(kind, port)
    }

    /// Whether a flow of this protocol, from and to these ports, is one of its outer ones.
    pub fn carries(self, protocol: u8, ports: Option<(u16, u16)>) -> bool {
        self.protocol == protocol
            && match (self.port, ports) {
                (None, _) => true,
                (Some(port), Some((source, destination))) => {
                    destination == port || self.kind.sends_from_port() && source == port
                }
                (Some(_), None) => false,
            }
    }

    /// The matches of rules for its packets, by `of_port` and `of_protocol`.
    fn matches(
        self,
        of_port: impl Fn(&str, u16) -> String,
        of_protocol: impl Fn(u8) -> String,
    ) -> Vec<String> {
        let Some(port) = self.port else {
            return vec![of_protocol(self.protocol)];
        };
        let mut matches = vec![of_port("dport", port)];
        if self.kind.sends_from_port() {
            matches.push(of_port("sport", port));
        }
        matches
    }

    /// The command lines that exempt its packets from tracking, by iptables: what comes in (`PREROUTING`) and what the node
    /// itself sends (`OUTPUT`); `ipv4`, `ipv6`: over which the nodes speak to each other.
    pub fn iptables(self, ipv4: bool, ipv6: bool) -> Vec<String> {
        let matches = self.matches(
            |side, port| format!("-p udp --{side} {port}"),
            |protocol| format!("-p {protocol}"),
        );
        let commands = [("iptables", ipv4), ("ip6tables", ipv6)].into_iter();
        let commands = commands.filter(|(_, used)| *used);
        commands
            .flat_map(|(command, _)| ["PREROUTING", "OUTPUT"].map(|chain| (command, chain)))
            .flat_map(|(command, chain)| {
                let rule = move |matched: &String| {
                    format!("{command} -t raw -I {chain} {matched} -j CT --notrack")
                };
                matches.iter().map(rule)
            })
            .collect()
    }

    /// The same by nft, for both families.
    pub fn nft(self) -> Vec<String> {
        let matches = self.matches(
            |side, port| format!("udp {side} {port}"),
            |protocol| format!("meta l4proto {protocol}"),
        );
        let mut commands = vec!["nft add table inet overlay".to_owned()];
        for hook in ["prerouting", "output"] {
            commands.push(format!(
                "nft 'add chain inet overlay {hook} {{ type filter hook {hook} priority raw; }}'"
            ));
            let rule = |matched| format!("nft add rule inet overlay {hook} {matched} notrack");
            commands.extend(matches.iter().map(rule));
        }
        commands
    }

    /// The command lines that remove the entries that are there.
    pub fn forget(self, ipv4: bool, ipv6: bool) -> Vec<String> {
        let matches = self.matches(
            |side, port| format!("-p udp --{side} {port}"),
            |protocol| format!("-p {protocol}"),
        );
        let families = [("", ipv4), (" -f ipv6", ipv6)].into_iter();
        let families = families.filter(|(_, used)| *used);
        families
            .flat_map(|(family, _)| {
                matches
                    .iter()
                    .map(move |matched| format!("conntrack -D{family} {matched}"))
            })
            .collect()
    }

    /// What it is sent to: `UDP port 4789`, `protocol 47`.
    pub fn address(self) -> String {
        match self.port {
            Some(port) => format!("UDP port {port}"),
            None => format!("protocol {}", self.protocol),
        }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ({})", self.kind.name(), self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_flows_are_told_by_where_they_go() {
        let of = |protocol, ports| {
            let found = KNOWN
                .iter()
                .find(|tunnel| tunnel.carries(protocol, Some(ports)));
            found.map(|tunnel| tunnel.kind)
        };
        assert_eq!(of(17, (40_000, 4789)), Some(TunnelKind::Vxlan));
        assert_eq!(of(17, (40_000, 8472)), Some(TunnelKind::Vxlan));
        assert_eq!(of(17, (40_000, 6081)), Some(TunnelKind::Geneve));
        assert_eq!(of(17, (51_820, 7)), Some(TunnelKind::WireGuard));
        assert_eq!(of(47, (0, 0)), Some(TunnelKind::Gre));
        assert_eq!(of(4, (0, 0)), Some(TunnelKind::Ipip));
        // Of another protocol, or by chance from such a port.
        assert_eq!(of(6, (40_000, 4789)), None);
        assert_eq!(of(17, (4789, 53)), None);
        assert!(!KNOWN[0].carries(17, None));
    }

    #[test]
    fn rules_stand_where_packets_come_in_and_where_the_node_sends_them() {
        let vxlan = udp(TunnelKind::Vxlan, 4799);
        assert_eq!(
            vxlan.iptables(true, false),
            [
                "iptables -t raw -I PREROUTING -p udp --dport 4799 -j CT --notrack",
                "iptables -t raw -I OUTPUT -p udp --dport 4799 -j CT --notrack",
            ]
        );
        let both = vxlan.iptables(true, true);
        assert_eq!(both.len(), 4);
        assert!(
            both[3].starts_with("ip6tables -t raw -I OUTPUT"),
            "{both:?}"
        );
        assert_eq!(
            vxlan.nft(),
            [
                "nft add table inet overlay",
                "nft 'add chain inet overlay prerouting { type filter hook prerouting priority raw; }'",
                "nft add rule inet overlay prerouting udp dport 4799 notrack",
                "nft 'add chain inet overlay output { type filter hook output priority raw; }'",
                "nft add rule inet overlay output udp dport 4799 notrack",
            ]
        );
        // Peers of WireGuard have ports of their own.
        assert_eq!(
            udp(TunnelKind::WireGuard, 51_820)
                .iptables(true, true)
                .len(),
            8
        );
        let gre = plain(TunnelKind::Gre, 47);
        assert!(gre.nft()[2].ends_with("meta l4proto 47 notrack"));
        assert!(gre.iptables(true, false)[0].contains("-p 47 -j CT"));
        assert_eq!(gre.to_string(), "GRE (protocol 47)");
    }
}
