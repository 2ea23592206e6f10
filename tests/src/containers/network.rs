//! The node's network: CNI configurations, an uplink to a namespace that is "outside", Services.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::runtime::CNI;
use crate::guest::{
    command::{output, output_with_input},
    kernel,
    net::{add_namespace, ip},
};

/// The namespace beyond the uplink. Not removed with those of a scenario.
pub const OUTSIDE: &str = "outside";
/// The node's address on the uplink.
pub const NODE: &str = "192.168.77.2";
/// The address beyond it.
pub const OUTSIDE_ADDRESS: &str = "192.168.77.1";

/// How a pod is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A veth pair on the bridge `cni0`; masquerades, maps ports.
    Bridge,
    /// A veth pair and a host route, no bridge.
    Ptp,
    /// A bridge of its own, IPv6 only.
    Bridge6,
    /// The node's own network.
    Host,
}

impl Network {
    /// Those that have a CNI configuration.
    pub const CONFIGURED: [Self; 3] = [Self::Bridge, Self::Ptp, Self::Bridge6];

    /// Name of its runtime class and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge | Self::Host => "bridge",
            Self::Ptp => "ptp",
            Self::Bridge6 => "bridge6",
        }
    }

    /// The addresses that its pods have.
    pub const fn range(self) -> Option<&'static str> {
        match self {
            Self::Bridge => Some("10.88.0.0/16"),
            Self::Ptp => Some("10.89.0.0/16"),
            Self::Bridge6 => Some("fd00:88::/64"),
            Self::Host => None,
        }
    }

    fn config(self) -> Value {
        let mut plugin = match self {
            Self::Ptp => json!({ "type": "ptp" }),
            _ => json!({
                "type": "bridge",
                "bridge": if self == Self::Bridge6 { "cni6" } else { "cni0" },
                "isGateway": true,
                "isDefaultGateway": true,
                "hairpinMode": true,
            }),
        };
        let everywhere = if self == Self::Bridge6 {
            "::/0"
        } else {
            "0.0.0.0/0"
        };
        plugin["ipMasq"] = true.into();
        plugin["ipam"] = json!({
            "type": "host-local",
            "ranges": [[{ "subnet": self.range() }]],
            "routes": if self == Self::Ptp { json!([{ "dst": everywhere }]) } else { json!([]) },
        });
        json!({
            "cniVersion": "1.0.0",
            "name": self.name(),
            "plugins": [plugin, { "type": "portmap", "capabilities": { "portMappings": true } }],
        })
    }
}

/// Writes the CNI configurations and connects the node with what is outside.
pub fn prepare() -> Result<()> {
    for network in Network::CONFIGURED {
        let folder = Path::new(CNI).join(network.name());
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join("10-network.conflist");
        fs::write(&file, network.config().to_string())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    // What a kubelet's host has: rules see bridged packets, packets are forwarded.
    kernel::load_module("br_netfilter")?;
    for (path, value) in [
        ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"),
        ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1"),
        ("/proc/sys/net/ipv4/ip_forward", "1"),
        ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
    ] {
        kernel::write(path, value)?;
    }
    uplink()
}

fn uplink() -> Result<()> {
    add_namespace(OUTSIDE)?;
    ip(
        None,
        &format!("link add uplink type veth peer name inside netns {OUTSIDE}"),
    )?;
    for arguments in [
        &format!("addr add {NODE}/24 dev uplink"),
        "-6 addr add fd00:77::2/64 dev uplink nodad",
        "link set uplink up",
    ] {
        ip(None, arguments)?;
    }
    for arguments in [
        "link set lo up",
        &format!("addr add {OUTSIDE_ADDRESS}/24 dev inside"),
        "-6 addr add fd00:77::1/64 dev inside nodad",
        "link set inside up",
        // Where the generators' flows end unanswered.
        "route add blackhole 198.18.0.0/15",
        "route add blackhole 203.0.113.0/24",
        "-6 route add blackhole fd00:c7::/32",
        // To the pods without NAT, as in a routed cluster.
        &format!("route add 10.88.0.0/15 via {NODE}"),
        "-6 route add fd00:88::/64 via fd00:77::2",
    ] {
        ip(Some(OUTSIDE), arguments)?;
    }
    // What pods send there must not come back.
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let write = format!("echo 0 > /proc/sys/net/{path}");
        output("ip", &["netns", "exec", OUTSIDE, "sh", "-c", &write])?;
    }
    ip(None, &format!("route add default via {OUTSIDE_ADDRESS}"))?;
    ip(None, "-6 route add default via fd00:77::1").map(drop)
}

/// One Service address and who is behind it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its address.
    pub address: IpAddr,
    /// Its port, TCP and UDP.
    pub port: u16,
    /// Addresses of those behind it.
    pub backends: Vec<IpAddr>,
    /// Their port.
    pub backend_port: u16,
}

impl Service {
    /// Writes the rules that kube-proxy writes in its iptables mode: chains that choose by chance.
    pub fn apply(&self) -> Result<()> {
        output_with_input("iptables-restore", &["--noflush"], &self.rules()).map(drop)
    }

    fn rules(&self) -> String {
        let (address, port) = (self.address, self.port);
        let mut lines = vec!["*nat".to_owned()];
        let chains = ["KUBE-SERVICES".to_owned(), "KUBE-SVC-1".to_owned()];
        let ends = (0..self.backends.len()).map(|number| format!("KUBE-SEP-{number}"));
        lines.extend(
            chains
                .into_iter()
                .chain(ends)
                .map(|chain| format!(":{chain} - [0:0]")),
        );
        lines.extend(["PREROUTING", "OUTPUT"].map(|chain| format!("-A {chain} -j KUBE-SERVICES")));
        let protocols = ["tcp", "udp"].map(|protocol| format!("-p {protocol} -m {protocol}"));
        lines.extend(protocols.iter().map(|protocol| {
            format!("-A KUBE-SERVICES -d {address}/32 {protocol} --dport {port} -j KUBE-SVC-1")
        }));
        for (number, backend) in self.backends.iter().enumerate() {
            let chance = chance(self.backends.len() - number);
            lines.push(format!("-A KUBE-SVC-1 {chance}-j KUBE-SEP-{number}"));
            let to = format!("{backend}:{}", self.backend_port);
            lines.extend(protocols.iter().map(|protocol| {
                format!("-A KUBE-SEP-{number} {protocol} -j DNAT --to-destination {to}")
            }));
        }
        lines.push("COMMIT\n".to_owned());
        lines.join("\n")
    }
}

/// The match that lets one of `left` through; nothing for the last.
fn chance(left: usize) -> String {
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    if left == 1 {
        return String::new();
    }
    let chance = 1.0 / f64::from(left);
    format!("-m statistic --mode random --probability {chance:.10} ")
}

/// Rules in the network namespace of a pod, by itself: what makes its kernel keep a table of its own.
pub fn own_rules(namespace: &str) -> Result<()> {
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                 -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
                 -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
    output_with_input(
        "ip",
        &["netns", "exec", namespace, "iptables-restore"],
        rules,
    )
    .with_context(|| format!("writing rules in {namespace}"))?;
    // A look that they are there: without them the pod has no table.
    output("ip", &["netns", "exec", namespace, "iptables-save"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_deals_out_to_all_behind_it() {
        let service = Service {
            address: "10.96.0.1".parse().unwrap(),
            port: 80,
            backends: vec!["10.88.0.2".parse().unwrap(), "10.88.0.3".parse().unwrap()],
            backend_port: 7000,
        };
        let rules = service.rules();
        for line in [
            "-A KUBE-SERVICES -d 10.96.0.1/32 -p udp -m udp --dport 80 -j KUBE-SVC-1",
            "-A KUBE-SVC-1 -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-0",
            "-A KUBE-SVC-1 -j KUBE-SEP-1",
            "-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.88.0.3:7000",
        ] {
            assert!(rules.lines().any(|other| other == line), "{line}\n{rules}");
        }
    }

    #[test]
    fn configurations_are_of_their_kind() {
        let config = Network::Bridge6.config();
        assert_eq!(
            config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "fd00:88::/64"
        );
        assert_eq!(Network::Ptp.config()["plugins"][0]["type"], "ptp");
        assert_eq!(Network::Bridge.config()["plugins"][0]["bridge"], "cni0");
    }
}
