//! The hook plan: for each event, in order of preference, which programs go where.
//!
//! Data only. `select.rs` takes the first candidate that the running kernel offers.

use super::Mechanism;

/// One program in one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The program's name in the eBPF object.
    pub program: &'static str,
    /// The kernel function's name.
    pub function: &'static str,
    /// Where the compiler made a variant of the function, its name may have a suffix such as
    /// `.isra.0` (never `.cold`: that is a part of it).
    pub may_have_suffix: bool,
    /// At its return, else at its entry.
    pub at_return: bool,
    /// How many parameters the program takes the function to have: fentry and fexit read them by
    /// position, so a function that has another number is not the one that is meant.
    pub parameters: u32,
}

/// One way to see an event: all of its hooks or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The mechanism of all its hooks.
    pub mechanism: Mechanism,
    /// Attached in this order, detached in reverse.
    pub hooks: &'static [Hook],
}

/// What is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    /// Inserts, counted and sampled.
    Insert,
    /// Deletes; under `early_drop` evictions.
    Delete,
    /// Table-full drops, and the context of evictions.
    EarlyDrop,
    /// The new flow that a table-full drop or an eviction is about.
    NewFlow,
    Clash,
    /// The other losses at the confirmation, and the packet behind an insert.
    Confirm,
}

impl EventKind {
    /// Whether it only matters while a table may fill or its chains are long: see [`super::arming`].
    pub(crate) const fn is_on_demand(self) -> bool {
        matches!(self, Self::NewFlow | Self::Confirm)
    }
}

/// An event and the ways to see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HookEvent {
    pub kind: EventKind,
    /// Name in `ctpressure status` and metrics.
    pub name: &'static str,
    /// What is missing when no candidate can be had.
    pub without: &'static str,
    /// In order of preference.
    pub candidates: &'static [Candidate],
}

const fn entry(program: &'static str, function: &'static str, parameters: u32) -> Hook {
    Hook {
        program,
        function,
        may_have_suffix: false,
        at_return: false,
        parameters,
    }
}

const fn at_return(program: &'static str, function: &'static str, parameters: u32) -> Hook {
    Hook {
        at_return: true,
        ..entry(program, function, parameters)
    }
}

/// At a function that compilers like to give a suffix.
const fn init_conntrack(program: &'static str) -> Hook {
    Hook {
        may_have_suffix: true,
        ..entry(program, "init_conntrack", 6)
    }
}

const fn fentry(hooks: &'static [Hook]) -> Candidate {
    Candidate {
        mechanism: Mechanism::Fentry,
        hooks,
    }
}

const fn kprobe(hooks: &'static [Hook]) -> Candidate {
    Candidate {
        mechanism: Mechanism::Kprobe,
        hooks,
    }
}

/// The program whose inserts are counted at the confirmation; it also does what
/// [`EventKind::Confirm`] is for.
pub(crate) const COUNTS_AT_CONFIRM: &str = "confirm_counting_fexit";

/// All events, in the order in which they are attached.
pub(crate) const PLAN: &[HookEvent] = &[
    HookEvent {
        kind: EventKind::NewFlow,
        name: "new_flow",
        without: "table-full drops and evictions are counted, but not which flow they are about",
        candidates: &[
            fentry(&[entry("new_flow_alloc_fentry", "__nf_conntrack_alloc", 6)]),
            kprobe(&[init_conntrack("new_flow_init_kprobe")]),
            kprobe(&[entry("new_flow_alloc_kprobe", "__nf_conntrack_alloc", 6)]),
        ],
    },
    HookEvent {
        kind: EventKind::EarlyDrop,
        name: "early_drop",
        without: "table-full drops and evictions are not seen; the kernel's own statistics have \
                  their numbers",
        // The end first: an end without a begin is taken for a drop, a begin without an end would
        // be waited for.
        candidates: &[
            fentry(&[
                at_return("early_drop_fexit", "early_drop", 2),
                entry("early_drop_fentry", "early_drop", 2),
            ]),
            kprobe(&[
                at_return("early_drop_kretprobe", "early_drop", 2),
                entry("early_drop_kprobe", "early_drop", 2),
            ]),
        ],
    },
    HookEvent {
        kind: EventKind::Delete,
        name: "delete",
        without: "deletes and evictions are not counted",
        // With softirqs off, where the kernel skips none: kernels before 6.1 have no `__nf_ct_delete_from_lists`, and
        // `nf_ct_delete_from_lists` is entered with softirqs on, so that a delete in one that comes in the middle of the
        // program would not be seen.
        candidates: &[
            fentry(&[entry("delete_fentry", "__nf_ct_delete_from_lists", 1)]),
            fentry(&[entry(
                "delete_expectations_fentry",
                "nf_ct_remove_expectations",
                1,
            )]),
            fentry(&[entry("delete_fentry", "nf_ct_delete_from_lists", 1)]),
            kprobe(&[entry("delete_kprobe", "__nf_ct_delete_from_lists", 1)]),
            kprobe(&[entry(
                "delete_expectations_kprobe",
                "nf_ct_remove_expectations",
                1,
            )]),
            kprobe(&[entry("delete_kprobe", "nf_ct_delete_from_lists", 1)]),
        ],
    },
    HookEvent {
        kind: EventKind::Clash,
        name: "clash",
        without: "clash drops are not seen, nor entries that a resolved clash lets in in one direction, so that \
                  inserts may be off by the kernel's statistic clash_resolve; its own statistics have the number \
                  of both",
        candidates: &[
            fentry(&[at_return("clash_fexit", "nf_ct_resolve_clash", 3)]),
            kprobe(&[
                at_return("clash_kretprobe", "nf_ct_resolve_clash", 3),
                entry("clash_kprobe", "nf_ct_resolve_clash", 3),
            ]),
        ],
    },
    HookEvent {
        kind: EventKind::Insert,
        name: "insert",
        without: "inserts are not counted",
        candidates: &[
            fentry(&[entry("insert_fentry", "__nf_conntrack_hash_insert", 3)]),
            fentry(&[
                at_return(COUNTS_AT_CONFIRM, "__nf_conntrack_confirm", 1),
                at_return("check_insert_fexit", "nf_conntrack_hash_check_insert", 1),
            ]),
            kprobe(&[entry("insert_kprobe", "__nf_conntrack_hash_insert", 3)]),
        ],
    },
    HookEvent {
        kind: EventKind::Confirm,
        name: "confirm",
        // A kretprobe here would cost each new connection more than all the others together.
        without: "chain-too-long and dying drops are not seen by a probe; the kernel's own \
                  statistics have their numbers",
        candidates: &[fentry(&[at_return(
            "confirm_fexit",
            "__nf_conntrack_confirm",
            1,
        )])],
    },
];

/// Where an event is in the plan; behind it if it has no place there.
pub(super) fn place(name: &str) -> usize {
    let found = PLAN.iter().position(|event| event.name == name);
    found.unwrap_or(PLAN.len())
}

/// What an event is called.
pub(super) fn name(kind: EventKind) -> &'static str {
    PLAN.iter()
        .find(|event| event.kind == kind)
        .map_or("", |event| event.name)
}

/// Whether this program counts what enters or leaves a table: where a run of it is skipped, such a count is off.
pub(super) fn counts_entries(program: &str) -> bool {
    let counting = PLAN.iter().filter(|event| {
        matches!(
            event.kind,
            EventKind::Insert | EventKind::Delete | EventKind::Clash
        )
    });
    let mut hooks = counting.flat_map(|event| event.candidates.iter().flat_map(|one| one.hooks));
    hooks.any(|hook| hook.program == program)
}

/// What is attached only while a table is nearly full, where the new flow is seen by fentry: the
/// packet that a table-full drop loses. It tells the socket, and with it the owner among those who
/// share the host's addresses.
pub(crate) const NEW_FLOW_PACKET: Hook = init_conntrack("new_flow_packet_kprobe");

/// Its name in `ctpressure status` and metrics.
pub(crate) const NEW_FLOW_PACKET_EVENT: &str = "new_flow_packet";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_of_one_event_are_whole() {
        for event in PLAN {
            assert!(!event.candidates.is_empty(), "{}", event.name);
            for candidate in event.candidates {
                assert!(!candidate.hooks.is_empty(), "{}", event.name);
                for hook in candidate.hooks {
                    let suffix = match (candidate.mechanism, hook.at_return) {
                        (Mechanism::Fentry, false) => "_fentry",
                        (Mechanism::Fentry, true) => "_fexit",
                        (Mechanism::Kprobe, false) => "_kprobe",
                        (Mechanism::Kprobe, true) => "_kretprobe",
                    };
                    assert!(hook.program.ends_with(suffix), "{}", hook.program);
                }
            }
        }
    }

    #[test]
    fn what_tells_more_of_an_insert_counts_none() {
        for (program, counts) in [
            ("insert_fentry", true),
            (COUNTS_AT_CONFIRM, true),
            ("delete_kprobe", true),
            ("clash_fexit", true),
            ("confirm_fexit", false),
            ("new_flow_alloc_fentry", false),
            (NEW_FLOW_PACKET.program, false),
        ] {
            assert_eq!(counts_entries(program), counts, "{program}");
        }
    }

    #[test]
    fn fentry_comes_before_kprobe() {
        for event in PLAN {
            let order: Vec<_> = event
                .candidates
                .iter()
                .map(|c| c.mechanism == Mechanism::Kprobe)
                .collect();
            assert!(order.is_sorted(), "{}", event.name);
        }
    }
}
