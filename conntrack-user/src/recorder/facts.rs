//! Facts of the node that advice needs: what conntrack is set to, and what an entry costs.

use std::{collections::BTreeMap, fs};

use ctpressure_journal::ALLOWANCE_EXCEEDED;

use crate::kernel::{Root, allowances, slab};

/// Sysctls that change every second by themselves.
const NOT_FACTS: [&str; 1] = ["nf_conntrack_count"];
/// Facts at most; there are about sixty.
const MOST: usize = 256;
/// Bytes of a value that are kept.
const LONGEST: usize = 128;

/// What conntrack is set to now: `nf_conntrack_*` of the namespace that this runs in, the hash size
/// that the module was given, the slab cache of entries, and what the instance dropped beyond its allowances.
pub(crate) fn read(root: &Root) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let value = |path: &std::path::Path| {
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim().chars().take(LONGEST).collect::<String>())
    };
    if let Ok(sysctls) = fs::read_dir(root.proc("sys/net/netfilter")) {
        for sysctl in sysctls.flatten().take(MOST) {
            let name = sysctl.file_name().to_string_lossy().into_owned();
            if name.starts_with("nf_conntrack_")
                && !NOT_FACTS.contains(&name.as_str())
                && let Some(value) = value(&sysctl.path())
            {
                facts.insert(name, value);
            }
        }
    }
    if let Some(value) = value(&root.sys("module/nf_conntrack/parameters/hashsize")) {
        facts.insert("hashsize".to_owned(), value);
    }
    if let Some(slab) = slab::read(root) {
        for (name, value) in [
            ("entry_bytes", slab.object_bytes),
            ("entry_slab_bytes", slab.bytes),
            ("entry_slab_objects", slab.objects),
        ] {
            facts.insert(name.to_owned(), value.to_string());
        }
    }
    for interface in allowances::read(root) {
        for (allowance, value) in &interface.exceeded {
            let name = format!("{ALLOWANCE_EXCEEDED}{}.{allowance}", interface.interface);
            facts.insert(name, value.to_string());
        }
    }
    facts
}

/// What a file of /proc says; empty if it can't be read.
pub(super) fn text(root: &Root, path: &str) -> String {
    let text = fs::read_to_string(root.proc(path)).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_and_what_an_entry_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert!(read(&root).is_empty());
        let sysctls = root.proc("sys/net/netfilter");
        fs::create_dir_all(&sysctls).expect("a folder");
        for (name, value) in [
            ("nf_conntrack_max", "262144\n"),
            ("nf_conntrack_count", "17\n"),
            ("nf_log_all_netns", "0\n"),
        ] {
            fs::write(sysctls.join(name), value).expect("a file");
        }
        let slab = root.sys("kernel/slab/nf_conntrack");
        fs::create_dir_all(&slab).expect("a folder");
        for (name, number) in [
            ("slab_size", 256),
            ("objs_per_slab", 16),
            ("order", 0),
            ("slabs", 3),
        ] {
            fs::write(slab.join(name), format!("{number}\n")).expect("a file");
        }
        let facts: Vec<_> = read(&root).into_iter().collect();
        let page = procfs::page_size().to_string();
        let expected = [
            ("entry_bytes", "256"),
            ("entry_slab_bytes", &page),
            ("entry_slab_objects", "16"),
            ("nf_conntrack_max", "262144"),
        ];
        assert_eq!(
            facts,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
