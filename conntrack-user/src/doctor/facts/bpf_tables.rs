//! Tables of connections that are not the kernel's: a network plugin that works with BPF keeps those of pods in maps of its own.

use std::fs;

use super::{Facts, place};
use crate::kernel::Root;

/// A plugin that has such tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    Cilium,
    /// Calico in its eBPF mode.
    Calico,
}

impl Plugin {
    /// By the name of a map that is a table of connections: `cilium_ct4_global`, `cilium_ct_any6_global`, `cali_v4_ct3`.
    fn of(map: &str) -> Option<Self> {
        if map.starts_with("cilium_ct") {
            Some(Self::Cilium)
        } else if ["cali_v4_ct", "cali_v6_ct"]
            .iter()
            .any(|begin| map.starts_with(begin))
        {
            Some(Self::Calico)
        } else {
            None
        }
    }
}

/// Tables of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BpfTables {
    pub plugin: Plugin,
    /// The names of the maps, sorted.
    pub maps: Vec<String>,
}

/// Where both pin their maps.
const PINNED: &str = "sys/fs/bpf/tc/globals";

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let folders = [place::files_of_node(root), Some(root.file(""))];
    let entries = folders
        .iter()
        .flatten()
        .find_map(|folder| fs::read_dir(folder.join(PINNED)).ok());
    let mut maps: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| Plugin::of(name).is_some())
        .collect();
    maps.sort();
    let plugin = maps.first().and_then(|map| Plugin::of(map));
    facts.bpf_tables = plugin.map(|plugin| BpfTables { plugin, maps });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_connections_only() {
        for (maps, expected) in [
            (&["cilium_lb4_services_v2", "cali_v4_nat_fe3"][..], None),
            (
                &[
                    "cilium_ct_any4_global",
                    "cilium_ct4_global",
                    "cilium_lb4_services_v2",
                ],
                Some((
                    Plugin::Cilium,
                    &["cilium_ct4_global", "cilium_ct_any4_global"][..],
                )),
            ),
            (
                &["cali_v4_ct3", "cali_v4_routes"],
                Some((Plugin::Calico, &["cali_v4_ct3"])),
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::at(folder.path());
            let mut facts = Facts::default();
            look(&root, &mut facts);
            assert_eq!(facts.bpf_tables, None);
            let pinned = root.file(PINNED);
            fs::create_dir_all(&pinned).unwrap();
            for name in maps {
                fs::write(pinned.join(name), "").unwrap();
            }
            look(&root, &mut facts);
            let expected = expected.map(|(plugin, maps)| BpfTables {
                plugin,
                maps: maps.iter().map(ToString::to_string).collect(),
            });
            assert_eq!(facts.bpf_tables, expected);
        }
    }
}
