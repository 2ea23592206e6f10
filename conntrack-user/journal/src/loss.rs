//! What owners lose, by kind: packets, entries, and of how many flows they were.

use std::collections::BTreeMap;

use conntrack_ebpf::record::DropReason;

/// Something that an owner can lose: `loss_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// A packet. [`DropReason::TableFullRequest`] is none: ctnetlink or BPF was refused an entry.
    Packet(DropReason),
    /// A live entry of its own that was evicted.
    Victim,
    /// A live entry of anybody that was evicted for its sake.
    Cause,
    /// Of the packets that a full table refused, one that was seen with detail: the first one of its flow.
    RefusedFirst,
    /// Another one of a flow that had been refused before.
    RefusedAgain,
    /// Of its entries that were evicted, one that was seen with detail, of a flow that had not been evicted.
    EvictedFirst,
    /// One of a flow that had been evicted before.
    EvictedAgain,
}

impl Loss {
    /// All of them, in the order of their numbers.
    fn all() -> impl Iterator<Item = Self> {
        DropReason::ALL.into_iter().map(Self::Packet).chain([
            Self::Victim,
            Self::Cause,
            Self::RefusedFirst,
            Self::RefusedAgain,
            Self::EvictedFirst,
            Self::EvictedAgain,
        ])
    }

    /// Whether it tells more of losses that another kind counts already.
    pub const fn is_detail(self) -> bool {
        match self {
            Self::Packet(_) | Self::Victim | Self::Cause => false,
            Self::RefusedFirst | Self::RefusedAgain | Self::EvictedFirst | Self::EvictedAgain => {
                true
            }
        }
    }

    /// Its number in the journal, `loss_kind.id`.
    pub const fn number(self) -> i64 {
        match self {
            Self::Packet(reason) => reason as i64,
            Self::Victim => 100,
            Self::Cause => 101,
            Self::RefusedFirst => 110,
            Self::RefusedAgain => 111,
            Self::EvictedFirst => 112,
            Self::EvictedAgain => 113,
        }
    }

    /// The one with this number.
    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Self::all().find(|loss| loss.number() == number)
    }
}

/// What an owner lost, by kind; what it did not lose is not in it.
pub type Losses = BTreeMap<Loss, u64>;
