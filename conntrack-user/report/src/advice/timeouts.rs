//! The timeout that matters, and what a shorter one would have saved.

use ctpressure_model::{
    pressure::{as_count, as_f64},
    words::{grouped, plural, seconds, share},
};

use super::{
    super::{
        cause::{Cause, CauseKind},
        reading::{Reading, ratio},
    },
    Advice, entries_in, short_of_room,
};

/// A timeout that may be shortened without harm: the state that it ends, its sysctl, the kernel's
/// default and what it can be set to, in seconds.
struct StateTimeout {
    state: &'static str,
    sysctl: &'static str,
    default: u64,
    shorter: u64,
}

/// Entries stay for a timeout after their last packet, so those in a state become fewer in the
/// proportion of the timeouts when they are made at a steady rate and nothing else ends them.
const TIMEOUTS: &[StateTimeout] = &[
    timeout("TIME_WAIT", "nf_conntrack_tcp_timeout_time_wait", 120, 30),
    timeout("CLOSE_WAIT", "nf_conntrack_tcp_timeout_close_wait", 60, 20),
    timeout("FIN_WAIT", "nf_conntrack_tcp_timeout_fin_wait", 120, 30),
    timeout("SYN_SENT", "nf_conntrack_tcp_timeout_syn_sent", 120, 20),
    timeout("SYN_RECV", "nf_conntrack_tcp_timeout_syn_recv", 60, 20),
    timeout("UNREPLIED", "nf_conntrack_udp_timeout", 30, 10),
    timeout("REPLIED", "nf_conntrack_udp_timeout", 30, 10),
    timeout("ASSURED", "nf_conntrack_udp_timeout_stream", 120, 60),
];

/// Established connections end by themselves or after days: how many a shorter timeout ends can't be
/// told from how many there are.
const ESTABLISHED: StateTimeout = timeout(
    "ESTABLISHED",
    "nf_conntrack_tcp_timeout_established",
    432_000,
    7_200,
);

const fn timeout(
    state: &'static str,
    sysctl: &'static str,
    default: u64,
    shorter: u64,
) -> StateTimeout {
    StateTimeout {
        state,
        sysctl,
        default,
        shorter,
    }
}

/// The one timeout that would have saved most, if that is a good part of the table.
pub(super) fn advice(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    if !short_of_room(reading, cause) {
        return None;
    }
    let node = &reading.evidence.node;
    if let CauseKind::EstablishedIdle = cause.kind {
        let owner = reading.culprit?;
        let now = node.fact(ESTABLISHED.sysctl).unwrap_or(ESTABLISHED.default);
        return (now > ESTABLISHED.shorter).then(|| {
            Advice::new(
                "timeout",
                format!(
                    "Shorten {} from {} to {}: connections that were idle for longer would not be among the {} of {}.",
                    ESTABLISHED.sysctl,
                    seconds(now),
                    seconds(ESTABLISHED.shorter),
                    grouped(entries_in(owner, ESTABLISHED.state)),
                    owner.name
                ),
                "connections that are used keep their entries; those with keep-alive too, if it is sent more often \
                 than that"
                    .to_owned(),
            )
            .set(ESTABLISHED.sysctl, ESTABLISHED.shorter)
        });
    }
    let saved = |timeout: &StateTimeout| {
        let now = node.fact(timeout.sysctl).unwrap_or(timeout.default);
        let in_state: u64 = reading
            .evidence
            .owners
            .iter()
            .map(|owner| entries_in(owner, timeout.state))
            .sum();
        let stays = ratio(timeout.shorter.min(now), now);
        (in_state, as_count(as_f64(in_state) * (1.0 - stays)), now)
    };
    let (timeout, (in_state, fewer, now)) = TIMEOUTS
        .iter()
        .map(|timeout| (timeout, saved(timeout)))
        .max_by_key(|(_, (_, fewer, _))| *fewer)?;
    (fewer * 10 >= reading.entries && fewer > 0).then(|| {
        Advice::new(
            "timeout",
            format!(
                "Shorten {} from {} to {}: of the entries in {} that would have saved about {}, {} of the table.",
                timeout.sysctl,
                seconds(now),
                seconds(timeout.shorter),
                timeout.state,
                grouped(fewer),
                share(fewer, reading.entries)
            ),
            format!(
                "{} in {} at the last census, each there for {} after its last packet",
                plural(in_state, "entry was", "entries were"),
                timeout.state,
                seconds(now)
            ),
        )
        .set(timeout.sysctl, timeout.shorter)
    })
}
