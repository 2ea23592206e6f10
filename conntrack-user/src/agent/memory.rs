//! How much kernel memory conntrack's entries and buckets take.

use std::fs;

use crate::kernel::Root;

/// `sizeof(struct hlist_nulls_head)`: one pointer for each bucket.
const BUCKET_BYTES: u64 = 8;

/// Bytes of the pages that hold entries (of all namespaces: they share one slab cache,
/// `/sys/kernel/slab/nf_conntrack`) and of the hash buckets. Extensions (NAT, accounting, labels)
/// are not in it. `None` where the kernel does not tell.
pub fn table_bytes(root: &Root, buckets: u64) -> Option<u64> {
    let read = |name: &str| {
        let text = fs::read_to_string(root.sys("kernel/slab/nf_conntrack").join(name)).ok()?;
        // "12 N0=12": the sum first, then each NUMA node.
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let pages =
        read("slabs")?.checked_mul(1_u64.checked_shl(u32::try_from(read("order")?).ok()?)?)?;
    pages
        .checked_mul(procfs::page_size())?
        .checked_add(buckets.checked_mul(BUCKET_BYTES)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_and_buckets() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert_eq!(table_bytes(&root, 1024), None);
        let slab = root.sys("kernel/slab/nf_conntrack");
        fs::create_dir_all(&slab).expect("a folder");
        fs::write(slab.join("slabs"), "12 N0=12\n").expect("a file");
        fs::write(slab.join("order"), "1\n").expect("a file");
        assert_eq!(
            table_bytes(&root, 1024),
            Some(12 * 2 * procfs::page_size() + 8192)
        );
        fs::write(slab.join("order"), "64\n").expect("a file");
        assert_eq!(table_bytes(&root, 1024), None);
    }
}
