//! Entries as the program has copied them: a few words of each are read, and more only where it is to be known what it is.

use std::mem::offset_of;

use conntrack_ebpf::walk::{CopiedEntry, STATUS};

use super::decode::{EntryWords, JiffyClock, Layout, TupleWords, halves};
use crate::{
    kernel::entries::{EntryStatus, FoundEntry, PortSet, Shape, TableEntry, is_chosen_by_nat},
    sys::{mapping::MappedArray, netns::Inode},
};

/// Where a copy of an entry is.
#[derive(Clone, Copy)]
pub(super) struct CopiedPlace<'a> {
    pub(super) entries: &'a MappedArray<CopiedEntry>,
    pub(super) index: usize,
}

impl EntryWords for CopiedPlace<'_> {
    #[inline]
    fn word(&self, at: usize) -> u64 {
        let offset = offset_of!(CopiedEntry, bytes) + at;
        self.entries.read_word(self.index, offset)
    }
}

impl CopiedPlace<'_> {
    /// Its address in the kernel.
    #[inline]
    pub(super) fn address(self) -> u64 {
        let offset = offset_of!(CopiedEntry, address);
        self.entries.read_word(self.index, offset)
    }

    /// Inode number of its network namespace, and the bucket that it was found in.
    #[inline]
    pub(super) fn netns_and_bucket(self) -> (Inode, u32) {
        const {
            assert!(offset_of!(CopiedEntry, bucket) == offset_of!(CopiedEntry, netns) + 4);
        }
        let offset = offset_of!(CopiedEntry, netns);
        let [netns, bucket] = halves(self.entries.read_word(self.index, offset));
        (netns, bucket)
    }
}

/// An entry as the walk finds it.
pub(super) struct CopiedFound<'a, W> {
    words: W,
    layout: &'a Layout,
    clock: JiffyClock,
    original: TupleWords,
    reply: TupleWords,
    status: EntryStatus,
}

impl<'a, W: EntryWords> CopiedFound<'a, W> {
    /// `None`: it has no tuples of a known kind, as memory that is being made another entry.
    #[inline]
    pub(super) fn new(words: W, layout: &'a Layout, clock: JiffyClock) -> Option<Self> {
        let (original, reply) = (TupleWords::original(&words), TupleWords::reply(&words));
        (original.is_known() && reply.is_known()).then(|| Self {
            status: EntryStatus(words.half(STATUS as usize)),
            words,
            layout,
            clock,
            original,
            reply,
        })
    }

    /// It lost a clash, and is in the table in the reply direction only.
    #[inline]
    pub(super) const fn is_clash(&self) -> bool {
        self.status.lost_clash()
    }

    /// Its time is over; the kernel removes it when it next comes by.
    #[inline]
    pub(super) fn has_expired(&self) -> bool {
        self.layout.has_expired(&self.words, self.clock)
    }
}

impl<W: EntryWords> FoundEntry for CopiedFound<'_, W> {
    fn entry(&self) -> Option<TableEntry> {
        self.layout.decode(&self.words, self.clock)
    }

    #[inline]
    fn shape(&self, kept: PortSet) -> Shape {
        let protocol = self.original.protocol();
        let client = self.original.source_port();
        let original = self.original.without_source_port();
        let reply = self.reply.without_client(protocol);
        let EntryStatus(status) = self.status;
        let about = u64::from(status & EntryStatus::COUNTED)
            | u64::from(kept.keep(protocol, client)) << 32
            | u64::from(self.layout.zone(&self.words)) << 48;
        let state = self.layout.state_byte(&self.words, protocol).unwrap_or(0);
        let answered = self.reply.client(protocol);
        let is_translated = client != answered;
        let [first, second, third, fourth, fifth] = original;
        let [sixth, seventh, eighth, ninth, tenth] = reply;
        [
            first,
            second,
            third,
            fourth,
            fifth,
            sixth,
            seventh,
            eighth,
            ninth,
            tenth,
            about,
            u64::from(state)
                | u64::from(is_translated) << 8
                | u64::from(is_chosen_by_nat(answered)) << 9,
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::decode::{
            protocol,
            tests::{Bytes, CLOCK, LAYOUT, copied},
        },
        *,
    };

    /// Where something of an entry is, and values that it may have.
    const CHANGES: [(usize, [u8; 2]); 14] = [
        // Sources, ports and destinations, of the original direction and of the replies.
        (35, [2, 3]),
        (49, [0, 53]),
        (55, [9, 8]),
        (69, [80, 81]),
        (91, [7, 6]),
        (105, [144, 145]),
        (111, [2, 3]),
        (125, [160, 0]),
        // Status, TCP state, zone, time-out, mark.
        (128, [8, 14]),
        (129, [0, 64]),
        (224, [3, 7]),
        (12, [7, 0]),
        (9, [1, 2]),
        (168, [1, 2]),
    ];

    fn entry(protocol: u8, which: [bool; 14]) -> Bytes {
        let mut made = copied(protocol, 0, 99);
        for ((at, values), second) in CHANGES.into_iter().zip(which) {
            made.0[at] = values[usize::from(second)];
        }
        made
    }

    proptest! {
        /// By a copy and by what it means the same entries are alike, but for states that a flow table makes meaningless.
        #[test]
        fn a_copy_is_like_another_if_their_entries_are(
            protocol in prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(protocol::ICMP), Just(253)],
            one: [bool; 14],
            other: [bool; 14],
            keeps: bool,
        ) {
            let kept: PortSet = keeps.then_some(53).into_iter().collect();
            let both = [one, other].map(|which| {
                let found = CopiedFound::new(entry(protocol, which), &LAYOUT, CLOCK).unwrap();
                (found.shape(kept), found.entry().unwrap().shape(kept))
            });
            let [(copy, meant), (other_copy, other_meant)] = both;
            if copy == other_copy {
                prop_assert_eq!(meant, other_meant);
            }
            let has_ports = protocol == protocol::TCP || protocol == protocol::UDP;
            if has_ports && meant == other_meant && !one[9] {
                prop_assert_eq!(copy, other_copy);
            }
        }
    }

    #[test]
    fn clients_of_one_address_are_alike_and_memory_without_a_family_is_no_entry() {
        let shape = |port: u16, kept: &[u16]| {
            let mut made = copied(protocol::UDP, 0, 99);
            made.0[48..50].copy_from_slice(&port.to_be_bytes());
            made.0[124..126].copy_from_slice(&port.to_be_bytes());
            let found = CopiedFound::new(made, &LAYOUT, CLOCK).unwrap();
            found.shape(kept.iter().copied().collect())
        };
        assert_eq!(shape(4_000, &[]), shape(4_001, &[]));
        assert_eq!(shape(4_000, &[51_820]), shape(4_001, &[51_820]));
        assert_ne!(shape(51_820, &[51_820]), shape(4_001, &[51_820]));
        let mut none = copied(protocol::UDP, 0, 99);
        none.0[106] = 0;
        assert!(CopiedFound::new(none, &LAYOUT, CLOCK).is_none());
    }
}
