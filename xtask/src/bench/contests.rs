//! Who is measured, and what each may cost at most.

/// Contestants that are measured in one guest, in the order of its script.
#[derive(Debug)]
pub(super) struct Contest {
    /// What is said while it runs.
    pub(super) what: &'static str,
    /// Of the JSON file, without its end.
    pub(super) file: &'static str,
    /// What the guest runs.
    pub(super) script: &'static str,
    pub(super) bpftrace: bool,
    pub(super) clock: BenchClock,
    pub(super) contestants: &'static [Contestant],
    /// Pairs that must cost the same, by name: the second not more than the first.
    pub(super) alike: &'static [(&'static str, &'static str)],
}

/// Which figure of `ctgen` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BenchClock {
    /// All that the machine did meanwhile: also a user space that reads what the kernel tells it.
    Wall,
    /// What the sender's thread did: the agent looks at 250 network namespaces once a second, which is not a cost of
    /// a connection.
    Thread,
}

impl BenchClock {
    /// The member of `ctgen`'s JSON.
    pub(super) const fn member(self) -> &'static str {
        match self {
            Self::Wall => "nanoseconds",
            Self::Thread => "thread_nanoseconds",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contestant {
    /// Its name in the guest's script.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The name of the contestant that it is compared with; its own if it is one of those.
    pub(super) base: &'static str,
    pub(super) budget: Option<InstructionBudget>,
    /// All its flows have to be charged to one owner.
    pub(super) charged: bool,
}

/// The most instructions that may be added to one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct InstructionBudget {
    pub(super) new: f64,
    pub(super) ended: f64,
}

const fn base(name: &'static str, title: &'static str) -> Contestant {
    plain(name, title, name)
}

const fn plain(name: &'static str, title: &'static str, base: &'static str) -> Contestant {
    Contestant {
        name,
        title,
        base,
        budget: None,
        charged: false,
    }
}

const fn charged(name: &'static str, title: &'static str, base: &'static str) -> Contestant {
    Contestant {
        charged: true,
        ..plain(name, title, base)
    }
}

/// By the trampoline: the most that may be added to a new connection, with its owner looked up, and to one that ends, whose owner is looked
/// up once more.
const fn fentry(name: &'static str, title: &'static str, base: &'static str) -> Contestant {
    Contestant {
        budget: Some(InstructionBudget {
            new: 800.0,
            ended: 400.0,
        }),
        ..charged(name, title, base)
    }
}

/// The same by kprobes.
const fn kprobe(name: &'static str, title: &'static str, base: &'static str) -> Contestant {
    Contestant {
        budget: Some(InstructionBudget {
            new: 1500.0,
            ended: 700.0,
        }),
        ..charged(name, title, base)
    }
}

const COMMON: &str = include_str!("../../guest/bench_common.sh");

/// What runs in the guest.
pub(super) fn script(contest: &Contest) -> String {
    format!("{COMMON}\n{}", contest.script)
}

/// ctpressure and its peers on an empty table. The flows are a pod's.
pub(super) const PEERS: Contest = Contest {
    what: "ctpressure and its peers",
    file: "kernel-cost",
    script: include_str!("../../guest/bench.sh"),
    bpftrace: true,
    clock: BenchClock::Wall,
    contestants: &[
        base("bare", "nothing attached; a pod's flows"),
        fentry("ctpressure-fentry", "ctpressure, fentry/fexit", "bare"),
        kprobe("ctpressure-kprobe", "ctpressure, kprobes", "bare"),
        charged(
            "ctpressure-fentry-records",
            "ctpressure, fentry/fexit, every insert recorded, read",
            "bare",
        ),
        charged(
            "ctpressure-kprobe-records",
            "ctpressure, kprobes, every insert recorded, read",
            "bare",
        ),
        plain("bpftrace", "bpftrace, four probes, counts only", "bare"),
        plain("conntrack-events", "conntrack -E -e NEW to a file", "bare"),
        // How far the base moved during the run.
        plain("bare-again", "nothing attached, again at the end", "bare"),
    ],
    alike: &[],
};

/// What it costs that entries have owners, one of them and as many as a full node has.
pub(super) const OWNERS: Contest = Contest {
    what: "what owners cost",
    file: "owner-cost",
    script: include_str!("../../guest/bench_owners.sh"),
    bpftrace: false,
    clock: BenchClock::Thread,
    contestants: &[
        base("bare-pod", "nothing attached; a pod's flows"),
        fentry("owners-1-fentry", "one pod, fentry/fexit", "bare-pod"),
        kprobe("owners-1-kprobe", "one pod, kprobes", "bare-pod"),
        fentry(
            "owners-250-fentry",
            "one of 250 pods, fentry/fexit",
            "bare-pod",
        ),
        kprobe("owners-250-kprobe", "one of 250 pods, kprobes", "bare-pod"),
        // Who shares the host's addresses is told by the socket. No budget: it has to be asked, and what is a unit's
        // is tagged.
        base("bare-host", "nothing attached; a host socket's flows"),
        charged("host-fentry", "the host, fentry/fexit", "bare-host"),
        charged("host-kprobe", "the host, kprobes", "bare-host"),
        charged(
            "unit-fentry",
            "a host unit, each entry tagged, fentry/fexit",
            "bare-host",
        ),
        charged(
            "unit-kprobe",
            "a host unit, each entry tagged, kprobes",
            "bare-host",
        ),
    ],
    alike: &[
        ("owners-1-fentry", "owners-250-fentry"),
        ("owners-1-kprobe", "owners-250-kprobe"),
    ],
};

/// What it costs in a table that holds much.
pub(super) const ENTRIES: Contest = Contest {
    what: "what many entries cost",
    file: "entries-cost",
    script: include_str!("../../guest/bench_entries.sh"),
    bpftrace: false,
    clock: BenchClock::Thread,
    contestants: &[
        base("entries-1000-bare", "nothing attached; 1,000 entries"),
        fentry(
            "entries-1000-fentry",
            "a pod, fentry/fexit; 1,000 entries",
            "entries-1000-bare",
        ),
        base(
            "entries-1000000-bare",
            "nothing attached; 1,000,000 entries",
        ),
        fentry(
            "entries-1000000-fentry",
            "a pod, fentry/fexit; 1,000,000 entries",
            "entries-1000000-bare",
        ),
    ],
    alike: &[("entries-1000-fentry", "entries-1000000-fentry")],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_contestants_are_of_one_mind() {
        for contest in [&PEERS, &OWNERS, &ENTRIES] {
            let script = contest.script;
            for contestant in contest.contestants {
                // Those of the tables are made from their number.
                let name = contestant
                    .name
                    .replace("1000000", "$1")
                    .replace("1000", "$1");
                assert!(script.contains(&name), "{name} is not in its script");
                let mut all = contest.contestants.iter();
                assert!(all.any(|other| other.name == contestant.base));
            }
            for (first, second) in contest.alike {
                for name in [first, second] {
                    assert!(contest.contestants.iter().any(|other| other.name == *name));
                }
            }
        }
    }
}
