//! Entries that lead to an address that nobody on this node has any more.

use ctpressure_model::words::{grouped, plural, seconds, share};

use crate::doctor::{
    Facts, Finding, Severity,
    facts::strays::{Stray, Way},
    thresholds::{STRAY_LATELY, STRAY_RISK},
};

/// How many are named.
const NAMED: usize = 3;

/// Traffic that goes on to where nobody is, or a table that is full of what led there.
pub(super) fn led_astray(facts: &Facts) -> Option<Finding> {
    let census = facts.census.as_ref()?;
    let (used, rest): (Vec<&Stray>, Vec<&Stray>) =
        census.strays.iter().partition(|stray| is_used(stray));
    let (severity, told) = if used.is_empty() {
        let entries: u64 = rest.iter().map(|stray| stray.entries).sum();
        let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
        let enough = share_of(census.scaled(entries), limit) >= STRAY_RISK;
        enough.then_some((Severity::Risk, rest))?
    } else {
        (Severity::Problem, used)
    };
    let number = |stray: &&Stray| match severity {
        Severity::Problem => stray.unanswered,
        _ => stray.entries,
    };
    let entries: u64 = told.iter().map(number).sum();
    let named: Vec<String> = told.iter().take(NAMED).map(|stray| words(stray)).collect();
    let more = told.len().saturating_sub(NAMED);
    let more = match more {
        0 => String::new(),
        more => format!("; and {} more", grouped(more as u64)),
    };
    let of_limit = facts.settings.limit.filter(|limit| *limit > 0);
    let of_limit = of_limit.map_or_else(String::new, |limit| {
        format!(" ({} of the limit)", share(entries, limit))
    });
    Some(Finding {
        id: "entries_lead_nowhere",
        severity,
        title: if severity == Severity::Problem {
            "stale entries send traffic to an address that nobody on this node has any more".to_owned()
        } else {
            "stale entries of addresses that nobody on this node has any more fill the table".to_owned()
        },
        evidence: format!(
            "{}{of_limit}: {}{more}",
            plural(entries, "entry", "entries"),
            named.join("; ")
        ),
        consequence: "NAT rules are asked for the first packet only: what clients go on to send by these entries is lost, \
                      and each UDP packet keeps its entry for longer. TCP entries stay until their timeout"
            .to_owned(),
        fix: told.iter().take(NAMED).map(|stray| command(stray)).collect(),
        advice: "Then the next packet asks the rules again. If one still leads there (`iptables-save -t nat`, `nft list ruleset`), \
                 whoever made it has to take it away first: kube-proxy, Docker, or the network plugin's portmap. Where addresses \
                 move between nodes, see first that no other node has it now."
            .to_owned(),
        cost: "these entries only; a client that still has an answer to come by one asks again".to_owned(),
    })
}

/// Whether packets still come: after it was lost, or within the last seconds where it is not known when that was.
fn is_used(stray: &Stray) -> bool {
    let Some(idle) = stray.idle else {
        return false;
    };
    match &stray.vacant.was {
        Some(was) => idle + STRAY_LATELY < was.since.as_secs(),
        None => idle < STRAY_LATELY,
    }
}

fn share_of(entries: u64, limit: u64) -> u64 {
    entries.saturating_mul(100) / limit
}

/// `udp for 10.0.0.1:8125 goes to 172.18.1.2:8125 (nobody on this node has it; shop/web did until 12 s ago), the last packet 1 s ago`.
fn words(stray: &Stray) -> String {
    let protocol = stray.protocol_name();
    let way = match &stray.way {
        Way::Server { asked, server } => format!("{protocol} for {asked} goes to {server}"),
        Way::Source(address) => format!("{protocol} is sent as from {address}"),
    };
    let last = stray.idle.map_or_else(String::new, |idle| {
        format!(", the last packet {} ago", seconds(idle))
    });
    format!("{way} ({}){last}", stray.vacant)
}

fn command(stray: &Stray) -> String {
    let family = if stray.way.address().is_ipv6() {
        " -f ipv6"
    } else {
        ""
    };
    let protocol = stray.protocol_name();
    match &stray.way {
        Way::Server { asked, server } => {
            let port = asked
                .port
                .map_or_else(String::new, |port| format!(" --dport {port}"));
            format!(
                "conntrack -D{family} -p {protocol} --orig-dst {}{port} --reply-src {}",
                asked.address, server.address
            )
        }
        Way::Source(address) => {
            format!("conntrack -D{family} -p {protocol} --reply-dst {address}")
        }
    }
}

#[cfg(test)]
mod published;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{fine, made};
    use super::*;
    use crate::{
        census::{Vacant, WasHolder},
        doctor::facts::strays::Place,
    };

    fn stray(idle: Option<u64>, since: Option<u64>) -> Stray {
        let place = |address: &str| Place {
            address: address.parse().unwrap(),
            port: Some(8125),
        };
        Stray {
            way: Way::Server {
                asked: place("10.0.0.1"),
                server: place("172.18.1.2"),
            },
            protocol: 17,
            entries: 3,
            unanswered: 1,
            idle,
            vacant: Vacant {
                was: since.map(|since| WasHolder {
                    name: "docker-a".to_owned(),
                    since: Duration::from_secs(since),
                }),
            },
        }
    }

    fn with(facts: &mut Facts, strays: Vec<Stray>) {
        if let Some(census) = &mut facts.census {
            census.strays = strays;
        }
    }

    #[test]
    fn traffic_to_where_nobody_is() {
        let finding = made(led_astray, |facts| {
            with(facts, vec![stray(Some(1), Some(12))]);
        });
        assert_eq!(finding.severity, Severity::Problem);
        assert!(
            finding.evidence.starts_with("1 entry") && finding.evidence.ends_with(
                "udp for 10.0.0.1:8125 goes to 172.18.1.2:8125 (nobody on this node has it; docker-a did until 12 s ago), the last packet 1 s ago"
            ),
            "{finding:?}"
        );
        assert_eq!(
            finding.fix,
            ["conntrack -D -p udp --orig-dst 10.0.0.1 --dport 8125 --reply-src 172.18.1.2"]
        );
        made(led_astray, |facts| with(facts, vec![stray(Some(2), None)]));
        let mut snat = stray(Some(1), Some(60));
        snat.way = Way::Source("2001:db8::7".parse().unwrap());
        let finding = made(led_astray, |facts| with(facts, vec![snat]));
        assert_eq!(
            finding.fix,
            ["conntrack -D -f ipv6 -p udp --reply-dst 2001:db8::7"]
        );
    }

    #[test]
    fn what_is_about_to_end_is_fine() {
        // The container has just gone; nothing was sent since; it can't be told.
        for left in [
            stray(Some(1), Some(2)),
            stray(Some(20), Some(12)),
            stray(Some(20), None),
            stray(None, Some(100)),
        ] {
            fine(led_astray, |facts| with(facts, vec![left]));
        }
    }

    #[test]
    fn many_that_nothing_is_known_of_take_room() {
        let mut many = stray(None, Some(3_600));
        many.protocol = 6;
        many.entries = 20_000;
        let finding = made(led_astray, |facts| with(facts, vec![many]));
        assert_eq!(finding.severity, Severity::Risk);
    }
}
