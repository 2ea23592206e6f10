//! What people published of entries that led nowhere: addresses, ports and times of theirs, by where they were published.

use std::time::Duration;

use super::*;
use crate::{
    census::{Charging, VacantAddresses},
    doctor::{facts::strays::Ways, tests::healthy},
    kernel::entries::{EntryState, EntryStatus, EntryTuple, Layer4, TableEntry},
};

/// What somebody saw, and had to be told.
struct Report {
    url: &'static str,
    /// As `conntrack -L` prints it.
    entry: &'static str,
    /// The address that a pod or container, or the node, had, and since how many seconds nobody has it; what had it.
    lost: Option<(&'static str, u64, &'static str)>,
    /// The command that mends it; `None`: nothing can be said of it on this node.
    mended_by: Option<&'static str>,
}

const REPORTS: [Report; 9] = [
    // A DaemonSet's statsd port: the agent was made anew as .76, and some clients never come to it.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/95258",
        entry: "udp 17 29 src=10.16.32.23 dst=10.142.0.25 sport=50994 dport=8125 [UNREPLIED] src=10.16.32.75 dst=10.16.32.23 sport=8125 dport=50994",
        lost: Some(("10.16.32.75", 600, "monitoring/statsd-x7p2k")),
        mended_by: Some(
            "conntrack -D -p udp --orig-dst 10.142.0.25 --dport 8125 --reply-src 10.16.32.75",
        ),
    },
    // The only backend of a Service is killed; a client sends every second from one socket.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/48370",
        entry: "udp 17 29 src=10.12.0.14 dst=10.15.240.10 sport=43145 dport=53 [UNREPLIED] src=10.12.0.11 dst=10.12.0.14 sport=53 dport=43145",
        lost: Some(("10.12.0.11", 20, "default/echo")),
        mended_by: Some(
            "conntrack -D -p udp --orig-dst 10.15.240.10 --dport 53 --reply-src 10.12.0.11",
        ),
    },
    // The same report, later: no rule was there when this entry came, so that it leads to nobody who ever was.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/48370",
        entry: "udp 17 29 src=10.12.0.14 dst=10.15.240.10 sport=43145 dport=53 [UNREPLIED] src=10.15.240.10 dst=10.12.0.14 sport=53 dport=43145",
        lost: Some(("10.12.0.11", 20, "default/echo")),
        mended_by: None,
    },
    // CoreDNS was on a node that failed: seen from the client's node, its address was never one of here.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/125467",
        entry: "udp 17 27 src=10.103.83.53 dst=172.20.0.10 sport=21667 dport=53 [UNREPLIED] src=10.103.78.37 dst=10.103.83.53 sport=53 dport=21667",
        lost: None,
        mended_by: None,
    },
    // A Service with an external address.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/65228",
        entry: "udp 17 29 src=10.0.22.1 dst=10.0.22.190 sport=51000 dport=6343 [UNREPLIED] src=10.32.0.83 dst=10.0.22.1 sport=6343 dport=51000",
        lost: Some(("10.32.0.83", 100, "flows/sflow-app-0")),
        mended_by: Some(
            "conntrack -D -p udp --orig-dst 10.0.22.190 --dport 6343 --reply-src 10.32.0.83",
        ),
    },
    // A Service without any backend for 13 hours: the node that had the pod gets what all of them send.
    Report {
        url: "https://github.com/kubernetes/kubernetes/issues/139628",
        entry: "udp 17 30 src=10.20.4.9 dst=10.96.0.44 sport=40125 dport=8125 [UNREPLIED] src=10.20.7.3 dst=10.20.4.9 sport=8125 dport=40125",
        lost: Some(("10.20.7.3", 46_800, "metrics/statsd-0")),
        mended_by: Some(
            "conntrack -D -p udp --orig-dst 10.96.0.44 --dport 8125 --reply-src 10.20.7.3",
        ),
    },
    // A published port of Docker: a datagram every 5 s from one port, the container stopped for 45 s.
    Report {
        url: "https://github.com/moby/moby/issues/53384",
        entry: "udp 17 26 src=198.51.100.4 dst=203.0.113.5 sport=51820 dport=51897 [UNREPLIED] src=172.18.0.3 dst=198.51.100.4 sport=51820 dport=51820",
        lost: Some(("172.18.0.3", 45, "docker-2f1c.scope")),
        mended_by: Some(
            "conntrack -D -p udp --orig-dst 203.0.113.5 --dport 51897 --reply-src 172.18.0.3",
        ),
    },
    // The pod was restarted three seconds ago and has its address back: nothing is lost.
    Report {
        url: "https://github.com/containernetworking/plugins/issues/123",
        entry: "udp 17 29 src=10.244.1.7 dst=192.168.5.15 sport=44000 dport=8125 [UNREPLIED] src=10.244.1.12 dst=10.244.1.7 sport=8125 dport=44000",
        lost: None,
        mended_by: None,
    },
    // The uplink has another address since it was dialled anew; a phone keeps its registration alive by the old one.
    Report {
        url: "https://github.com/opnsense/core/issues/3052",
        entry: "udp 17 119 src=192.168.1.3 dst=5.5.5.5 sport=4567 dport=1234 src=5.5.5.5 dst=4.4.4.4 sport=1234 dport=3456 [ASSURED]",
        lost: Some(("4.4.4.4", 1_800, "host")),
        mended_by: Some("conntrack -D -p udp --reply-dst 4.4.4.4"),
    },
];

/// An entry as `conntrack -L` prints it.
fn entry(line: &str) -> TableEntry {
    let words: Vec<&str> = line.split_whitespace().collect();
    let values = |name: &str| -> Vec<&str> {
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .collect()
    };
    let [sources, destinations] = ["src", "dst"].map(values);
    let [from, to] = ["sport", "dport"].map(values);
    let tuple = |at: usize| EntryTuple {
        source: sources[at].parse().unwrap(),
        destination: destinations[at].parse().unwrap(),
        protocol: words[1].parse().unwrap(),
        layer4: Layer4::Ports {
            source: from[at].parse().unwrap(),
            destination: to[at].parse().unwrap(),
        },
    };
    let (original, reply) = (tuple(0), tuple(1));
    let flag = |number: u32, is: bool| u32::from(is) << number;
    let [unreplied, assured] = ["[UNREPLIED]", "[ASSURED]"].map(|word| words.contains(&word));
    let status = EntryStatus(
        flag(1, !unreplied)
            | flag(2, assured)
            | flag(4, original.source != reply.destination)
            | flag(5, original.destination != reply.source),
    );
    TableEntry {
        original,
        reply,
        zone: 0,
        status,
        state: EntryState::of(status),
        timeout: words[2].parse().ok(),
        mark: 0,
        id: 0,
        start: None,
    }
}

#[test]
fn what_people_published_is_found_and_mended_where_it_can_be_told() {
    for report in &REPORTS {
        let mut facts = healthy();
        facts.settings.values.insert("udp_timeout", 30);
        facts.settings.values.insert("udp_timeout_stream", 120);
        let mut ways = Ways::default();
        ways.add(&entry(report.entry), &facts.settings);
        let former = report.lost.map(|(address, seconds, name)| {
            let since = Duration::from_secs(seconds);
            (address.parse().unwrap(), name.to_owned(), since)
        });
        let strays = ways.strays(&Charging {
            vacant: VacantAddresses::former(former.into_iter()),
            ..Charging::default()
        });
        if let Some(census) = &mut facts.census {
            census.strays = strays;
        }
        let found = led_astray(&facts);
        let fix = found.as_ref().map(|found| found.fix.join("; "));
        assert_eq!(fix.as_deref(), report.mended_by, "{}", report.url);
        if let (Some(found), Some((_, _, name))) = (&found, report.lost) {
            assert!(found.evidence.contains(name), "{}: {found:?}", report.url);
        }
    }
}
