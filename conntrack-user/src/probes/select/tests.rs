//! The plan on captured kernels, also such as are not booted in tests.

use super::*;
use crate::{
    kernel::{btf::Btf, fixtures, kallsyms::Symbols},
    probes::{
        globals::find_fields,
        plan::{EventKind, PLAN},
        running::{Running, SYMBOLS},
    },
};

/// The functions that each event would be seen at: what is attached where attaching works as the
/// fixture's notes say.
fn chosen(name: &str, without: &[&str]) -> Vec<(EventKind, String)> {
    let fixture = fixtures::load(name);
    let vmlinux = Btf::parse(&fixture.vmlinux, None).expect("vmlinux BTF");
    let module = fixture
        .module
        .as_deref()
        .map(|bytes| Btf::parse(bytes, Some(&vmlinux)).expect("split"));
    let without: Vec<String> = without.iter().map(ToString::to_string).collect();
    let kernel = Running {
        vmlinux: &vmlinux,
        module: module.as_ref(),
        symbols: Symbols::read(&fixture.root, SYMBOLS).expect("kallsyms"),
        without: &without,
        gap: None,
    };
    PLAN.iter()
        .filter_map(|event| {
            let found = event.candidates.iter().find_map(|candidate| {
                if candidate.mechanism == Mechanism::Fentry && !fixture.direct_calls {
                    return None;
                }
                resolve(candidate, &kernel)
                    .ok()
                    .map(|hooks| (candidate.mechanism, hooks))
            });
            let (mechanism, hooks) = found?;
            let target = match mechanism {
                Mechanism::Fentry => hooks[0].symbol.name.clone(),
                Mechanism::Kprobe => hooks[0].kprobe_target(),
            };
            Some((event.kind, format!("{mechanism} {target}")))
        })
        .collect()
}

fn at(chosen: &[(EventKind, String)], kind: EventKind) -> &str {
    chosen
        .iter()
        .find(|(event, _)| *event == kind)
        .map_or("", |(_, target)| target)
}

#[test]
fn kernels_with_module_btf_are_probed_by_fentry() {
    for name in [
        "debian-6.1",
        "debian-6.12",
        "debian-6.18",
        "debian-7.3",
        "ubuntu-6.8",
    ] {
        let chosen = chosen(name, &[]);
        assert_eq!(chosen.len(), PLAN.len(), "{name}: {chosen:?}");
        for (event, target) in &chosen {
            assert!(
                target.starts_with("fentry "),
                "{name}: {event:?} at {target}"
            );
        }
        assert_eq!(
            at(&chosen, EventKind::Insert),
            "fentry __nf_conntrack_hash_insert",
            "{name}"
        );
    }
}

#[test]
fn debian_5_10_has_no_module_btf_and_other_names() {
    let chosen = chosen("debian-5.10", &[]);
    assert_eq!(
        at(&chosen, EventKind::NewFlow),
        "kprobe nf_conntrack:init_conntrack.constprop.0"
    );
    assert_eq!(
        at(&chosen, EventKind::Delete),
        "kprobe nf_conntrack:nf_ct_remove_expectations"
    );
    assert_eq!(
        at(&chosen, EventKind::EarlyDrop),
        "kprobe nf_conntrack:early_drop"
    );
    assert_eq!(
        at(&chosen, EventKind::Confirm),
        "",
        "a kretprobe there would cost too much"
    );
}

#[test]
fn arm64_without_direct_calls_falls_back_to_kprobes() {
    let chosen = chosen("debian-6.1-arm64", &[]);
    assert_eq!(
        at(&chosen, EventKind::NewFlow),
        "kprobe nf_conntrack:init_conntrack.constprop.0"
    );
    assert!(at(&chosen, EventKind::Insert).starts_with("kprobe nf_conntrack:"));
}

#[test]
fn cos_has_conntrack_built_in_and_the_insert_inlined() {
    let chosen = chosen("cos", &[]);
    assert_eq!(
        at(&chosen, EventKind::Insert),
        "fentry __nf_conntrack_confirm"
    );
    assert_eq!(
        at(&chosen, EventKind::NewFlow),
        "fentry __nf_conntrack_alloc"
    );
    assert!(!at(&chosen, EventKind::Delete).is_empty());
    assert!(
        chosen
            .iter()
            .all(|(_, target)| !target.contains("nf_conntrack:"))
    );
}

#[test]
fn a_built_in_conntrack_needs_no_module_name() {
    let chosen = chosen("ubuntu-6.8-gke", &[]);
    assert_eq!(chosen.len(), PLAN.len(), "{chosen:?}");
    assert_eq!(at(&chosen, EventKind::EarlyDrop), "fentry early_drop");
}

#[test]
fn each_missing_function_has_its_fallback() {
    let insert = chosen("debian-6.12", &["__nf_conntrack_hash_insert"]);
    assert_eq!(
        at(&insert, EventKind::Insert),
        "fentry __nf_conntrack_confirm"
    );

    let delete = chosen("debian-6.12", &["__nf_ct_delete_from_lists"]);
    assert_eq!(
        at(&delete, EventKind::Delete),
        "fentry nf_ct_remove_expectations"
    );

    let new_flow = chosen("debian-6.12", &["__nf_conntrack_alloc"]);
    assert_eq!(
        at(&new_flow, EventKind::NewFlow),
        "kprobe nf_conntrack:init_conntrack.isra.0"
    );

    let none = chosen("debian-6.12", &["early_drop"]);
    assert_eq!(at(&none, EventKind::EarlyDrop), "");
}

#[test]
fn every_field_is_found_on_every_captured_kernel() {
    for name in fixtures::ALL {
        let fixture = fixtures::load(name);
        let vmlinux = Btf::parse(&fixture.vmlinux, None).expect("vmlinux BTF");
        let (_, fields) = find_fields(&vmlinux);
        for field in fields {
            assert!(
                field.offset.is_some(),
                "{name}: {} {:?}",
                field.field,
                field.reason
            );
        }
    }
}

#[test]
fn a_function_with_other_parameters_is_not_taken() {
    struct Changed;
    impl KernelSymbols for Changed {
        fn btf_function(&self, _name: &str) -> Option<BtfFunction> {
            Some(BtfFunction {
                id: 1,
                in_module: false,
                parameters: 7,
            })
        }
        fn symbol(&self, name: &str) -> Option<Symbol> {
            Some(Symbol {
                name: name.to_owned(),
                module: None,
                code: true,
            })
        }
        fn suffixed_symbol(&self, _name: &str) -> Option<Symbol> {
            None
        }
    }
    let reason = resolve(&PLAN[0].candidates[0], &Changed).unwrap_err();
    assert!(
        reason.contains("has 7 parameters, 6 were expected"),
        "{reason}"
    );
}

/// Another module may have a function of the same name, and come first.
#[test]
fn a_function_of_somebody_else_is_not_conntracks() {
    const OWN: &str = "\
0000000000000000 t nf_conntrack_in\t[nf_conntrack]
0000000000000000 t early_drop\t[nf_conntrack]
";
    let resolved = |kallsyms: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("proc")).expect("a folder");
        std::fs::write(folder.path().join("proc/kallsyms"), kallsyms).expect("a file");
        let fixture = fixtures::load("debian-6.12");
        let vmlinux = Btf::parse(&fixture.vmlinux, None).expect("vmlinux BTF");
        let root = crate::kernel::Root::at(folder.path());
        let kernel = Running {
            vmlinux: &vmlinux,
            module: None,
            symbols: Symbols::read(&root, SYMBOLS).expect("kallsyms"),
            without: &[],
            gap: None,
        };
        let symbol = kernel.symbol("early_drop");
        symbol.map(|symbol| symbol.module.unwrap_or_default())
    };
    let own = Some("nf_conntrack".to_owned());
    assert_eq!(resolved(OWN), own);
    for other in [
        "0000000000000000 t early_drop\n",
        "0000000000000000 t early_drop\t[net_queue]\n",
    ] {
        assert_eq!(resolved(&format!("{other}{OWN}")), own);
        let without = OWN.replace("early_drop", "other");
        assert_eq!(resolved(&format!("{other}{without}")), None);
    }
    // Two of its own: which one it is can't be told.
    let twice = "0000000000000000 t early_drop\t[nf_conntrack]\n";
    assert_eq!(resolved(&format!("{OWN}{twice}")), None);
}
