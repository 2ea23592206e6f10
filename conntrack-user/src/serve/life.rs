//! Whether the agent lives, and whether it can answer for its node: what probes ask, by HTTP and by `ctpressure health`.

use std::time::Duration;

use crate::agent::{AgentState, Snapshot};

/// A snapshot older than this says that the sampler hangs.
pub(super) const STALE: Duration = Duration::from_secs(30);

/// Whether the agent samples; what is wrong if not.
pub(super) fn alive(snapshot: &Snapshot) -> Result<(), String> {
    if snapshot.at.elapsed() <= STALE {
        return Ok(());
    }
    Err(format!("no sample for {} seconds", STALE.as_secs()))
}

/// Whether the agent can answer for its node; the reason if not.
pub(super) fn ready(snapshot: &Snapshot) -> Result<(), String> {
    if snapshot.ready && snapshot.state != AgentState::Waiting {
        return Ok(());
    }
    let reason = snapshot.reason.clone();
    Err(reason.unwrap_or_else(|| "no sample yet".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
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
        assert!(ready(&full()).is_ok());
        let degraded = Snapshot {
            state: AgentState::Degraded,
            ..full()
        };
        assert!(ready(&degraded).is_ok(), "what is seen can be scraped");
        let waiting = Snapshot {
            state: AgentState::Waiting,
            reason: Some("no module".to_owned()),
            ..full()
        };
        assert_eq!(ready(&waiting), Err("no module".to_owned()));
    }
}
