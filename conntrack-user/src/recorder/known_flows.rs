//! Flows that were refused or evicted before.
//!
//! A packet that is refused is sent again, and a report has to tell a thousand flows from one that was
//! refused a thousand times. So each event is looked at as it comes, whether there is room to keep it or not.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, SystemTime},
};

use ctpressure_model::events::Tuple;

/// Flows that are remembered for certain; up to twice as many may be.
const REMEMBERED: usize = 1 << 16;
/// They are for so long, up to twice as long without more of them. A connection that is refused is tried
/// again for about two minutes; its port may be another connection's later on.
const FOR: Duration = Duration::from_mins(5);

/// Flows of one kind of event, in two generations: the older one is forgotten when the younger one is
/// full or old.
#[derive(Debug, Default)]
pub(super) struct KnownFlows {
    hash: RandomState,
    younger: HashSet<u64>,
    older: HashSet<u64>,
    /// When the younger one began.
    began: Option<SystemTime>,
}

impl KnownFlows {
    /// Whether it was seen before; from now on it was.
    pub(super) fn saw(&mut self, protocol: Option<&str>, tuple: &Tuple, at: SystemTime) -> bool {
        let began = *self.began.get_or_insert(at);
        let age = at.duration_since(began).unwrap_or_default();
        if self.younger.len() >= REMEMBERED || age >= FOR {
            self.older = std::mem::take(&mut self.younger);
            if age >= 2 * FOR {
                self.older.clear();
            }
            self.began = Some(at);
        }
        let flow = self.hash.hash_one((protocol, tuple));
        let known = self.older.contains(&flow);
        !self.younger.insert(flow) || known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    fn tuple(flow: u32) -> Tuple {
        let [_, _, high, low] = flow.to_be_bytes();
        Tuple {
            source: [10, 88, 0, 2].into(),
            source_port: Some(u16::from_be_bytes([high, low])),
            destination: std::net::Ipv4Addr::from(flow).into(),
            destination_port: Some(80),
            icmp_id: None,
            icmp_type: None,
            icmp_code: None,
        }
    }

    #[test]
    fn each_flow_is_new_once() {
        let mut flows = KnownFlows::default();
        for second in 0..4 {
            for flow in 0..2_000 {
                let saw = flows.saw(Some("tcp"), &tuple(flow), at(second));
                assert_eq!(saw, second > 0, "{flow} in second {second}");
            }
        }
        assert!(
            !flows.saw(Some("udp"), &tuple(0), at(4)),
            "another protocol"
        );
    }

    #[test]
    fn what_is_seen_all_the_time_is_never_new_and_what_was_long_ago_is() {
        let mut flows = KnownFlows::default();
        assert!(!flows.saw(None, &tuple(1), at(0)));
        assert!(!flows.saw(None, &tuple(2), at(0)));
        for second in 1..3_600 {
            assert!(flows.saw(None, &tuple(1), at(second)), "{second}");
        }
        assert!(!flows.saw(None, &tuple(2), at(3_600)));
        assert!(!flows.saw(None, &tuple(1), at(9_000)), "after a long calm");
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut flows = KnownFlows::default();
        for flow in 0..200_000 {
            assert!(!flows.saw(None, &tuple(flow), at(0)), "{flow}");
            let held = flows.younger.len() + flows.older.len();
            assert!(held <= 2 * REMEMBERED, "{held}");
        }
        assert!(flows.saw(None, &tuple(199_999 - 60_000), at(1)));
        assert!(!flows.saw(None, &tuple(0), at(1)));
    }
}
