//! Which candidates of the plan a kernel has, and how a hook is reported. Pure.

use super::{
    Mechanism, Options,
    plan::{COUNTS_AT_CONFIRM, Candidate, EventKind, HookEvent, PLAN},
    select::{self, KernelSymbols, Resolved},
    status::{HookStatus, ProbeStatus},
};

pub(super) type Candidates = Vec<Result<(Mechanism, Vec<Resolved>), String>>;

/// For each event the candidates of the mechanisms asked for: as this kernel has them, or why it
/// does not.
pub(super) fn choose(
    options: &Options,
    kernel: &impl KernelSymbols,
) -> Vec<(&'static HookEvent, Candidates)> {
    let asked = |candidate: &&Candidate| {
        options
            .mechanism
            .is_none_or(|mechanism| mechanism == candidate.mechanism)
    };
    let resolve = |candidate: &Candidate| {
        let hooks = select::resolve(candidate, kernel)
            .map_err(|reason| format!("{}: {reason}", candidate.mechanism))?;
        Ok((candidate.mechanism, hooks))
    };
    PLAN.iter()
        .map(|event| {
            (
                event,
                event.candidates.iter().filter(asked).map(resolve).collect(),
            )
        })
        .collect()
}

/// What would be attached if every program were taken.
pub(super) fn foresee(plan: Vec<(&'static HookEvent, Candidates)>) -> Vec<HookStatus> {
    let mut statuses = Vec::new();
    let mut counts_at_confirm = false;
    for (event, candidates) in plan {
        if event.kind == EventKind::Confirm && counts_at_confirm {
            continue;
        }
        let mut reasons = Vec::new();
        let first = candidates
            .into_iter()
            .find_map(|candidate| match candidate {
                Ok(candidate) => Some(candidate),
                Err(reason) => {
                    reasons.push(reason);
                    None
                }
            });
        match first {
            Some((mechanism, hooks)) => {
                counts_at_confirm |= hooks.iter().any(|hook| hook.program == COUNTS_AT_CONFIRM);
                let offered = |hook| HookStatus {
                    attached: false,
                    ..status_of(event, mechanism, hook, &reasons)
                };
                statuses.extend(hooks.iter().map(offered));
            }
            None => statuses.push(no_hook(event, &reasons)),
        }
    }
    statuses
}

/// What is seen when nothing is attached: no event, for this reason.
pub(crate) fn nothing(reason: &str) -> ProbeStatus {
    let reasons = [reason.to_owned()];
    ProbeStatus {
        hooks: PLAN.iter().map(|event| no_hook(event, &reasons)).collect(),
        arming: None,
        fields: Vec::new(),
    }
}

/// A hook that was chosen.
pub(super) fn status_of(
    event: &'static HookEvent,
    mechanism: Mechanism,
    hook: &Resolved,
    passed_over: &[String],
) -> HookStatus {
    HookStatus {
        event: event.name,
        function: hook.symbol.name.clone(),
        mechanism: Some(mechanism),
        at_return: hook.at_return,
        module: hook.symbol.module.clone(),
        attached: true,
        waits: false,
        reason: (!passed_over.is_empty()).then(|| passed_over.join("; ")),
    }
}

/// An event that has none.
pub(super) fn no_hook(event: &'static HookEvent, reasons: &[String]) -> HookStatus {
    HookStatus {
        event: event.name,
        function: event.candidates[0].hooks[0].function.to_owned(),
        mechanism: None,
        at_return: false,
        module: None,
        attached: false,
        waits: false,
        reason: Some(format!("{}: {}", event.without, reasons.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::kallsyms::Symbol, probes::select::BtfFunction};

    /// A kernel with every function, but for one; with or without BTF.
    struct MadeChoice {
        without: &'static str,
        btf: bool,
    }

    impl KernelSymbols for MadeChoice {
        fn btf_function(&self, name: &str) -> Option<BtfFunction> {
            let hooks = PLAN
                .iter()
                .flat_map(|event| event.candidates)
                .flat_map(|candidate| candidate.hooks);
            hooks
                .filter(|hook| self.btf && hook.function == name)
                .map(|hook| BtfFunction {
                    id: 1,
                    in_module: true,
                    parameters: hook.parameters,
                })
                .next()
        }

        fn symbol(&self, name: &str) -> Option<Symbol> {
            (name != self.without).then(|| Symbol {
                name: name.to_owned(),
                module: None,
                code: true,
            })
        }

        fn suffixed_symbol(&self, _: &str) -> Option<Symbol> {
            None
        }
    }

    fn missing(kernel: &MadeChoice) -> Vec<&'static str> {
        foresee(choose(&Options::default(), kernel))
            .iter()
            .filter(|hook| hook.mechanism.is_none())
            .map(|hook| hook.event)
            .collect()
    }

    /// Kernels before 6.1 have all of them but this one.
    #[test]
    fn deletes_are_seen_where_softirqs_are_off() {
        for btf in [true, false] {
            let before_6_1 = MadeChoice {
                without: "__nf_ct_delete_from_lists",
                btf,
            };
            let hooks = foresee(choose(&Options::default(), &before_6_1));
            let delete = hooks.iter().find(|hook| hook.event == "delete");
            assert_eq!(
                delete.map(|hook| hook.function.as_str()),
                Some("nf_ct_remove_expectations")
            );
        }
    }

    #[test]
    fn without_any_hook_every_event_says_so() {
        let status = nothing("no usable BTF");
        assert_eq!(status.hooks.len(), PLAN.len());
        assert_eq!(status.missing().count(), PLAN.len());
        assert!(status.hooks.iter().all(|hook| {
            let reason = hook.reason.as_deref().unwrap_or_default();
            reason.contains("no usable BTF")
        }));
    }

    #[test]
    fn what_a_kernel_would_show() {
        let of = |without, btf| missing(&MadeChoice { without, btf });
        assert!(of("", true).is_empty());
        assert_eq!(of("early_drop", true), ["early_drop"]);
        // A kretprobe at each confirmation would cost too much.
        assert_eq!(of("", false), ["confirm"]);
        let options = Options::default();
        let kernel = MadeChoice {
            without: "",
            btf: true,
        };
        let hooks = foresee(choose(&options, &kernel));
        assert!(hooks.iter().all(|hook| !hook.attached), "nothing is yet");
        assert!(
            hooks
                .iter()
                .all(|hook| hook.mechanism == Some(Mechanism::Fentry)),
            "{hooks:?}"
        );
    }
}
