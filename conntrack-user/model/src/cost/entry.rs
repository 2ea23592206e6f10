//! What one entry takes.

use serde::{Deserialize, Serialize};

use super::{BUCKET_BYTES, MemoryRange};
use crate::pressure::{as_count, as_f64};

/// `kmalloc-128`: the least that an entry takes for its first extension (`nf_ct_ext_add`).
pub const EXTENSION_BYTES: u64 = 128;

/// Bytes of the slab that an entry takes, by the first version from which on it is so: seen in
/// `/sys/kernel/slab/nf_conntrack` of 5.4, 5.10 and 5.15 (12 objects of 320 bytes on a page) and of 6.1, 6.8, 6.12, 6.18, 7.0
/// and 7.3 (16 of 256: `struct nf_conn` shrank from 256 to 248 bytes). What is in between was not seen, and counts as the larger.
const ENTRIES_OF_KERNELS: [((u32, u32), f64); 2] =
    [((0, 0), 4096.0 / 12.0), ((6, 1), 4096.0 / 16.0)];
/// The first version whose `nf_conntrack_events` is 2 by default: an entry has an extension only while somebody listens.
const EVENTS_ON_DEMAND: (u32, u32) = (5, 19);

/// The slab cache `nf_conntrack`: its shape, and how much of it there is now.
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
    /// The shape that a journal has kept: bytes of an object, and bytes of a slab and objects in it where they are known.
    /// `None` for what no kernel has.
    pub fn kept(object_bytes: u64, slab: Option<(u64, u64)>) -> Option<Self> {
        if !(64..=4096).contains(&object_bytes) {
            return None;
        }
        let (bytes, objects) = slab
            .filter(|(bytes, objects)| (1..=bytes / object_bytes).contains(objects))
            .unwrap_or((4096, 4096 / object_bytes));
        Some(Self {
            object_bytes,
            objects,
            bytes,
            slabs: 0,
        })
    }

    /// Bytes that one entry takes, its part of the slab's unused end included.
    fn entry(&self) -> f64 {
        as_f64(self.bytes) / as_f64(self.objects.max(1))
    }

    /// Bytes of the slabs that there are now and of so many buckets, extensions of entries left out.
    pub const fn bytes_now(&self, buckets: u64) -> u64 {
        self.slabs
            .saturating_mul(self.bytes)
            .saturating_add(buckets.saturating_mul(BUCKET_BYTES))
    }
}

/// Major and minor number of a release such as `6.12.118+deb13-cloud-amd64`; `None` if it does not begin with two
/// numbers.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Bytes of one entry on one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct EntryCost {
    /// The least that it takes in all: as `slab`, and the extension if each entry has one.
    pub least: f64,
    /// Of the slab cache, the unused ends of its slabs included: the most that it can be.
    pub slab: f64,
    /// Of the extension area, if the entry has one.
    pub extension: f64,
    /// `slab` is of this kernel; else what is known of its version, or the largest of any version.
    pub measured: bool,
}

impl EntryCost {
    /// By what is known: the slab cache, the kernel's version, and the switches (`switch("acct")` is the value of
    /// `nf_conntrack_acct`).
    pub fn of(
        slab: Option<Slab>,
        version: Option<(u32, u32)>,
        switch: impl Fn(&str) -> Option<u64>,
    ) -> Self {
        let [largest, smallest] = match (slab, version) {
            (Some(slab), _) => [slab.entry(); 2],
            (None, Some(version)) => {
                let of = |(since, bytes): (_, f64)| (since <= version).then_some(bytes);
                let bytes = ENTRIES_OF_KERNELS.into_iter().rev().find_map(of);
                [bytes.unwrap_or(ENTRIES_OF_KERNELS[0].1); 2]
            }
            (None, None) => ENTRIES_OF_KERNELS.map(|(_, bytes)| bytes),
        };
        let is_on = |name| switch(name).is_some_and(|value| value != 0);
        let events = switch("events").map_or_else(
            || version.is_some_and(|version| version < EVENTS_ON_DEMAND),
            |events| events == 1,
        );
        let extension = as_f64(EXTENSION_BYTES);
        let each_has_one = events || is_on("acct") || is_on("timestamp");
        Self {
            least: smallest + if each_has_one { extension } else { 0.0 },
            slab: largest,
            extension,
            measured: slab.is_some(),
        }
    }

    /// The most that an entry takes.
    fn most(&self) -> f64 {
        self.slab + self.extension
    }

    /// Kernel memory of that many entries and buckets.
    pub fn bytes(&self, entries: u64, buckets: u64) -> MemoryRange {
        let bytes = |each: f64| {
            as_count((as_f64(entries) * each).ceil())
                .saturating_add(buckets.saturating_mul(BUCKET_BYTES))
        };
        MemoryRange {
            least: bytes(self.least),
            most: bytes(self.most()),
        }
    }

    /// The most entries whose memory, and that of the buckets that [`super::buckets_for`] makes for them, is certain to stay within
    /// `budget`; there are `buckets` already.
    pub fn entries_within(&self, budget: f64, buckets: u64) -> f64 {
        let with_buckets = self.most() + as_f64(BUCKET_BYTES) * 2.0 / super::GOOD_CHAIN;
        let there = as_f64(buckets.saturating_mul(BUCKET_BYTES));
        (budget / with_buckets).min((budget - there).max(0.0) / self.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_OF_320: Slab = Slab {
        object_bytes: 320,
        objects: 12,
        bytes: 4096,
        slabs: 31,
    };

    fn each(cost: &EntryCost) -> (u64, u64) {
        let MemoryRange { least, most } = cost.bytes(1, 0);
        (least, most)
    }

    #[test]
    fn by_slab_by_version_by_nothing() {
        let unset = |_: &str| None;
        let new = Slab::kept(256, Some((8192, 32)));
        for (slab, release, expected) in [
            (new, "6.12.118+deb13-cloud-amd64", (256, 384)),
            (None, "6.12.118+deb13-cloud-amd64", (256, 384)),
            (None, "7.3", (256, 384)),
            (Some(PAGE_OF_320), "5.15.0-204-generic", (470, 470)),
            (None, "5.15.0-204-generic", (470, 470)),
            (None, "5.19.17", (342, 470)),
            (Some(PAGE_OF_320), "6.12.1", (342, 470)),
            (new, "", (256, 384)),
            (None, "linux", (256, 470)),
        ] {
            let cost = EntryCost::of(slab, kernel_version(release), unset);
            assert_eq!(each(&cost), expected, "{slab:?} {release}");
            assert_eq!(cost.measured, slab.is_some());
        }
    }

    #[test]
    fn switches_say_whether_each_entry_has_an_extension() {
        for (on, expected) in [
            (&[][..], (256, 384)),
            (&[("acct", 1)], (384, 384)),
            (&[("acct", 0), ("timestamp", 0), ("events", 2)], (256, 384)),
            (&[("timestamp", 1)], (384, 384)),
            (&[("events", 1)], (384, 384)),
        ] {
            let switch = |name: &str| {
                let found = on.iter().find(|(switch, _)| *switch == name);
                found.map(|(_, value)| *value)
            };
            let cost = EntryCost::of(None, Some((6, 12)), switch);
            assert_eq!(each(&cost), expected, "{on:?}");
        }
        // Switched off, so NAT and labels are left.
        let off = EntryCost::of(None, Some((5, 10)), |_| Some(0));
        assert_eq!(each(&off), (342, 470));
    }

    #[test]
    fn what_a_journal_has_kept() {
        assert_eq!(Slab::kept(320, None).map(|slab| slab.objects), Some(12));
        let slab = Slab::kept(320, Some((8192, 25))).expect("a shape");
        assert_eq!((slab.bytes, slab.objects), (8192, 25));
        for nonsense in [(8192, 0), (8192, 26), (0, 1)] {
            assert_eq!(Slab::kept(320, Some(nonsense)), Slab::kept(320, None));
        }
        assert_eq!(
            (Slab::kept(0, None), Slab::kept(1 << 40, None)),
            (None, None)
        );
    }

    #[test]
    fn versions() {
        assert_eq!(kernel_version("6.12.118+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(kernel_version("7.0-rc1"), Some((7, 0)));
        assert_eq!(kernel_version("next"), None);
    }

    #[test]
    fn slabs_and_buckets_now() {
        assert_eq!(PAGE_OF_320.bytes_now(1024), 31 * 4096 + 8192);
    }
}
