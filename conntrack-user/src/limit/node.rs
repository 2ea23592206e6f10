//! What of the node the controller reads: its memory, what an entry costs, how long it has run.

use std::{fs, io, path::Path, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::cost::{EntryCost, NodeMemory};
use crate::kernel::Root;

/// `struct nf_ct_ext` with anything in it: `krealloc` of 128 bytes at least (`nf_ct_ext_add`).
const EXTENSION_BYTES: f64 = 128.0;

/// Time since boot, sleep included: the same for every process until the next boot.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// What tells this boot from the others (`/proc/sys/kernel/random/boot_id`); empty where the kernel
/// does not say.
pub fn boot_id(root: &Root) -> String {
    fs::read_to_string(root.proc("sys/kernel/random/boot_id"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// `MemTotal` and `MemAvailable`.
///
/// # Errors
/// When `/proc/meminfo` can't be read or lacks one of them.
pub fn memory(root: &Root) -> io::Result<NodeMemory> {
    let path = root.proc("meminfo");
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text =
        fs::read_to_string(&path).map_err(|error| io::Error::new(error.kind(), explain(&error)))?;
    let bytes = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .and_then(|kib| kib.checked_mul(1024))
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    explain(&format!("no {name} in it")),
                )
            })
    };
    Ok(NodeMemory {
        total: bytes("MemTotal")?,
        available: bytes("MemAvailable")?,
    })
}

/// What an entry costs on this kernel (`/sys/kernel/slab/nf_conntrack`); the largest that is known
/// where the kernel does not tell.
pub fn entry_cost(root: &Root) -> EntryCost {
    slab_bytes(&root.sys("kernel/slab/nf_conntrack")).map_or(EntryCost::LARGEST, |slab| EntryCost {
        slab,
        extension: EXTENSION_BYTES,
        measured: true,
    })
}

/// Bytes of a page, or several, by the objects on it.
fn slab_bytes(folder: &Path) -> Option<f64> {
    let read = |name: &str| -> Option<u32> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let objects = read("objs_per_slab").filter(|objects| *objects > 0)?;
    let pages = 1_u64.checked_shl(read("order")?)?;
    let bytes = u32::try_from(pages.checked_mul(procfs::page_size())?).ok()?;
    Some(f64::from(bytes) / f64::from(objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_machine() {
        let memory = memory(&Root::system()).expect("meminfo");
        assert!(memory.total >= memory.available && memory.available > 0);
        assert!(since_boot() > Duration::ZERO);
        assert!(!boot_id(&Root::system()).is_empty());
    }

    #[test]
    fn an_entry_costs_its_part_of_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert_eq!(entry_cost(&root), EntryCost::LARGEST);
        let slab = root.sys("kernel/slab/nf_conntrack");
        fs::create_dir_all(&slab).expect("a folder");
        for (name, text) in [("objs_per_slab", "16\n"), ("order", "0\n")] {
            fs::write(slab.join(name), text).expect("a file");
        }
        let cost = entry_cost(&root);
        assert!(cost.measured);
        let page = u32::try_from(procfs::page_size()).expect("small");
        assert!((cost.slab - f64::from(page) / 16.0).abs() < f64::EPSILON);
        fs::write(slab.join("objs_per_slab"), "0\n").expect("a file");
        assert_eq!(entry_cost(&root), EntryCost::LARGEST);
    }

    #[test]
    fn meminfo_without_what_is_needed_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert!(memory(&root).is_err());
        fs::create_dir_all(root.proc("")).expect("a folder");
        fs::write(root.proc("meminfo"), "MemTotal:  2048 kB\n").expect("a file");
        let error = memory(&root).expect_err("one is missing").to_string();
        assert!(error.contains("MemAvailable"), "{error}");
    }
}
