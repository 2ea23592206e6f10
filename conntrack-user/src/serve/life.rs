//! Whether the agent lives, and whether it can answer for its node: what probes ask, by HTTP and by `ctpressure health`.

use std::time::Duration;

use crate::agent::Snapshot;

/// A snapshot older than this says that the sampler hangs.
pub(super) const STALE: Duration = Duration::from_secs(30);

/// Whether the agent samples; what is wrong if not.
pub(super) fn alive(snapshot: &Snapshot) -> Result<(), String> {
    if snapshot.at.elapsed() <= STALE {
        return Ok(());
    }
    Err(format!("no sample for {} seconds", STALE.as_secs()))
}

/// Whether the agent can answer for its node, and in which words; the reason if not.
pub(super) fn ready(snapshot: &Snapshot) -> Result<String, String> {
    let reason = snapshot.reason.clone();
    if snapshot.waits() {
        Ok(format!("ready, waiting: {}", reason.unwrap_or_default()))
    } else if snapshot.ready {
        Ok("ready".to_owned())
    } else {
        Err(reason.unwrap_or_else(|| "no sample yet".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::agent::AgentState;
    use crate::serve::metrics::tests::full;

    #[test]
    fn who_samples_no_more_is_not_alive() {
        assert_eq!(alive(&full()), Ok(()));
        assert_eq!(alive(&Snapshot::default()), Ok(()), "it has just begun");
        let Some(at) = Instant::now().checked_sub(STALE + Duration::from_secs(1)) else {
            return;
        };
        let hangs = Snapshot { at, ..full() };
        assert_eq!(alive(&hangs), Err("no sample for 30 seconds".to_owned()));
    }

    #[test]
    fn ready_only_with_a_sample() {
        assert!(ready(&Snapshot::default()).is_err());
        assert_eq!(ready(&full()), Ok("ready".to_owned()));
        let degraded = Snapshot {
            state: AgentState::Degraded,
            ..full()
        };
        assert!(ready(&degraded).is_ok(), "what is seen can be scraped");
        let unseen = Snapshot {
            ready: false,
            reason: Some("no tables".to_owned()),
            ..full()
        };
        assert_eq!(ready(&unseen), Err("no tables".to_owned()));
    }

    #[test]
    fn who_waits_for_conntrack_is_ready_and_says_that_it_waits() {
        let waiting = Snapshot {
            state: AgentState::Waiting,
            reason: Some("no module".to_owned()),
            ..full()
        };
        assert_eq!(ready(&waiting), Ok("ready, waiting: no module".to_owned()));
    }
}
