use std::fs;

use proptest::prelude::*;

use super::*;
use crate::kernel::fixtures::{self, Fixture};

/// Calls `test` with the BTF of a fixture: the module's where there is one, else that of vmlinux.
fn with<R>(fixture: &Fixture, test: impl FnOnce(&Btf<'_>, &Btf<'_>) -> R) -> R {
    let vmlinux = Btf::parse(&fixture.vmlinux, None).unwrap();
    match &fixture.module {
        Some(module) => test(&vmlinux, &Btf::parse(module, Some(&vmlinux)).unwrap()),
        None => test(&vmlinux, &vmlinux),
    }
}

fn offset(btf: &Btf<'_>, structure: &str, path: &[&str]) -> u32 {
    btf.member(structure, path)
        .unwrap_or_else(|error| panic!("{error}"))
        .offset_bytes
}

#[test]
fn offsets_that_are_the_same_in_every_kernel() {
    for name in fixtures::ALL {
        with(&fixtures::load(name), |_, btf| {
            let places = [
                ("nf_conn", &["timeout"][..], 8, 4),
                ("nf_conn", &["zone", "id"], 12, 2),
                ("nf_conn", &["tuplehash"], 16, 112),
                ("nf_conn", &["tuplehash", "tuple"], 32, 40),
                (
                    "nf_conn",
                    &["tuplehash", "tuple", "src", "u", "tcp", "port"],
                    48,
                    2,
                ),
                ("nf_conn", &["tuplehash", "tuple", "dst", "protonum"], 70, 1),
                ("nf_conn", &["status"], 128, 8),
                ("sk_buff", &["dev"], 16, 8),
                ("sk_buff", &["sk"], 24, 8),
                ("sk_buff", &["_nfct"], 104, 8),
                ("sk_buff", &["len"], 112, 4),
                ("sock", &["__sk_common", "skc_state"], 18, 1),
                ("sock", &["__sk_common", "skc_net", "net"], 48, 8),
                ("sock", &["__sk_common", "skc_listener"], 96, 8),
                ("nf_hook_state", &["net"], 32, 8),
            ];
            for (structure, path, offset_bytes, size) in places {
                let member = btf.member(structure, path);
                assert_eq!(
                    member,
                    Ok(NamedMember { offset_bytes, size }),
                    "{name} {structure} {path:?}"
                );
            }
        });
    }
}

#[test]
fn offsets_that_differ() {
    // nf_conn.ct_net, net.ns.inum, sk_buff.skb_iif, sock.sk_cgrp_data, cgroup.kn, kernfs_node.id:
    // as bpftool showed them, x86-64.
    for (name, expected) in [
        ("debian-5.10", [144, 144, 144, 664, 248, 104]),
        ("debian-6.1", [136, 144, 144, 648, 248, 104]),
        ("ubuntu-6.8", [136, 144, 148, 648, 248, 104]),
        ("debian-6.12", [136, 136, 148, 672, 256, 96]),
        ("debian-6.18", [136, 176, 148, 680, 256, 96]),
        ("debian-7.3", [136, 280, 148, 688, 296, 96]),
    ] {
        with(&fixtures::load(name), |_, btf| {
            let found = [
                offset(btf, "nf_conn", &["ct_net", "net"]),
                offset(btf, "net", &["ns", "inum"]),
                offset(btf, "sk_buff", &["skb_iif"]),
                offset(btf, "sock", &["sk_cgrp_data", "cgroup"]),
                offset(btf, "cgroup", &["kn"]),
                offset(btf, "kernfs_node", &["id"]),
            ];
            assert_eq!(found, expected, "{name}");
        });
    }
}

#[test]
fn functions_and_their_parameters() {
    for name in fixtures::ALL {
        let fixture = fixtures::load(name);
        with(&fixture, |vmlinux, btf| {
            let built_in = fixture.module.is_none() && name != "debian-5.10";
            let in_vmlinux = vmlinux.function_id("__nf_conntrack_alloc");
            assert_eq!(in_vmlinux.is_some(), built_in, "{name}");
            let found = btf.function_id("__nf_conntrack_alloc");
            assert_eq!(found.is_some(), name != "debian-5.10", "{name}");
            if let Some(id) = found {
                assert_eq!(btf.function_params(id), Some(6), "{name}");
                assert!(id < btf.type_count() && (built_in || id >= vmlinux.type_count()));
            }
            let insert = btf.function_id("__nf_conntrack_hash_insert");
            assert_eq!(
                insert.is_some(),
                !matches!(name, "debian-5.10" | "cos"),
                "{name}"
            );
            assert_eq!(btf.function_id("nf_conn"), None, "a structure");
        });
    }
}

#[test]
fn what_is_missing_is_named() {
    with(&fixtures::load("debian-6.12"), |vmlinux, module| {
        let error = vmlinux.member("nf_conntrack_net", &["count"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this kernel's BTF has no struct nf_conntrack_net"
        );
        assert_eq!(offset(module, "nf_conntrack_net", &["count"]), 0);
        let error = vmlinux
            .member("nf_conn", &["tuplehash", "tuple", "colour"])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "struct nf_conn of this kernel has no member tuplehash.tuple.colour"
        );
        let error = vmlinux.member("nf_conn", &["status", "bit"]).unwrap_err();
        assert_eq!(error.to_string(), "status of struct nf_conn has no members");
        let error = vmlinux
            .member("nf_conn", &["ct_net", "net", "ns"])
            .unwrap_err();
        assert!(
            matches!(error, MemberError::NoStruct(..)),
            "a pointer is not followed: {error}"
        );
        let error = vmlinux.member("sk_buff", &["pkt_type"]).unwrap_err();
        assert!(matches!(error, MemberError::Bitfield(..)), "{error}");
        assert_eq!(vmlinux.size_of("nf_conn"), Some(248));
        assert_eq!(vmlinux.by_id(0).map(|found| found.id()), None);
        assert_eq!(
            vmlinux.by_id(vmlinux.type_count()).map(|found| found.id()),
            None
        );
    });
}

#[test]
fn every_type_is_found_by_its_id() {
    with(&fixtures::load("debian-7.3"), |_, module| {
        let mut count = 0;
        module.each_type(|found| {
            let again = module.by_id(found.id()).unwrap();
            assert_eq!((again.id(), again.record()), (found.id(), found.record()));
            count += 1;
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(module.first_id() + count, module.type_count());
    });
}

#[test]
fn bytes_that_are_no_btf() {
    let bytes = fixtures::load("debian-6.1").vmlinux;
    let fails = |bytes: &[u8]| Btf::parse(bytes, None).unwrap_err();
    assert!(matches!(fails(&[]), BtfError::CutOff { need: 24, have: 0 }));
    assert!(matches!(
        fails(&bytes[..1000]),
        BtfError::CutOff { have: 1000, .. }
    ));
    let changed = |at: usize, with: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = with;
        bytes
    };
    assert!(matches!(fails(&changed(0, 0)), BtfError::Magic(0xeb00)));
    assert!(matches!(fails(&changed(2, 2)), BtfError::Version(2)));
    let mut swapped = bytes.clone();
    swapped.swap(0, 1);
    assert!(matches!(fails(&swapped), BtfError::ByteOrder));
}

/// BTF of these types: kind, items, the word behind them, and what follows. With the lengths of records by kind, or without.
fn made(types: &[(u32, u32, u32, &[u32])], layout: Option<&[[u8; 4]]>) -> Vec<u8> {
    let strings = b"\0nf_conn\0status\0";
    let mut records = Vec::new();
    for (kind, items, last, rest) in types {
        for word in [1, kind << 24 | items, *last].iter().chain(*rest) {
            records.extend(word.to_ne_bytes());
        }
    }
    let layout_bytes: Vec<u8> = layout.into_iter().flatten().flatten().copied().collect();
    let number = |length: usize| u32::try_from(length).unwrap();
    let (types, between) = (number(records.len()), number(layout_bytes.len()));
    let mut header = vec![
        if layout.is_some() { 32 } else { 24 },
        0,
        types,
        types + between,
        number(strings.len()),
    ];
    if layout.is_some() {
        header.extend([types, between]);
    }
    let mut bytes = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0]].concat();
    bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.extend(records);
    bytes.extend(layout_bytes);
    bytes.extend(strings);
    bytes
}

#[test]
fn an_unknown_kind_is_passed_over_where_the_file_says_its_length() {
    // An integer, a type of kind 90 with two items, and what is looked for behind it.
    let types: [(u32, u32, u32, &[u32]); 3] = [
        (1, 0, 8, &[64]),
        (90, 2, 0, &[7, 1, 2, 3, 4]),
        (4, 1, 8, &[9, 1, 0]),
    ];
    let mut layout = vec![[0; 4]; 91];
    layout[90] = [4, 8, 0, 0];
    let bytes = made(&types, Some(&layout));
    let btf = Btf::parse(&bytes, None).unwrap();
    assert_eq!((btf.type_count(), btf.gap()), (4, None));
    assert_eq!(btf.by_id(2).unwrap().kind(), BtfKind::Unknown);
    assert_eq!(offset(&btf, "nf_conn", &["status"]), 0);
    // Ids of a module go on behind all of them.
    let module = made(&types[..1], None);
    assert_eq!(Btf::parse(&module, Some(&btf)).unwrap().first_id(), 4);
    // Nothing is taken from a table that does not reach so far.
    let short = made(&types, Some(&layout[..90]));
    let kind = BtfError::Kind { id: 2, kind: 90 };
    assert_eq!(Btf::parse(&short, None).unwrap().gap(), Some(kind));
}

#[test]
fn what_is_before_an_unknown_kind_is_read() {
    let types: [(u32, u32, u32, &[u32]); 4] = [
        (1, 0, 8, &[64]),
        (4, 1, 8, &[9, 1, 0]),
        (31, 0, 0, &[]),
        (12, 0, 1, &[]),
    ];
    let bytes = made(&types, None);
    let btf = Btf::parse(&bytes, None).unwrap();
    let kind = BtfError::Kind { id: 3, kind: 31 };
    assert_eq!(btf.gap(), Some(kind));
    assert_eq!(offset(&btf, "nf_conn", &["status"]), 0);
    assert_eq!(btf.function_id("nf_conn"), None, "it is behind");
    assert!(btf.by_id(3).is_none() && btf.by_id(4).is_none());
    // Where the ids of a module begin can't be told.
    let module = made(&types[..1], None);
    assert_eq!(Btf::parse(&module, Some(&btf)).unwrap_err(), kind);
}

#[test]
fn more_items_than_sixteen_bits_count() {
    let values = vec![0; 2 * 70_000];
    let types: [(u32, u32, u32, &[u32]); 3] = [
        (1, 0, 8, &[64]),
        (6, 70_000, 4, &values),
        (4, 1, 8, &[9, 1, 0]),
    ];
    let bytes = made(&types, None);
    let btf = Btf::parse(&bytes, None).unwrap();
    assert_eq!((btf.type_count(), btf.gap()), (4, None));
    assert_eq!(offset(&btf, "nf_conn", &["status"]), 0);
}

/// The ids that another reader of BTF finds.
#[test]
#[expect(
    clippy::default_trait_access,
    reason = "aya-obj does not export the name of that type"
)]
fn ids_are_those_that_aya_finds() {
    use aya_obj::btf::BtfKind as TheirKind;
    for name in ["debian-6.12", "cos"] {
        let bytes = fixtures::load(name).vmlinux;
        let ours = Btf::parse(&bytes, None).unwrap();
        let theirs = aya_obj::btf::Btf::parse(&bytes, Default::default()).unwrap();
        for structure in ["nf_conn", "net", "sk_buff", "kernfs_node"] {
            assert_eq!(
                ours.find(&[BtfKind::Struct], structure)
                    .map(|found| found.id()),
                theirs
                    .id_by_type_name_kind(structure, TheirKind::Struct)
                    .ok(),
                "{name} {structure}"
            );
        }
        for function in ["nf_ct_attach", "nf_conntrack_in", "__nf_conntrack_confirm"] {
            assert_eq!(
                ours.function_id(function),
                theirs.id_by_type_name_kind(function, TheirKind::Func).ok(),
                "{name} {function}"
            );
        }
    }
}

#[test]
fn the_running_kernel_is_read() {
    let Ok(bytes) = fs::read("/sys/kernel/btf/vmlinux") else {
        // Nothing to read on a kernel without BTF; the fixtures stand for it.
        assert!(!std::path::Path::new("/sys/kernel/btf").exists());
        return;
    };
    let btf = Btf::parse(&bytes, None).unwrap();
    assert!(btf.type_count() > 10_000);
    assert_eq!(offset(&btf, "sk_buff", &["dev"]), 16);
    assert!(btf.function_id("schedule").is_some());
}

/// All questions that the programs ask, to bytes that may be anything.
fn ask_everything(bytes: &[u8], module: &[u8]) {
    let Ok(vmlinux) = Btf::parse(bytes, None) else {
        return;
    };
    let split = Btf::parse(module, Some(&vmlinux));
    for btf in [Some(&vmlinux), split.as_ref().ok()].into_iter().flatten() {
        for (structure, path) in [
            ("nf_conn", &["tuplehash", "tuple", "src", "u3", "ip"][..]),
            ("net", &["ns", "inum"]),
            ("sock", &["sk_cgrp_data", "cgroup"]),
            ("sk_buff", &["skb_iif"]),
        ] {
            drop(btf.member(structure, path));
        }
        if let Some(id) = btf.function_id("__nf_conntrack_confirm") {
            let _: Option<u32> = btf.function_params(id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        ask_everything(&bytes, &bytes);
        let mut with_header = fixtures::load("debian-6.12").vmlinux[..24].to_vec();
        with_header.extend(&bytes);
        let length = u32::try_from(bytes.len() / 2).unwrap();
        with_header[12..16].copy_from_slice(&length.to_ne_bytes());
        with_header[16..20].copy_from_slice(&length.to_ne_bytes());
        with_header[20..24].copy_from_slice(&length.to_ne_bytes());
        ask_everything(&with_header, &bytes);
    }

    #[test]
    fn cut_bytes(at in any::<prop::sample::Index>(), module_at in any::<prop::sample::Index>()) {
        let fixture = fixtures::load("debian-6.18");
        let module = fixture.module.unwrap();
        ask_everything(&fixture.vmlinux[..at.index(fixture.vmlinux.len())], &module);
        ask_everything(&fixture.vmlinux, &module[..module_at.index(module.len())]);
    }

    #[test]
    fn flipped_bytes(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let fixture = fixtures::load("debian-6.18");
        let (mut vmlinux, mut module) = (fixture.vmlinux, fixture.module.unwrap());
        for (at, with) in flips {
            let at = at.index(vmlinux.len() + module.len());
            match at.checked_sub(vmlinux.len()) {
                Some(at) => module[at] = with,
                None => vmlinux[at] = with,
            }
        }
        ask_everything(&vmlinux, &module);
    }

    /// Types that refer to any other types: to themselves, in circles, and to many at once.
    #[test]
    fn circles(
        members in proptest::collection::vec((0..40_u32, 0..2_u32, 0..64_u32), 0..200),
        targets in proptest::collection::vec((0..40_u32, 0..7_usize), 1..40),
    ) {
        let strings = b"\0nf_conn\0status\0";
        let mut types = Vec::new();
        let mut record = |name: u32, kind: u32, items: u32, last: u32, rest: &[u32]| {
            for word in [name, kind << 24 | items, last].iter().chain(rest) {
                types.extend(word.to_ne_bytes());
            }
        };
        let rest: Vec<u32> = members
            .iter()
            .flat_map(|(target, named, bits)| [if *named == 1 && *target > 30 { 9 } else { 0 }, *target, *bits])
            .collect();
        record(1, 4, u32::try_from(members.len()).unwrap(), 8, &rest);
        for (target, kind) in targets {
            match [2, 3, 4, 8, 10, 12, 5][kind] {
                3 => record(0, 3, 0, 0, &[target, target, 1 << 20]),
                kind @ (4 | 5) => record(0, kind, 4, 8, &[0, target, 0, 0, target, 8, 0, target, 16, 0, target, 24]),
                kind => record(0, kind, 0, target, &[]),
            }
        }
        let mut bytes = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0]].concat();
        let (type_length, string_length) = (u32::try_from(types.len()).unwrap(), u32::try_from(strings.len()).unwrap());
        for field in [24, 0, type_length, type_length, string_length] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        let btf = Btf::parse(&bytes, None).unwrap();
        drop(btf.member("nf_conn", &["status"]));
        drop(btf.member("nf_conn", &["status", "status"]));
    }
}
