//! What the clients can do that fill the table.

use ctpressure_model::{
    pressure::{as_count, as_f64},
    words::{a_second, grouped, share_f64},
};

use super::{
    super::{
        cause::{Cause, CauseKind, foremost, in_state},
        reading::Reading,
    },
    Advice, short_of_room,
};

/// The destination of most of an owner's connections, if it could use fewer.
pub(super) fn reuse(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let owner = reading.culprit.filter(|_| short_of_room(reading, cause))?;
    let closed = in_state(owner, "TIME_WAIT");
    let tcp = owner.destinations.iter().all(|one| one.protocol == "tcp");
    let to = foremost(owner).filter(|to| to.protocol == "tcp");
    let rate = reading.attempts_climbing(owner);
    let often = cause.kind == CauseKind::TimeWait || (closed >= 0.3 && rate >= 10.0);
    (often && tcp).then(|| {
        let to = to.map_or_else(|| "its backends".to_owned(), |to| to.name.clone());
        Advice::new(
            "reuse",
            format!(
                "Have {} keep its connections to {to} open and use them again (keep-alive, a pool): it opened up \
                 to {}.",
                owner.name,
                a_second(rate, "connection", "connections")
            ),
            format!(
                "{} of its entries were in TIME_WAIT, {}",
                share_f64(closed),
                grouped(as_count(closed * as_f64(owner.live_at_peak)))
            ),
        )
    })
}

pub(super) fn leak(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let owner = reading.culprit?;
    let what = match cause.kind {
        CauseKind::SlowLeak => "find what opens connections there and does not close them",
        CauseKind::EstablishedIdle => {
            "find out whether those connections are used, and close idle ones (keep-alive, idle time-out)"
        }
        _ => return None,
    };
    Some(Advice::new(
        "leak",
        format!("In {}, {what}.", owner.name),
        format!(
            "{} came and {} went; it held {} at the peak",
            grouped(owner.inserts),
            grouped(owner.deletes),
            grouped(owner.live_at_peak)
        ),
    ))
}

pub(super) fn retries(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let owner = reading.culprit?;
    (cause.kind == CauseKind::RetryStorm).then(|| {
        Advice::new(
            "retries",
            format!(
                "Have {} wait longer between its tries (exponential back-off with jitter): each is a new connection.",
                owner.name
            ),
            cause.evidence.clone(),
        )
    })
}

pub(super) fn dns_cache(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let owner = reading.culprit?;
    (cause.kind == CauseKind::DnsStorm).then(|| {
        Advice::new(
            "dns_cache",
            format!(
                "Have {} ask less (a cache in it, fewer search domains by `ndots`), or run a DNS cache on the node \
                 (NodeLocal DNSCache).",
                owner.name
            ),
            cause.evidence.clone(),
        )
    })
}
