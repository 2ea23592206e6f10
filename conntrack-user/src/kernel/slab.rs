//! The slab cache that entries of all network namespaces come from (`nf_conntrack_cachep`).

use std::fs;

use super::Root;

/// `sizeof(struct hlist_nulls_head)`: one pointer for each bucket of the hash table.
pub const BUCKET_BYTES: u64 = 8;

/// The cache's shape, and how much of it there is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Bytes from one object to the next (`slab_size`).
    pub object_bytes: u64,
    /// Objects in one slab.
    pub objects: u64,
    /// Bytes of one slab: a power of two of pages.
    pub bytes: u64,
    /// Slabs that there are now.
    pub slabs: u64,
}

impl Slab {
    /// Reads it from `/sys/kernel/slab/nf_conntrack`, which everybody may read on most kernels; else from
    /// `/proc/slabinfo`, which only root may. `None` where the kernel tells neither.
    pub fn read(root: &Root) -> Option<Self> {
        Self::of_sysfs(root).or_else(|| {
            let text = fs::read_to_string(root.proc("slabinfo")).ok()?;
            Self::parse_slabinfo(&text)
        })
    }

    fn of_sysfs(root: &Root) -> Option<Self> {
        let read = |name: &str| {
            let path = root.sys("kernel/slab/nf_conntrack").join(name);
            let text = fs::read_to_string(path).ok()?;
            // "12 N0=12": the sum first, then each NUMA node.
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let order = u32::try_from(read("order")?).ok()?;
        Some(Self {
            object_bytes: read("slab_size")?,
            objects: read("objs_per_slab")?,
            bytes: 1_u64.checked_shl(order)?.checked_mul(procfs::page_size())?,
            slabs: read("slabs")?,
        })
    }

    /// The row of `nf_conntrack` in `/proc/slabinfo`: name, active objects, objects, object size, objects
    /// per slab, pages per slab, and further on the slabs.
    fn parse_slabinfo(text: &str) -> Option<Self> {
        let row = text
            .lines()
            .find_map(|line| line.strip_prefix("nf_conntrack "))?;
        let numbers: Vec<u64> = row
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [_, _, object_bytes, objects, pages, .., _, slabs, _] = numbers[..] else {
            return None;
        };
        Some(Self {
            object_bytes,
            objects,
            bytes: pages.checked_mul(procfs::page_size())?,
            slabs,
        })
    }

    /// Bytes of the slabs that there are now.
    pub fn bytes_now(&self) -> Option<u64> {
        self.slabs.checked_mul(self.bytes)
    }

    /// Bytes of the slabs that `entries` take, without extensions.
    pub fn bytes_of(&self, entries: u64) -> u64 {
        entries
            .div_ceil(self.objects.max(1))
            .saturating_mul(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_sysfs_or_slabinfo() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert_eq!(Slab::read(&root), None);
        fs::create_dir_all(root.proc("")).expect("a folder");
        let slabinfo = "slabinfo - version: 2.1\n\
             # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n\
             nf_conntrack_expect      0      0    208   19    1 : tunables    0    0    0 : slabdata      0      0      0\n\
             nf_conntrack         340    352    320   12    1 : tunables    0    0    0 : slabdata     30     31      0\n";
        fs::write(root.proc("slabinfo"), slabinfo).expect("a file");
        let page = procfs::page_size();
        let slab = Slab::read(&root).expect("a row");
        let expected = Slab {
            object_bytes: 320,
            objects: 12,
            bytes: page,
            slabs: 31,
        };
        assert_eq!(slab, expected);
        assert_eq!(slab.bytes_of(0), 0);
        assert_eq!(slab.bytes_of(13), 2 * page);
        fs::write(root.proc("slabinfo"), "nf_conntrack 1 2 3\n").expect("a file");
        assert_eq!(Slab::read(&root), None);

        let files = root.sys("kernel/slab/nf_conntrack");
        fs::create_dir_all(&files).expect("a folder");
        for (name, text) in [
            ("slab_size", "256\n"),
            ("objs_per_slab", "32\n"),
            ("order", "1\n"),
            ("slabs", "12 N0=12\n"),
        ] {
            fs::write(files.join(name), text).expect("a file");
        }
        let slab = Slab::read(&root).expect("all files");
        assert_eq!((slab.object_bytes, slab.objects), (256, 32));
        assert_eq!(slab.bytes_now(), Some(12 * 2 * page));
        fs::write(files.join("order"), "64\n").expect("a file");
        assert_eq!(Slab::read(&root), None);
    }
}
