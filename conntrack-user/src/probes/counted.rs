//! Which counts are counts: those of events that have a hook, whose programs know all members that they read. Where
//! one of them is missing, its counter stays at 0 however much happens, so it is withheld. Pure.

use super::{
    plan::{self, EventKind},
    status::{FieldStatus, HookStatus},
};

/// Members without which a program does not count, as in [`ProbeStatus`].
const STATUS: &str = "nf_conn.status";
const TIMEOUT: &str = "nf_conn.timeout";
const ENTRY_OF_PACKET: &str = "sk_buff._nfct";

/// What the attached programs count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Counted {
    pub(super) inserts: bool,
    pub(super) deletes: bool,
    pub(super) evictions: bool,
    pub(super) table_full: bool,
    pub(super) clash: bool,
    /// Chains that were too long, and dying entries.
    pub(super) at_confirm: bool,
    /// What has a hook that could not count, and why.
    pub(super) blind: Vec<String>,
}

impl Counted {
    /// `inserts_at_confirm`: inserts are counted when a packet was confirmed, by the program that sees what is lost
    /// there too.
    pub(super) fn of<'a>(
        hooks: &(impl Iterator<Item = &'a HookStatus> + Clone),
        fields: &[FieldStatus],
        inserts_at_confirm: bool,
    ) -> Self {
        let seen = |kind: EventKind| {
            let name = plan::name(kind);
            let mut hooks = hooks.clone();
            hooks.any(|hook| hook.event == name && hook.attached)
        };
        let mut blind = Vec::new();
        let mut knows = |what: &str, hooked: bool, members: &[&str]| {
            let missing = fields
                .iter()
                .find(|field| field.offset.is_none() && members.contains(&field.field.as_str()));
            if let (true, Some(field)) = (hooked, missing) {
                let reason = field.reason.as_deref().unwrap_or("not found");
                blind.push(format!(
                    "{what}: not counted, since where {} is can't be told: {reason}",
                    field.field
                ));
            }
            hooked && missing.is_none()
        };
        let inserts_need: &[&str] = if inserts_at_confirm {
            &[ENTRY_OF_PACKET]
        } else {
            &[]
        };
        let confirm = seen(EventKind::Confirm) || inserts_at_confirm;
        let evictions = seen(EventKind::Delete) && seen(EventKind::EarlyDrop);
        Self {
            inserts: knows("inserts", seen(EventKind::Insert), inserts_need),
            deletes: seen(EventKind::Delete),
            evictions: knows("evictions", evictions, &[STATUS, TIMEOUT]),
            table_full: seen(EventKind::EarlyDrop),
            clash: seen(EventKind::Clash),
            at_confirm: knows(
                "chain-too-long and dying drops",
                confirm,
                &[ENTRY_OF_PACKET, STATUS],
            ),
            blind,
        }
    }
}

#[cfg(test)]
mod tests {
    use conntrack_ebpf::global::FIELDS;

    use super::*;
    use crate::probes::{Mechanism, plan::PLAN, status::ProbeStatus};

    /// Every event has a hook and every member is known, but for these.
    fn but(missing: &[&str]) -> ProbeStatus {
        let hook = |event: &'static str| HookStatus {
            event,
            function: String::new(),
            mechanism: Some(Mechanism::Fentry),
            at_return: false,
            module: None,
            attached: !missing.contains(&event),
            waits: false,
            reason: None,
        };
        let field = |field: &conntrack_ebpf::global::Field| {
            let name = format!("{}.{}", field.structure, field.members.join("."));
            FieldStatus {
                offset: (!missing.contains(&name.as_str())).then_some(8),
                field: name,
                purpose: field.purpose,
                reason: None,
            }
        };
        ProbeStatus {
            hooks: PLAN.iter().map(|event| hook(event.name)).collect(),
            arming: None,
            fields: FIELDS.iter().map(field).collect(),
        }
    }

    fn of(missing: &[&str]) -> Counted {
        counted_by(&but(missing), false)
    }

    fn counted_by(status: &ProbeStatus, inserts_at_confirm: bool) -> Counted {
        Counted::of(&status.hooks.iter(), &status.fields, inserts_at_confirm)
    }

    #[test]
    fn what_has_no_hook_is_not_counted_and_the_rest_is() {
        let all = of(&[]);
        assert_eq!(
            all,
            Counted {
                inserts: true,
                deletes: true,
                evictions: true,
                table_full: true,
                clash: true,
                at_confirm: true,
                blind: Vec::new(),
            }
        );
        let full = all.clone();
        assert_eq!(of(&["new_flow"]), full, "it only tells whose they are");
        for (missing, expected) in [
            (
                "early_drop",
                Counted {
                    evictions: false,
                    table_full: false,
                    ..all.clone()
                },
            ),
            (
                "delete",
                Counted {
                    evictions: false,
                    deletes: false,
                    ..all.clone()
                },
            ),
            (
                "insert",
                Counted {
                    inserts: false,
                    ..all.clone()
                },
            ),
            (
                "clash",
                Counted {
                    clash: false,
                    ..all.clone()
                },
            ),
            (
                "confirm",
                Counted {
                    at_confirm: false,
                    ..all.clone()
                },
            ),
        ] {
            assert_eq!(of(&[missing]), expected, "without {missing}");
        }
        assert_eq!(
            counted_by(&ProbeStatus::default(), false),
            Counted::default()
        );
    }

    #[test]
    fn inserts_that_are_counted_at_the_confirmation_stand_for_its_hook() {
        let counted = counted_by(&but(&["confirm"]), true);
        assert!(counted.at_confirm && counted.inserts);
        let counted = counted_by(&but(&[ENTRY_OF_PACKET]), true);
        assert!(!counted.at_confirm && !counted.inserts);
        assert_eq!(counted.blind.len(), 2, "{:?}", counted.blind);
    }

    #[test]
    fn a_hook_that_can_not_read_what_it_needs_counts_nothing() {
        for (missing, evictions, at_confirm) in [
            (STATUS, false, false),
            (TIMEOUT, false, true),
            (ENTRY_OF_PACKET, true, false),
            ("nf_conn.zone.id", true, true),
        ] {
            let counted = of(&[missing]);
            let (inserts, deletes) = (counted.inserts, counted.deletes);
            assert!(inserts && deletes && counted.table_full && counted.clash);
            assert_eq!(
                (counted.evictions, counted.at_confirm),
                (evictions, at_confirm)
            );
            let named = counted.blind.iter().all(|text| text.contains(missing));
            assert!(named, "{:?}", counted.blind);
            assert_eq!(counted.blind.is_empty(), evictions && at_confirm);
        }
    }

    #[test]
    fn the_members_are_those_that_are_looked_up() {
        for member in [STATUS, TIMEOUT, ENTRY_OF_PACKET] {
            let known = but(&[]);
            assert!(known.fields.iter().any(|field| field.field == member));
        }
    }
}
