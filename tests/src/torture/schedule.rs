//! What is done to a node: rounds of actions that a seed stands for. Pure.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Actions that are begun together. When all of them are done, every count is compared with the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Any of them may be left out: the rest makes sense without it.
    pub steps: Vec<Step>,
}

/// An action of a round, and when it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds after the begin of the round.
    pub after: u64,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
}

/// One thing that is done to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// New flows, one packet each.
    Send {
        /// Who.
        sender: Sender,
        /// Of protocols without ports, GRE among them; else UDP, TCP, ICMP, SCTP in turn.
        portless: bool,
        /// How many.
        flows: u64,
        /// How many a second; 0: as fast as it goes.
        rate: u32,
    },
    /// Connections from a unit to a server that answers, closed after a while.
    Connect {
        /// TCP; else UDP.
        tcp: bool,
        /// How many.
        flows: u64,
    },
    /// Pairs of packets of one flow, from two CPUs at the same moment.
    Clash {
        /// How many pairs.
        flows: u64,
    },
    /// A pod is made, unless it is there.
    MakePod {
        /// Which.
        pod: u8,
        /// The last number of its address, which another one may have had before.
        address: u8,
    },
    /// A pod is killed in whatever it does.
    RemovePod {
        /// Which.
        pod: u8,
    },
    /// Somebody lists the table.
    List,
    /// The limit is another.
    Limit {
        /// How many entries.
        entries: u64,
    },
    /// The hash table is another.
    Buckets {
        /// How many.
        buckets: u64,
    },
    /// The table is flushed.
    Flush,
    /// The agent is killed, and another one is started.
    KillAgent {
        /// It may raise the limit.
        controller: bool,
        /// It attaches by kprobes.
        kprobe: bool,
    },
    /// Conntrack is taken out of the kernel and comes back.
    ReloadModules,
    /// Clients of the agent's port that say nothing.
    SilentClients {
        /// How many.
        clients: u16,
    },
    /// Clients of the agent's socket that ask for events and don't read them.
    DeafWatchers {
        /// How many.
        watchers: u16,
    },
    /// The file system of the journal is full for a while.
    FillDisk,
    /// The clock jumps.
    StepClock {
        /// By so many seconds.
        seconds: i64,
    },
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// A pod, from inside.
    Pod(u8),
    /// Somebody in the host's network by the address of a pod, so that it learns which packets were refused.
    AsPod(u8),
    /// A process of the host.
    Host,
    /// A process of a unit.
    Unit,
    /// Addresses that nobody has.
    Nobody,
    /// A network namespace without an owner, by the address of a pod.
    Foreign,
}

/// How many pods there are at most.
pub const PODS: u8 = 6;
/// From so many addresses they get theirs, so that addresses come back.
const ADDRESSES: u8 = 8;

/// The rounds of a seed, without end.
#[derive(Clone, Debug)]
pub struct Schedule(Rng);

impl Schedule {
    /// The same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    fn action(&mut self) -> Action {
        let rng = &mut self.0;
        let pod = rng.u8(0..PODS);
        match rng.u32(0..100) {
            0..36 => {
                let sender = match rng.u32(0..12) {
                    0..4 => Sender::Pod(pod),
                    4..6 => Sender::AsPod(pod),
                    6..8 => Sender::Host,
                    8..10 => Sender::Unit,
                    10 => Sender::Nobody,
                    _ => Sender::Foreign,
                };
                Action::Send {
                    sender,
                    portless: rng.u32(0..5) == 0,
                    flows: rng.u64(50..3_000),
                    rate: [0, 200, 1_000][rng.usize(0..3)],
                }
            }
            36..42 => Action::Connect {
                tcp: rng.bool(),
                flows: rng.u64(10..120),
            },
            42..48 => Action::Clash {
                flows: rng.u64(100..1_500),
            },
            48..60 => Action::MakePod {
                pod,
                address: rng.u8(0..ADDRESSES),
            },
            60..65 => Action::RemovePod { pod },
            65..69 => Action::List,
            69..75 => Action::Limit {
                entries: rng.u64(500..20_000),
            },
            75..78 => Action::Buckets {
                buckets: 1 << rng.u32(10..17),
            },
            78..83 => Action::Flush,
            83..87 => Action::KillAgent {
                controller: rng.bool(),
                kprobe: rng.bool(),
            },
            87..89 => Action::ReloadModules,
            89..92 => Action::SilentClients {
                clients: rng.u16(10..300),
            },
            92..95 => Action::DeafWatchers {
                watchers: rng.u16(1..12),
            },
            95..97 => Action::FillDisk,
            _ => Action::StepClock {
                seconds: rng.i64(-5_000..100_000),
            },
        }
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let steps = (0..self.0.usize(2..9))
            .map(|_| Step {
                after: self.0.u64(0..1_500),
                action: self.action(),
            })
            .collect();
        Some(Round { steps })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_is_one_schedule_and_another_one_another() {
        let rounds = |seed| Schedule::new(seed).take(20).collect::<Vec<_>>();
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn every_action_comes() {
        let kind = |step: &Step| std::mem::discriminant(&step.action);
        let kinds: HashSet<_> = Schedule::new(1)
            .take(200)
            .flat_map(|round| round.steps.iter().map(kind).collect::<Vec<_>>())
            .collect();
        assert_eq!(kinds.len(), 15);
    }

    #[test]
    fn a_round_survives_json() {
        for round in Schedule::new(3).take(50) {
            let text = serde_json::to_string(&round).unwrap();
            assert_eq!(serde_json::from_str::<Round>(&text).unwrap(), round);
        }
    }
}
