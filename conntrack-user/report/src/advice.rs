//! What to do. Each rule looks at a [`Reading`] and its [`Cause`] and gives one piece of advice, or none;
//! the order of `RULES` is that in which they are given.

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    containment,
    cost::{BUCKET_BYTES, buckets_for, chain},
    pressure::{as_count, as_f64, state::Pressure},
    words::{bytes, figure, grouped, per_second, plural, seconds, share_f64},
};
use serde::Serialize;

use super::{
    cause::{Cause, CauseKind, exceeded, foremost, in_state},
    evidence::{NamedDestination, OwnerEvidence},
    reading::{Reading, ratio},
};

mod clients;
mod limit;
#[cfg(test)]
mod tests;
mod timeouts;

use clients::{dns_cache, leak, retries, reuse};
use limit::{dont_raise, raise, who_lowers};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Advice {
    /// Which rule gave it.
    pub(crate) rule: &'static str,
    pub(crate) text: String,
    /// What it rests on.
    pub(crate) evidence: String,
    /// The sysctl to set, and its value, where it is one.
    pub(crate) set: Option<(String, u64)>,
}

type AdviceRule = fn(&Reading<'_>, &Cause) -> Option<Advice>;

/// All rules, in the order in which their advice is given.
const RULES: &[AdviceRule] = &[
    look_elsewhere,
    be_liberal,
    nat_ports,
    dns_clash,
    flushed,
    requests,
    buckets_now,
    stop_flood,
    dont_raise,
    raise,
    who_lowers,
    reuse,
    leak,
    retries,
    dns_cache,
    timeouts::advice,
    other_instance,
    // Behind what lasts: the first one is that of the summary.
    contain,
    watch,
];

impl Advice {
    fn new(rule: &'static str, text: String, evidence: String) -> Self {
        Self {
            rule,
            text,
            evidence,
            set: None,
        }
    }

    fn set(self, name: &str, value: u64) -> Self {
        Self {
            set: Some((name.to_owned(), value)),
            ..self
        }
    }

    /// All that there is to advise.
    pub(crate) fn all(reading: &Reading<'_>, cause: &Cause) -> Vec<Self> {
        RULES
            .iter()
            .filter_map(|rule| rule(reading, cause))
            .collect()
    }
}

/// Whether the table was short of room.
fn short_of_room(reading: &Reading<'_>, cause: &Cause) -> bool {
    cause.kind.is_filling()
        && (reading.dropped(DropReason::TableFull) + reading.evictions > 0
            || reading.pressure >= Pressure::High)
}

fn look_elsewhere(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::NotConntrack).then(|| {
        Advice::new(
            "look_elsewhere",
            "Look elsewhere: packet counters of firewall rules (`iptables -vL`, `nft list ruleset`), network policies, \
             drops of interfaces (`ip -s link`) and the application itself."
                .to_owned(),
            format!(
                "ctpressure watched for {} and {}",
                seconds(reading.evidence.focus.seconds()),
                if reading.evidence.problems.is_empty() {
                    "every hook was attached".to_owned()
                } else {
                    format!("not all could be seen: {}", reading.evidence.problems.join("; "))
                }
            ),
        )
    })
}

/// Where the kernel's table was full too it is said beside the rest: a higher limit would not help against this.
fn other_instance(reading: &Reading<'_>, _: &Cause) -> Option<Advice> {
    let all = &reading.evidence.node.allowances;
    let first = all.first()?;
    let of_connections = all.iter().any(|one| one.allowance == "conntrack");
    let what = if of_connections {
        "Take a larger instance, or fewer connections through it: security group rules that are not tracked (all \
         traffic allowed both ways), connections that live longer, more nodes. A higher nf_conntrack_max does not help against this."
    } else {
        "Take a larger instance, or send less through it: the instance's own limits of bandwidth and packets are reached. A \
         higher nf_conntrack_max does not help against this."
    };
    Some(Advice::new(
        "other_instance",
        what.to_owned(),
        format!(
            "the driver of {} says: {}",
            first.interface,
            exceeded(reading)
        ),
    ))
}

fn be_liberal(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let liberal = reading.evidence.node.fact("nf_conntrack_tcp_be_liberal") == Some(1);
    (cause.kind == CauseKind::Invalid).then(|| {
        let advice = if liberal {
            "Look for rules that drop INVALID packets, and for asymmetric routes: nf_conntrack_tcp_be_liberal is set \
             already."
        } else {
            "Set nf_conntrack_tcp_be_liberal to 1 (kube-proxy: conntrack.tcpBeLiberal) if connections are reset, and \
             look for rules that drop INVALID packets."
        };
        Advice::new(
            "be_liberal",
            advice.to_owned(),
            format!(
                "{} were INVALID: {} a second",
                plural(reading.evidence.kernel.invalid, "packet", "packets"),
                per_second(ratio(
                    reading.evidence.kernel.invalid,
                    reading.evidence.focus.seconds()
                ))
            ),
        )
    })
}

fn nat_ports(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::NatExhausted).then(|| {
        let who = culprit_or_clients(reading);
        let to = reading.lost_to().map_or("one destination", |to| &to.name);
        Advice::new(
            "nat_ports",
            format!(
                "Give NAT more room towards {to}: more source addresses or a wider port range, or have {who} use fewer \
                 connections to it; a larger limit does not help."
            ),
            format!(
                "each source address has at most some 64,000 ports for one destination; the table itself held {} at \
                 most{}",
                plural(reading.entries, "entry", "entries"),
                of_limit(reading)
            ),
        )
    })
}

fn culprit_or_clients<'a>(reading: &Reading<'a>) -> &'a str {
    reading.culprit.map_or("the clients", |owner| &owner.name)
}

fn of_limit(reading: &Reading<'_>) -> String {
    if reading.limit == 0 {
        String::new()
    } else {
        format!(" of {}", grouped(reading.limit))
    }
}

fn dns_clash(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::Clash).then(|| {
        let who = culprit_or_clients(reading);
        let dns = reading.lost_to().is_some_and(|first| first.port == 53);
        let text = if dns {
            format!(
                "Have {who} ask DNS one query at a time (`options single-request-reopen` or `use-vc` in resolv.conf), or \
                 run a DNS cache on the node (NodeLocal DNSCache), which is not translated."
            )
        } else {
            format!(
                "Have {who} wait for the first answer before it sends more packets of a connection, or take its \
                 traffic out of NAT."
            )
        };
        Advice::new(
            "clash",
            text,
            format!(
                "{} clashes were resolved without loss, {} packets were lost",
                grouped(reading.evidence.kernel.clash_resolve),
                grouped(reading.dropped(DropReason::Clash))
            ),
        )
    })
}

fn flushed(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::Dying).then(|| {
        Advice::new(
            "flushed",
            "Find what removes entries then: `conntrack -D` or -F in a script, a CNI or kube-proxy that cleans up, a \
             namespace or an address that goes away; what is sent again gets an entry."
                .to_owned(),
            format!(
                "{} lost as dying",
                plural(reading.dropped(DropReason::Dying), "packet was", "packets were")
            ),
        )
    })
}

fn requests(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::Requests).then(|| {
        Advice::new(
            "requests",
            "Leave conntrackd (or what else makes entries) fewer to make, or set a limit with room for its entries too: \
             no traffic was hurt."
                .to_owned(),
            format!(
                "{} of {} entries were there at most",
                grouped(reading.entries),
                limit_word(reading)
            ),
        )
    })
}

fn limit_word(reading: &Reading<'_>) -> String {
    if reading.limit == 0 {
        "unlimited".to_owned()
    } else {
        grouped(reading.limit)
    }
}

fn buckets_now(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let node = &reading.evidence.node;
    let entries = node.all_entries.max(reading.entries);
    let full = reading.sharing().when_full(reading.limit).max(entries);
    let wanted = buckets_for(full, node.buckets.unwrap_or(0));
    (cause.kind == CauseKind::LongChains).then(|| {
        Advice::new(
            "buckets",
            format!(
                "Set nf_conntrack_buckets to {} at least, which takes {} of kernel memory: then chains are {} long on \
                 average.",
                grouped(wanted),
                bytes(wanted * BUCKET_BYTES),
                figure(chain(full, wanted))
            ),
            format!(
                "{} for {} in all tables",
                node.buckets
                    .map_or_else(|| "an unknown number of buckets".to_owned(), |buckets| {
                        plural(buckets, "bucket", "buckets")
                    }),
                plural(entries, "entry", "entries")
            ),
        )
        .set("nf_conntrack_buckets", wanted)
    })
}

/// Who is behind a flood, and what stops it.
fn stop_flood(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    if let CauseKind::Held | CauseKind::Overlay | CauseKind::Flood = cause.kind {
        let verdict = reading.verdict()?;
        let text = format!("{}.", verdict.remedy());
        return Some(Advice::new("stop_flood", text, verdict.seen()));
    }
    let owner = reading.culprit?;
    match cause.kind {
        CauseKind::SynFlood => Some(Advice::new(
            "stop_flood",
            format!(
                "Stop it before it gets an entry: SYN cookies by a SYNPROXY rule or a rate limit in the raw table (or at \
                 the load balancer) for what comes in to {}; a larger limit would only be filled as well.",
                owner.name
            ),
            format!(
                "{} connections came in, {} of its entries were evicted",
                grouped(owner.inserts_ingress),
                grouped(owner.victims)
            ),
        )),
        CauseKind::OneWayUdp => {
            let to = NamedDestination::after(" to ", foremost(owner));
            Some(Advice::new(
                "stop_flood",
                format!(
                    "Have {} send its UDP{to} from one socket, or exempt it from tracking with a NOTRACK rule in the raw \
                     table; a larger limit would only be filled as well.",
                    owner.name
                ),
                format!(
                    "it took {} of all new entries, for packets that nobody answered",
                    share_f64(reading.insert_share(owner))
                ),
            ))
        }
        _ => None,
    }
}

/// While it lasts: of who opened what filled the table. Of one whom others flood nothing is said: it suffers.
fn contain(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let is_opener = |owner: &&OwnerEvidence| owner.inserts_ingress * 2 < owner.inserts;
    let by_others = matches!(
        cause.kind,
        CauseKind::SynFlood
            // Its own advice has the line.
            | CauseKind::Flood
            | CauseKind::Held
            | CauseKind::Overlay
            | CauseKind::ManyOwners
            | CauseKind::LimitLowered
    );
    let lost = reading.dropped(DropReason::TableFull) + reading.evictions;
    // The rule is in the host's table, through which a pod's own does not pass.
    let of_host = matches!(reading.evidence.table.name.as_str(), "" | "host");
    if by_others || !of_host || lost == 0 || !short_of_room(reading, cause) {
        return None;
    }
    let owner = reading.culprit.filter(is_opener)?;
    let line = containment::line(&owner.name)?;
    Some(Advice::new(
        "contain",
        format!(
            "If it goes on and others suffer: `{line}` says what it would take to limit what {} opens and to delete its entries; --yes \
             does it, for ten minutes.",
            owner.name
        ),
        format!(
            "it took {} of all new entries, and held {} at the peak",
            share_f64(reading.insert_share(owner)),
            plural(owner.live_at_peak, "entry", "entries")
        ),
    ))
}

fn watch(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (cause.kind == CauseKind::NotWatched).then(|| {
        Advice::new(
            "watch",
            "Keep `ctpressure run --journal` running on this node: what was not recorded can't be told.".to_owned(),
            format!(
                "{} in the journal of this time",
                plural(reading.evidence.gaps.len() as u64, "gap", "gaps")
            ),
        )
    })
}

/// Its entries in this state at the peak, as far as the census tells.
fn entries_in(owner: &OwnerEvidence, state: &str) -> u64 {
    as_count(in_state(owner, state) * as_f64(owner.live_at_peak))
}
