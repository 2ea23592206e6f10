//! How much kernel memory conntrack's entries and buckets take.

use crate::kernel::{
    Root,
    slab::{BUCKET_BYTES, Slab},
};

/// Bytes of the pages that hold entries (of all namespaces: they share one slab cache) and of the hash
/// buckets. Extensions (NAT, accounting, labels) are not in it. `None` where the kernel does not tell.
pub fn table_bytes(root: &Root, buckets: u64) -> Option<u64> {
    Slab::read(root)?
        .bytes_now()?
        .checked_add(buckets.checked_mul(BUCKET_BYTES)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn slabs_and_buckets() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert_eq!(table_bytes(&root, 1024), None);
        let slab = root.sys("kernel/slab/nf_conntrack");
        fs::create_dir_all(&slab).expect("a folder");
        for (name, text) in [
            ("slabs", "12 N0=12\n"),
            ("order", "1\n"),
            ("slab_size", "256\n"),
            ("objs_per_slab", "32\n"),
        ] {
            fs::write(slab.join(name), text).expect("a file");
        }
        assert_eq!(
            table_bytes(&root, 1024),
            Some(12 * 2 * procfs::page_size() + 8192)
        );
    }
}
