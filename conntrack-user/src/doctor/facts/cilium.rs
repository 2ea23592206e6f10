//! Tables of connections that are not the kernel's: Cilium keeps those of pods in BPF maps.

use std::fs;

use super::{Facts, place};
use crate::kernel::Root;

/// Where Cilium pins its maps (`bpf.TCGlobalsPath` of Cilium).
const PINNED: &str = "sys/fs/bpf/tc/globals";
/// What the names of its tables of connections begin with: `cilium_ct4_global`, `cilium_ct_any6_global`.
const TABLES: &str = "cilium_ct";

/// The names of those tables, sorted.
pub(super) fn look(root: &Root, facts: &mut Facts) {
    let folders = [place::files_of_node(root), Some(root.file(""))];
    let entries = folders
        .iter()
        .flatten()
        .find_map(|folder| fs::read_dir(folder.join(PINNED)).ok());
    let names = entries.into_iter().flatten().flatten();
    facts.cilium_tables = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(TABLES))
        .collect();
    facts.cilium_tables.sort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_connections_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        let mut facts = Facts::default();
        look(&root, &mut facts);
        assert!(facts.cilium_tables.is_empty());
        let pinned = root.file(PINNED);
        fs::create_dir_all(&pinned).unwrap();
        for name in [
            "cilium_ct_any4_global",
            "cilium_ct4_global",
            "cilium_lb4_services_v2",
        ] {
            fs::write(pinned.join(name), "").unwrap();
        }
        look(&root, &mut facts);
        assert_eq!(
            facts.cilium_tables,
            ["cilium_ct4_global", "cilium_ct_any4_global"]
        );
    }
}
