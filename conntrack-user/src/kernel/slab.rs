//! What the running kernel says of the memory of an entry: the slab cache that entries of all network
//! namespaces come from (`nf_conntrack_cachep`).

use std::fs;

use ctpressure_model::cost::{EntryCost, Slab, entry::kernel_version};

use super::{Root, release};

/// What an entry costs on this kernel, by its slab cache, its version and its switches.
pub(crate) fn entry_cost(root: &Root) -> EntryCost {
    let version = release::release(root).ok();
    EntryCost::of(
        read(root),
        version.as_deref().and_then(kernel_version),
        |switch| {
            let file = root.proc(format!("sys/net/netfilter/nf_conntrack_{switch}"));
            fs::read_to_string(file).ok()?.trim().parse().ok()
        },
    )
}

/// Bytes of the slabs that there are now and of the buckets, extensions of entries left out. `None` where the kernel does
/// not tell.
pub(crate) fn table_bytes(root: &Root, buckets: u64) -> Option<u64> {
    read(root).map(|slab| slab.bytes_now(buckets))
}

/// Reads the slab cache from `/sys/kernel/slab/nf_conntrack`, which everybody may read on most kernels; else from
/// `/proc/slabinfo`, which only root may. `None` where the kernel tells neither.
pub(crate) fn read(root: &Root) -> Option<Slab> {
    let slab = of_sysfs(root).or_else(|| {
        let text = fs::read_to_string(root.proc("slabinfo")).ok()?;
        parse_slabinfo(&text)
    });
    slab.filter(|slab| slab.objects > 0)
}

fn of_sysfs(root: &Root) -> Option<Slab> {
    let read = |name: &str| {
        let path = root.sys("kernel/slab/nf_conntrack").join(name);
        let text = fs::read_to_string(path).ok()?;
        // "12 N0=12": the sum first, then each NUMA node.
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    let order = u32::try_from(read("order")?).ok()?;
    Some(Slab {
        object_bytes: read("slab_size")?,
        objects: read("objs_per_slab")?,
        bytes: 1_u64.checked_shl(order)?.checked_mul(procfs::page_size())?,
        slabs: read("slabs")?,
    })
}

/// The row of `nf_conntrack` in `/proc/slabinfo`: name, active objects, objects, object size, objects
/// per slab, pages per slab, and further on the slabs.
fn parse_slabinfo(text: &str) -> Option<Slab> {
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
    Some(Slab {
        object_bytes,
        objects,
        bytes: pages.checked_mul(procfs::page_size())?,
        slabs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_sysfs_or_slabinfo() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert_eq!(read(&root), None);
        fs::create_dir_all(root.proc("")).expect("a folder");
        let slabinfo = "slabinfo - version: 2.1\n\
             # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>\n\
             nf_conntrack_expect      0      0    208   19    1 : tunables    0    0    0 : slabdata      0      0      0\n\
             nf_conntrack         340    352    320   12    1 : tunables    0    0    0 : slabdata     30     31      0\n";
        fs::write(root.proc("slabinfo"), slabinfo).expect("a file");
        let page = procfs::page_size();
        let slab = read(&root).expect("a row");
        let expected = Slab {
            object_bytes: 320,
            objects: 12,
            bytes: page,
            slabs: 31,
        };
        assert_eq!(slab, expected);
        fs::write(root.proc("slabinfo"), "nf_conntrack 1 2 3\n").expect("a file");
        assert_eq!(read(&root), None);

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
        let slab = read(&root).expect("all files");
        assert_eq!((slab.object_bytes, slab.objects), (256, 32));
        assert_eq!((slab.bytes, slab.slabs), (2 * page, 12));
        assert!(entry_cost(&root).measured);
        for (name, nonsense) in [("order", "64\n"), ("objs_per_slab", "0\n")] {
            let right = fs::read(files.join(name)).expect("a file");
            fs::write(files.join(name), nonsense).expect("a file");
            assert_eq!(read(&root), None, "{name}");
            fs::write(files.join(name), right).expect("a file");
        }
    }
}
