//! What more room costs in kernel memory.

use serde::Serialize;

use super::evidence::Node;

/// `sizeof(struct hlist_nulls_head)`: one pointer for each bucket.
const BUCKET: u64 = 8;
/// The smallest area for extensions (`__nf_ct_ext_add`); taken by NAT, accounting, labels, helpers and
/// listeners for events.
const EXTENSIONS: u64 = 128;
/// Entries for each bucket at which chains are 8 long on average when the table is full, as kube-proxy
/// sizes them.
const ENTRIES_FOR_A_BUCKET: u64 = 4;

/// Memory of one entry, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EntryBytes {
    /// Without extensions.
    pub least: u64,
    /// With them, as behind masquerade or with accounting.
    pub most: u64,
}

/// How much an entry takes on this node: as the kernel says, else as kernels of its version do.
pub fn entry_bytes(node: &Node) -> EntryBytes {
    let mut release = node
        .kernel
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|part| part.parse::<u64>().ok());
    let version = (release.next().unwrap_or(0), release.next().unwrap_or(0));
    // struct nf_conn became 248 bytes, and fits 256, after 5.15.
    let old = version > (0, 0) && version < (6, 0);
    let slab = node
        .fact("entry_bytes")
        .filter(|bytes| (64..65_536).contains(bytes))
        .unwrap_or(if old { 320 } else { 256 });
    EntryBytes {
        // Up to 5.15 every entry has extensions: nf_conntrack_events is 1.
        least: if old { slab + EXTENSIONS } else { slab },
        most: slab + EXTENSIONS,
    }
}

/// Buckets that a limit asks for.
pub const fn buckets(limit: u64) -> u64 {
    limit.div_ceil(ENTRIES_FOR_A_BUCKET)
}

/// Memory of as many entries more, and buckets, in bytes.
pub const fn memory(each: EntryBytes, entries: u64, buckets: u64) -> [u64; 2] {
    let hash = buckets.saturating_mul(BUCKET);
    [
        entries.saturating_mul(each.least).saturating_add(hash),
        entries.saturating_mul(each.most).saturating_add(hash),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kernel: &str, entry: Option<&str>) -> Node {
        let facts = entry.map(|bytes| ("entry_bytes".to_owned(), bytes.to_owned()));
        Node {
            kernel: kernel.to_owned(),
            facts: facts.into_iter().collect(),
            ..Node::default()
        }
    }

    #[test]
    fn what_an_entry_takes() {
        for (kernel, fact, least, most) in [
            ("6.12.118+deb13-cloud-amd64", None, 256, 384),
            ("5.15.0-204-generic", None, 448, 448),
            ("6.12.1", Some("320"), 320, 448),
            ("6.12.1", Some("0"), 256, 384),
            ("", None, 256, 384),
            ("linux", Some("x"), 256, 384),
        ] {
            let bytes = entry_bytes(&node(kernel, fact));
            assert_eq!(
                (bytes.least, bytes.most),
                (least, most),
                "{kernel} {fact:?}"
            );
        }
    }

    #[test]
    fn what_room_costs() {
        let each = entry_bytes(&node("6.12", None));
        assert_eq!(memory(each, 262_144, 0), [64 << 20, 96 << 20]);
        assert_eq!(memory(each, 0, 262_144), [2 << 20, 2 << 20]);
        assert_eq!(memory(each, u64::MAX, 1), [u64::MAX; 2]);
        assert_eq!(buckets(262_144), 65_536);
    }
}
