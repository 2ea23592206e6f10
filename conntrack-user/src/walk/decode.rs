//! What the bytes of a `struct nf_conn` mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntrack_ebpf::walk::{self, CopiedEntry, ENTRY_BYTES};

use super::error::NoHashWalk;
use crate::kernel::{
    btf::Btf,
    entries::{EntryState, EntryStatus, EntryTuple, Layer4, TableEntry},
};

/// `struct nf_conntrack_tuple_hash`: a node of 16 bytes, then the tuple of 40.
const NODE: usize = 16;
const TUPLE_HASH: usize = 56;
/// `NF_CT_ZONE_DIR_ORIG`
const ZONE_OF_ORIGINAL: u8 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Protocols (`include/uapi/linux/in.h`).
mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const DCCP: u8 = 33;
    pub(super) const GRE: u8 = 47;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDPLITE: u8 = 136;
}

/// Offsets in `struct nf_conn`; what a kernel does not have is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// For the program.
    pub(super) net: u32,
    /// Of `ns.inum` in `struct net`, for the program.
    pub(super) inum: u32,
    timeout: usize,
    zone: Option<usize>,
    zone_directions: Option<usize>,
    mark: Option<usize>,
    tcp_state: usize,
    sctp_state: Option<usize>,
    dccp_state: Option<usize>,
}

impl Layout {
    /// As the running kernel's BTF has it.
    ///
    /// # Errors
    /// When something is missing, or is elsewhere than on any known kernel.
    pub(super) fn find(vmlinux: &Btf<'_>) -> Result<Self, NoHashWalk> {
        let layout = |error: String| NoHashWalk::Layout(error);
        let member = |structure, path: &[&str], size| {
            let found = vmlinux
                .member(structure, path)
                .map_err(|error| layout(error.to_string()))?;
            if found.size == size || size == 0 {
                Ok(found.offset_bytes)
            } else {
                let path = path.join(".");
                Err(layout(format!(
                    "{structure}.{path} has {} bytes, not {size}",
                    found.size
                )))
            }
        };
        let in_entry = |path: &[&str], size: u32| {
            let at = member("nf_conn", path, size)?;
            if at as usize + size as usize > ENTRY_BYTES {
                let path = path.join(".");
                return Err(layout(format!(
                    "nf_conn.{path} is {at} bytes from the begin"
                )));
            }
            Ok(at)
        };
        for (path, size, expected) in [
            ("tuplehash", 2 * TUPLE_HASH, walk::TUPLES),
            ("status", 8, walk::STATUS),
        ] {
            let at = in_entry(&[path], u32::try_from(size).unwrap_or(u32::MAX))?;
            if at != expected {
                return Err(layout(format!(
                    "nf_conn.{path} is {at} bytes from the begin, not {expected}"
                )));
            }
        }
        let place = |path: &[&str], size| in_entry(path, size).map(|at| at as usize);
        Ok(Self {
            net: in_entry(&["ct_net", "net"], 8)?,
            inum: member("net", &["ns", "inum"], 4)?,
            timeout: place(&["timeout"], 4)?,
            zone: place(&["zone", "id"], 2).ok(),
            zone_directions: place(&["zone", "dir"], 1).ok(),
            mark: place(&["mark"], 4).ok(),
            tcp_state: place(&["proto", "tcp", "state"], 1)?,
            sctp_state: place(&["proto", "sctp", "state"], 4).ok(),
            dccp_state: place(&["proto", "dccp", "state"], 1).ok(),
        })
    }

    /// The entry, `now` and `hertz` jiffies after the boot and in a second; `None`: it has no tuples of a known kind, as memory that is
    /// being made another entry.
    pub(super) fn decode(&self, copied: &CopiedEntry, now: u64, hertz: u64) -> Option<TableEntry> {
        let bytes = &copied.bytes;
        let original = tuple(bytes, walk::TUPLES as usize + NODE)?;
        let reply = tuple(bytes, walk::TUPLES as usize + TUPLE_HASH + NODE)?;
        let status = EntryStatus(word(bytes, walk::STATUS as usize));
        let state = self
            .state(bytes, original.protocol)
            .filter(|_| !status.offloaded());
        Some(TableEntry {
            original,
            reply,
            zone: self.zone(bytes),
            status,
            state: state.unwrap_or_else(|| EntryState::of(status)),
            timeout: (!status.offloaded())
                .then(|| seconds_left(word(bytes, self.timeout), now, hertz)),
            mark: self.mark.map_or(0, |at| word(bytes, at)),
            id: 0,
            start: None,
        })
    }

    /// Whether the time of an entry is over (`nf_ct_is_expired`): the kernel removes it when it next comes by.
    pub(super) fn has_expired(&self, copied: &CopiedEntry, now: u64) -> bool {
        let status = EntryStatus(word(&copied.bytes, walk::STATUS as usize));
        !status.offloaded() && jiffies_left(word(&copied.bytes, self.timeout), now) <= 0
    }

    /// The zone of the original direction (`nf_ct_zone_id`).
    fn zone(&self, bytes: &[u8; ENTRY_BYTES]) -> u16 {
        let directions = self.zone_directions.and_then(|at| bytes.get(at));
        match self.zone {
            Some(at) if directions.is_none_or(|of| of & ZONE_OF_ORIGINAL != 0) => half(bytes, at),
            _ => 0,
        }
    }

    /// The state that the protocol keeps, if it keeps one.
    fn state(&self, bytes: &[u8; ENTRY_BYTES], protocol: u8) -> Option<EntryState> {
        let byte = |at: usize| bytes.get(at).copied();
        match protocol {
            protocol::TCP => byte(self.tcp_state).map(EntryState::Tcp),
            protocol::SCTP => byte(self.sctp_state?).map(EntryState::Sctp),
            protocol::DCCP => byte(self.dccp_state?).map(EntryState::Dccp),
            _ => None,
        }
    }
}

/// Jiffies until a time-out, which is the lower half of a time.
fn jiffies_left(timeout: u32, now: u64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel compares the lower halves"
    )]
    timeout.wrapping_sub(now as u32).cast_signed()
}

/// Seconds until a time-out (`nf_ct_expires`); 0: it has expired.
fn seconds_left(timeout: u32, now: u64, hertz: u64) -> u32 {
    let left = u64::try_from(jiffies_left(timeout, now)).unwrap_or(0);
    u32::try_from(left / hertz).unwrap_or(u32::MAX)
}

#[inline]
fn array<const N: usize>(bytes: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.copied().unwrap_or([0; N])
}

#[inline]
fn word(bytes: &[u8; ENTRY_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, at))
}

#[inline]
fn half(bytes: &[u8; ENTRY_BYTES], at: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, at))
}

/// The tuple at this place (`struct nf_conntrack_tuple`).
#[inline]
fn tuple(bytes: &[u8; ENTRY_BYTES], at: usize) -> Option<EntryTuple> {
    let tuple: [u8; 40] = array(bytes, at);
    let part = |at: usize| [tuple[at], tuple[at + 1]];
    let address = |at: usize| -> Option<IpAddr> {
        let from = &tuple[at..];
        match u16::from_ne_bytes(part(18)) {
            AF_INET => Some(Ipv4Addr::from(*from.first_chunk::<4>()?).into()),
            AF_INET6 => Some(Ipv6Addr::from(*from.first_chunk::<16>()?).into()),
            _ => None,
        }
    };
    let (first, second) = (part(16), part(36));
    let protocol = tuple[38];
    Some(EntryTuple {
        source: address(0)?,
        destination: address(20)?,
        protocol,
        layer4: match protocol {
            protocol::TCP
            | protocol::UDP
            | protocol::UDPLITE
            | protocol::SCTP
            | protocol::DCCP
            | protocol::GRE => Layer4::Ports {
                source: u16::from_be_bytes(first),
                destination: u16::from_be_bytes(second),
            },
            protocol::ICMP | protocol::ICMPV6 => Layer4::Icmp {
                id: u16::from_be_bytes(first),
                kind: second[0],
                code: second[1],
            },
            _ => Layer4::Addresses,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on 6.12.
    const LAYOUT: Layout = Layout {
        net: 136,
        inum: 152,
        timeout: 8,
        zone: Some(12),
        zone_directions: Some(15),
        mark: Some(168),
        tcp_state: 224,
        sctp_state: Some(184),
        dccp_state: None,
    };
    const NOW: u64 = 0x1_0000_0010;
    const HERTZ: u64 = 250;

    /// An entry that asks 10.0.0.9:80 and is answered by 10.1.0.7:8080.
    fn copied(protocol: u8, status: u32, timeout: u32) -> CopiedEntry {
        let mut bytes = [0; ENTRY_BYTES];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(8, &timeout.to_ne_bytes());
        put(12, &7_u16.to_ne_bytes());
        put(15, &[3]);
        for (at, source, ports, destination) in [
            (32, [10, 0, 0, 2], (4_000_u16, 80_u16), [10, 0, 0, 9]),
            (88, [10, 1, 0, 7], (8_080, 4_000), [10, 0, 0, 2]),
        ] {
            put(at, &source);
            put(at + 16, &ports.0.to_be_bytes());
            put(at + 18, &AF_INET.to_ne_bytes());
            put(at + 20, &destination);
            put(at + 36, &ports.1.to_be_bytes());
            put(at + 38, &[protocol]);
        }
        put(128, &status.to_ne_bytes());
        put(168, &0x2a_u32.to_ne_bytes());
        put(224, &[3]);
        CopiedEntry {
            address: 0xffff_8880_0000_1000,
            netns: 1,
            bucket: 0,
            bytes,
        }
    }

    #[test]
    fn bytes_of_the_kernel_are_an_entry() {
        // 0x10 jiffies after the lower half ran over, 100 s are left.
        let found = copied(protocol::TCP, 1 << 1 | 1 << 2 | 1 << 3, 0x10 + 25_000);
        let entry = LAYOUT.decode(&found, NOW, HERTZ).unwrap();
        assert_eq!(entry.original.source.to_string(), "10.0.0.2");
        assert_eq!(entry.original.destination.to_string(), "10.0.0.9");
        assert_eq!(entry.original.layer4.ports(), Some((4_000, 80)));
        assert_eq!(entry.reply.source.to_string(), "10.1.0.7");
        assert_eq!(entry.reply.layer4.ports(), Some((8_080, 4_000)));
        assert!(entry.destination_translated() && !entry.source_translated());
        assert_eq!(
            (entry.zone, entry.mark, entry.timeout),
            (7, 0x2a, Some(100))
        );
        assert_eq!(entry.state, EntryState::Tcp(3));
        assert!(!entry.evictable() && !LAYOUT.has_expired(&found, NOW));
    }

    #[test]
    fn what_has_no_state_of_its_own_says_what_its_status_says() {
        let state = |protocol, status| {
            let entry = LAYOUT.decode(&copied(protocol, status, 99), NOW, HERTZ);
            entry.map(|entry| (entry.state, entry.timeout.is_some()))
        };
        assert_eq!(state(protocol::UDP, 0), Some((EntryState::Unreplied, true)));
        assert_eq!(
            state(protocol::UDP, 1 << 1),
            Some((EntryState::Replied, true))
        );
        // A flow table forwards it: the state is of before.
        assert_eq!(
            state(protocol::TCP, 1 << 14),
            Some((EntryState::Offloaded, false))
        );
        let icmp = LAYOUT
            .decode(&copied(protocol::ICMP, 0, 99), NOW, HERTZ)
            .unwrap();
        assert_eq!(icmp.original.layer4.icmp(), Some((4_000, 0, 80)));
        let other = LAYOUT.decode(&copied(253, 0, 99), NOW, HERTZ).unwrap();
        assert_eq!(other.original.layer4, Layer4::Addresses);
    }

    #[test]
    fn times_that_are_over_and_memory_that_is_no_entry_are_noticed() {
        for (timeout, expired) in [
            (0x11_u32, false),
            (0x10, true),
            (0x0f, true),
            (u32::MAX, true),
        ] {
            let found = copied(protocol::UDP, 0, timeout);
            assert_eq!(LAYOUT.has_expired(&found, NOW), expired, "{timeout:#x}");
            let entry = LAYOUT.decode(&found, NOW, HERTZ).unwrap();
            assert_eq!(entry.timeout, Some(0), "less than a second is left");
        }
        let mut none = copied(protocol::UDP, 0, 99);
        none.bytes[50] = 0;
        assert_eq!(LAYOUT.decode(&none, NOW, HERTZ), None);
        // A zone of the replies only is none of the original direction.
        let mut zoned = copied(protocol::UDP, 0, 99);
        zoned.bytes[15] = 2;
        assert_eq!(LAYOUT.decode(&zoned, NOW, HERTZ).unwrap().zone, 0);
    }
}
