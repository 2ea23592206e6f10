//! States of connections, as conntrack calls them.

use super::EntryStatus;

const TCP: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

const SCTP: [&str; 10] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
    "HEARTBEAT_ACKED",
];

const DCCP: [&str; 10] = [
    "NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE",
    "INVALID",
];

/// Names of what has no state of its own.
const PLAIN: [&str; 4] = ["UNREPLIED", "REPLIED", "ASSURED", "OFFLOADED"];

/// The names of each class of states, and whose they are; `None`: they say what the status says.
const CLASSES: [(Option<&str>, &[&str]); 4] = [
    (Some("tcp"), &TCP),
    (Some("sctp"), &SCTP),
    (Some("dccp"), &DCCP),
    (None, &PLAIN),
];

/// States of connections that were begun and not completed.
const INCOMPLETE: [&str; 8] = [
    "SYN_SENT",
    "SYN_SENT2",
    "SYN_RECV",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "REQUEST",
    "RESPOND",
];

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum EntryState {
    /// Number in `enum tcp_conntrack`.
    Tcp(u8),
    /// Number in `enum sctp_conntrack`.
    Sctp(u8),
    /// Number in `enum ct_dccp_states`.
    Dccp(u8),
    /// No answer was seen.
    Unreplied,
    /// Answered, but `early_drop` may still take it.
    Replied,
    /// Answered, and `early_drop` spares it.
    Assured,
    /// A flow table forwards it, so conntrack doesn't see its packets.
    Offloaded,
}

impl EntryState {
    /// A TCP connection that both sides have closed.
    pub(crate) const TIME_WAIT: Self = Self::Tcp(7);

    /// Whether it is one of the states before a connection is complete.
    pub(crate) fn is_incomplete(self) -> bool {
        matches!(self.name(), Some(name) if INCOMPLETE.contains(&name))
    }

    /// What the status says of an entry whose protocol has no states.
    pub(crate) const fn of(status: EntryStatus) -> Self {
        if status.offloaded() {
            Self::Offloaded
        } else if status.assured() {
            Self::Assured
        } else if status.seen_reply() {
            Self::Replied
        } else {
            Self::Unreplied
        }
    }

    /// The kernel's name; `None` for a number that no known kernel uses.
    pub(crate) fn name(self) -> Option<&'static str> {
        let [class, number] = self.to_bytes().map(usize::from);
        CLASSES[class].1.get(number).copied()
    }

    /// Whose states it belongs to; `None`: it says what the status says.
    pub(crate) fn protocol(self) -> Option<&'static str> {
        CLASSES[usize::from(self.to_bytes()[0])].0
    }

    /// The name, or `state_` and the number.
    pub(crate) fn label(self) -> String {
        let number = self.to_bytes()[1];
        self.name()
            .map_or_else(|| format!("state_{number}"), str::to_owned)
    }

    /// Two bytes that no other state has.
    pub(crate) const fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::Tcp(number) => [0, number],
            Self::Sctp(number) => [1, number],
            Self::Dccp(number) => [2, number],
            Self::Unreplied => [3, 0],
            Self::Replied => [3, 1],
            Self::Assured => [3, 2],
            Self::Offloaded => [3, 3],
        }
    }

    /// The state of two bytes from [`State::to_bytes`].
    pub(crate) const fn from_bytes(bytes: [u8; 2]) -> Self {
        match bytes {
            [0, number] => Self::Tcp(number),
            [1, number] => Self::Sctp(number),
            [2, number] => Self::Dccp(number),
            [_, 0] => Self::Unreplied,
            [_, 1] => Self::Replied,
            [_, 2] => Self::Assured,
            [_, _] => Self::Offloaded,
        }
    }
}

/// Every name that [`State::name`] can give, sorted.
pub(crate) fn state_names() -> Vec<&'static str> {
    let mut names = CLASSES.map(|(_, names)| names).concat();
    names.sort_unstable();
    names.dedup();
    names
}
