//! The status bits of an entry.

/// Status bits (`enum ip_conntrack_status`, `nf_conntrack_common.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryStatus(pub u32);

impl EntryStatus {
    /// The bits by which entries are told apart where they are counted: seen reply, assured, offloaded.
    pub(crate) const COUNTED: u32 = 1 << 1 | 1 << 2 | 1 << 14;

    const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Packets were seen in both directions (`IPS_SEEN_REPLY`).
    pub(crate) const fn seen_reply(self) -> bool {
        self.has(1)
    }

    /// `early_drop` spares it (`IPS_ASSURED`).
    pub(crate) const fn assured(self) -> bool {
        self.has(2)
    }
    /// It is being removed (`IPS_DYING`).
    pub(crate) const fn dying(self) -> bool {
        self.has(9)
    }

    /// Packets don't set its time-out anew (`IPS_FIXED_TIMEOUT`).
    pub(crate) const fn has_fixed_timeout(self) -> bool {
        self.has(10)
    }

    /// It lost a clash and is in the table in the reply direction only (`IPS_NAT_CLASH`): ctnetlink does not list it.
    pub(crate) const fn lost_clash(self) -> bool {
        self.has(12)
    }

    /// A flow table forwards its packets, past conntrack (`IPS_OFFLOAD`): it has no time-out then,
    /// and no protocol state.
    pub(crate) const fn offloaded(self) -> bool {
        self.has(14)
    }
}
