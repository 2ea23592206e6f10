//! Captured kernel state: `tests/fixtures/`.

use std::fs;
use std::path::PathBuf;

use super::Root;

/// The captured kernels, by folder.
pub(crate) const ALL: [&str; 9] = [
    "cos",
    "debian-5.10",
    "debian-6.1",
    "debian-6.1-arm64",
    "debian-6.12",
    "debian-6.18",
    "debian-7.3",
    "ubuntu-6.8",
    "ubuntu-6.8-gke",
];

pub(crate) struct Fixture {
    pub(crate) root: Root,
    /// BTF of vmlinux, and of the module if that kernel has one with BTF.
    pub(crate) vmlinux: Vec<u8>,
    pub(crate) module: Option<Vec<u8>>,
    /// Whether fentry and fexit programs can be attached.
    pub(crate) direct_calls: bool,
}

/// Where a fixture is.
pub(crate) fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

pub(crate) fn load(name: &str) -> Fixture {
    let folder = folder(name);
    let notes = fs::read_to_string(folder.join("notes.toml")).unwrap();
    let root = Root::at(&folder);
    Fixture {
        vmlinux: fs::read(root.sys("kernel/btf/vmlinux")).unwrap(),
        module: fs::read(root.sys("kernel/btf/nf_conntrack")).ok(),
        direct_calls: notes.lines().any(|line| line == "direct_calls = true"),
        root,
    }
}

mod tests {
    use super::*;
    use crate::kernel::conntrack::Presence;
    use crate::kernel::kallsyms::Symbols;
    use crate::kernel::{release, stats, sysctl};

    const PREFIXES: [&str; 7] = [
        "nf_",
        "__nf_",
        "early_drop",
        "init_conntrack",
        "gc_worker",
        "destroy_conntrack",
        "resolve_normal_ct",
    ];

    #[test]
    fn each_folder_is_listed() {
        let mut folders: Vec<String> = fs::read_dir(folder(""))
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        folders.sort();
        assert_eq!(folders, ALL);
    }

    #[test]
    fn conntrack_is_where_it_is() {
        for name in ALL {
            let fixture = load(name);
            let symbols = Symbols::read(&fixture.root, &PREFIXES).unwrap();
            let module = symbols.exact("early_drop").unwrap().module.as_deref();
            let built_in = matches!(name, "cos" | "ubuntu-6.8-gke");
            assert_eq!(module, (!built_in).then_some("nf_conntrack"), "{name}");
            let presence = Presence::read(&fixture.root).unwrap();
            assert_eq!(presence == Presence::BuiltIn, built_in, "{name}");
            assert!(presence.is_loaded());
            let data = symbols.at("nf_conntrack_max").next().is_some();
            assert_eq!(data, !matches!(name, "cos" | "debian-6.1-arm64"), "{name}");
            assert_eq!(fixture.direct_calls, name != "debian-6.1-arm64", "{name}");
            assert!(!release::release(&fixture.root).unwrap().is_empty());
        }
    }

    #[test]
    fn init_conntrack_has_one_symbol_whatever_its_suffix() {
        for name in ALL {
            let symbols = Symbols::read(&load(name).root, &PREFIXES).unwrap();
            let exact = symbols
                .exact("init_conntrack")
                .map(|symbol| symbol.name.clone());
            let suffixed = symbols
                .with_suffix("init_conntrack")
                .map(|symbol| symbol.name.clone());
            let found: Vec<String> = exact.into_iter().chain(suffixed).collect();
            let expected = match name {
                "cos" => "init_conntrack",
                "debian-5.10" | "debian-6.1" | "debian-6.1-arm64" => "init_conntrack.constprop.0",
                _ => "init_conntrack.isra.0",
            };
            assert_eq!(found, [expected], "{name}");
        }
    }

    #[test]
    fn functions_that_differ() {
        for name in ALL {
            let symbols = Symbols::read(&load(name).root, &PREFIXES).unwrap();
            let has = |function: &str| symbols.exact(function).is_some();
            assert!(
                has("__nf_conntrack_alloc") && has("__nf_conntrack_confirm"),
                "{name}"
            );
            assert_eq!(has("__nf_conntrack_hash_insert"), name != "cos", "{name}");
            assert_eq!(
                has("resolve_normal_ct"),
                name.starts_with("ubuntu"),
                "{name}"
            );
            let parts = symbols.with_suffix("nf_ct_delete.part").count();
            assert_eq!(parts, usize::from(name == "debian-5.10"), "{name}");
        }
    }

    #[test]
    fn statistics_of_booted_kernels() {
        let expected = [
            "debian-5.10",
            "debian-6.1",
            "debian-6.12",
            "debian-6.18",
            "debian-7.3",
        ];
        let mut read = Vec::new();
        for name in ALL {
            let root = load(name).root;
            let Ok(reading) = stats::read(&root) else {
                continue;
            };
            let sums = stats::KernelStats::from(&reading);
            assert_eq!(
                reading.rows.len(),
                release::possible_cpus(&root).unwrap(),
                "{name}"
            );
            assert_eq!(
                reading.entries,
                Some(sysctl::count(&root).unwrap()),
                "{name}"
            );
            assert!(
                reading.entries <= Some(sysctl::limit(&root).unwrap()),
                "{name}"
            );
            assert!(
                sums.drop > 0 && sums.clash_resolve.is_some(),
                "{name}: {sums:?}"
            );
            assert_eq!(sums.insert, 0, "{name}: packets are not counted there");
            assert_eq!(
                sums.chain_too_long.is_some(),
                name != "debian-5.10",
                "{name}"
            );
            read.push(name);
        }
        assert_eq!(read, expected);
    }
}
