//! The timeouts that findings are about, and which of them keeps an entry.

use crate::{
    doctor::thresholds,
    kernel::entries::{EntryState, TableEntry},
};

/// Entries that one timeout keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub(crate) enum Class {
    Established = 0,
    /// TCP, closed by both sides.
    TimeWait = 1,
    /// TCP, closed by one side.
    CloseWait = 2,
    SynSent = 3,
    /// UDP, answered for some time.
    UdpStream = 4,
    /// UDP, not answered, or once.
    Udp = 5,
}

/// All of them, as they are numbered.
pub(crate) const CLASSES: [Class; 6] = [
    Class::Established,
    Class::TimeWait,
    Class::CloseWait,
    Class::SynSent,
    Class::UdpStream,
    Class::Udp,
];

impl Class {
    /// Which timeout keeps this entry; `None`: one that no finding is about.
    pub(super) fn of(entry: &TableEntry) -> Option<Self> {
        match (entry.original.protocol, entry.state) {
            (6, EntryState::Tcp(3)) => Some(Self::Established),
            (6, EntryState::Tcp(7)) => Some(Self::TimeWait),
            (6, EntryState::Tcp(5)) => Some(Self::CloseWait),
            (6, EntryState::Tcp(1)) => Some(Self::SynSent),
            (17, EntryState::Assured) => Some(Self::UdpStream),
            (17, EntryState::Replied | EntryState::Unreplied) => Some(Self::Udp),
            _ => None,
        }
    }

    /// The sysctl without `nf_conntrack_`.
    pub(crate) fn sysctl(self) -> &'static str {
        match self {
            Self::Established => "tcp_timeout_established",
            Self::TimeWait => "tcp_timeout_time_wait",
            Self::CloseWait => "tcp_timeout_close_wait",
            Self::SynSent => "tcp_timeout_syn_sent",
            Self::UdpStream => "udp_timeout_stream",
            Self::Udp => "udp_timeout",
        }
    }

    /// Seconds after which an idle entry is of no use.
    pub(crate) fn enough(self) -> u64 {
        match self {
            Self::Established => thresholds::ESTABLISHED,
            Self::TimeWait => thresholds::TIME_WAIT,
            Self::CloseWait => thresholds::CLOSE_WAIT,
            Self::SynSent => thresholds::SYN_SENT,
            Self::UdpStream => thresholds::UDP_STREAM,
            Self::Udp => thresholds::UDP,
        }
    }
}
