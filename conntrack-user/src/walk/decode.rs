//! What the bytes of a `struct nf_conn` mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntrack_ebpf::walk::{self, ENTRY_BYTES};

use super::error::NoHashWalk;
use crate::kernel::{
    btf::{Btf, NamedStructure},
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
pub(super) mod protocol {
    pub(in crate::walk) const ICMP: u8 = 1;
    pub(in crate::walk) const TCP: u8 = 6;
    pub(in crate::walk) const UDP: u8 = 17;
    pub(in crate::walk) const DCCP: u8 = 33;
    pub(in crate::walk) const GRE: u8 = 47;
    pub(in crate::walk) const ICMPV6: u8 = 58;
    pub(in crate::walk) const SCTP: u8 = 132;
    pub(in crate::walk) const UDPLITE: u8 = 136;
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
        let find = |name| {
            let found = vmlinux.named_structure(name);
            found.map_err(|error| layout(error.to_string()))
        };
        let (entry, namespace) = (find("nf_conn")?, find("net")?);
        let member = |(name, structure): (&str, NamedStructure<'_>), path: &[&str], size| {
            let found = structure.member(path);
            let found = found.map_err(|error| layout(error.to_string()))?;
            if found.size == size || size == 0 {
                Ok(found.offset_bytes)
            } else {
                let path = path.join(".");
                Err(layout(format!(
                    "{name}.{path} has {} bytes, not {size}",
                    found.size
                )))
            }
        };
        let in_entry = |path: &[&str], size: u32| {
            let at = member(("nf_conn", entry), path, size)?;
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
            inum: member(("net", namespace), &["ns", "inum"], 4)?,
            timeout: place(&["timeout"], 4)?,
            zone: place(&["zone", "id"], 2).ok(),
            zone_directions: place(&["zone", "dir"], 1).ok(),
            mark: place(&["mark"], 4).ok(),
            tcp_state: place(&["proto", "tcp", "state"], 1)?,
            sctp_state: place(&["proto", "sctp", "state"], 4).ok(),
            dccp_state: place(&["proto", "dccp", "state"], 1).ok(),
        })
    }

    /// The entry; `None`: it has no tuples of a known kind, as memory that is being made another entry.
    pub(super) fn decode(&self, words: &impl EntryWords, clock: JiffyClock) -> Option<TableEntry> {
        let original = TupleWords::original(words).decode()?;
        let reply = TupleWords::reply(words).decode()?;
        let status = EntryStatus(words.half(walk::STATUS as usize));
        let state = self
            .state(words, original.protocol)
            .filter(|_| !status.offloaded());
        Some(TableEntry {
            original,
            reply,
            zone: self.zone(words),
            status,
            state: state.unwrap_or_else(|| EntryState::of(status)),
            timeout: (!status.offloaded()).then(|| clock.seconds_left(words.half(self.timeout))),
            mark: self.mark.map_or(0, |at| words.half(at)),
            id: 0,
            start: None,
        })
    }

    /// Whether the time of an entry is over (`nf_ct_is_expired`): the kernel removes it when it next comes by.
    #[inline]
    pub(super) fn has_expired(&self, words: &impl EntryWords, clock: JiffyClock) -> bool {
        let status = EntryStatus(words.half(walk::STATUS as usize));
        !status.offloaded() && clock.jiffies_left(words.half(self.timeout)) <= 0
    }

    /// The zone of the original direction (`nf_ct_zone_id`).
    #[inline]
    pub(super) fn zone(&self, words: &impl EntryWords) -> u16 {
        let directions = self.zone_directions.map(|at| words.byte(at));
        match self.zone {
            Some(at) if directions.is_none_or(|of| of & ZONE_OF_ORIGINAL != 0) => words.quarter(at),
            _ => 0,
        }
    }

    /// The number of the state that the protocol keeps, if it keeps one.
    #[inline]
    pub(super) fn state_byte(&self, words: &impl EntryWords, protocol: u8) -> Option<u8> {
        let at = match protocol {
            protocol::TCP => self.tcp_state,
            protocol::SCTP => self.sctp_state?,
            protocol::DCCP => self.dccp_state?,
            _ => return None,
        };
        Some(words.byte(at))
    }

    fn state(&self, words: &impl EntryWords, protocol: u8) -> Option<EntryState> {
        let number = self.state_byte(words, protocol)?;
        Some(match protocol {
            protocol::TCP => EntryState::Tcp(number),
            protocol::SCTP => EntryState::Sctp(number),
            _ => EntryState::Dccp(number),
        })
    }
}

/// The first bytes of a `struct nf_conn`, as words of 8.
pub(super) trait EntryWords {
    /// The word at so many bytes, a multiple of 8.
    fn word(&self, at: usize) -> u64;

    /// The half of a word at so many bytes, a multiple of 4.
    #[inline]
    fn half(&self, at: usize) -> u32 {
        let [first, second] = halves(self.word(at & !7));
        if at & 4 == 0 { first } else { second }
    }

    /// The quarter of a word at so many bytes, a multiple of 2.
    #[inline]
    fn quarter(&self, at: usize) -> u16 {
        let [first, second, third, fourth] = self.half(at & !3).to_ne_bytes();
        u16::from_ne_bytes(if at & 2 == 0 {
            [first, second]
        } else {
            [third, fourth]
        })
    }

    /// The byte at so many bytes.
    #[inline]
    fn byte(&self, at: usize) -> u8 {
        let [first, second] = self.quarter(at & !1).to_ne_bytes();
        if at & 1 == 0 { first } else { second }
    }
}

/// The two numbers of 32 bits that lie in a word, in the order of memory.
#[inline]
pub(super) const fn halves(word: u64) -> [u32; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    let (low, high) = (word as u32, (word >> 32) as u32);
    if cfg!(target_endian = "little") {
        [low, high]
    } else {
        [high, low]
    }
}

/// The clock of the kernel when an entry was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct JiffyClock {
    pub(super) now: u64,
    /// Jiffies of a second.
    pub(super) hertz: u64,
}

impl JiffyClock {
    /// Jiffies until a time-out, which is the lower half of a time.
    fn jiffies_left(self, timeout: u32) -> i32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the kernel compares the lower halves"
        )]
        timeout.wrapping_sub(self.now as u32).cast_signed()
    }

    /// Seconds until a time-out (`nf_ct_expires`); 0: it has expired.
    fn seconds_left(self, timeout: u32) -> u32 {
        let left = u64::try_from(self.jiffies_left(timeout)).unwrap_or(0);
        u32::try_from(left / self.hertz).unwrap_or(u32::MAX)
    }
}

/// A tuple (`struct nf_conntrack_tuple`): of the source the address in 16 bytes, the port and the family, then of the destination the address,
/// the port, the protocol and the direction.
pub(super) struct TupleWords([u64; 5]);

/// All but the port of the source, in the third word.
const WITHOUT_SOURCE_PORT: u64 = u64::from_ne_bytes([0, 0, 255, 255, 255, 255, 255, 255]);
/// All but the port of the destination, in the last word.
const WITHOUT_DESTINATION_PORT: u64 = u64::from_ne_bytes([255, 255, 255, 255, 0, 0, 255, 255]);

impl TupleWords {
    #[inline]
    fn at(words: &impl EntryWords, at: usize) -> Self {
        // By hand: `map` of an array is a call here, for each entry.
        let word = |number: usize| words.word(at + NODE + 8 * number);
        Self([word(0), word(1), word(2), word(3), word(4)])
    }

    #[inline]
    pub(super) fn original(words: &impl EntryWords) -> Self {
        Self::at(words, walk::TUPLES as usize)
    }

    #[inline]
    pub(super) fn reply(words: &impl EntryWords) -> Self {
        Self::at(words, walk::TUPLES as usize + TUPLE_HASH)
    }

    #[inline]
    const fn family(&self) -> u16 {
        let [_, _, low, high, ..] = self.0[2].to_ne_bytes();
        u16::from_ne_bytes([low, high])
    }

    /// Whether it is of a known family.
    #[inline]
    pub(super) const fn is_known(&self) -> bool {
        matches!(self.family(), AF_INET | AF_INET6)
    }

    #[inline]
    pub(super) const fn protocol(&self) -> u8 {
        let [.., protocol, _] = self.0[4].to_ne_bytes();
        protocol
    }

    /// The source's port, or an ICMP id.
    #[inline]
    pub(super) const fn source_port(&self) -> u16 {
        let [high, low, ..] = self.0[2].to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// The destination's port, or an ICMP type and code, as they lie there.
    #[inline]
    const fn destination_port(&self) -> [u8; 2] {
        let [_, _, _, _, high, low, ..] = self.0[4].to_ne_bytes();
        [high, low]
    }

    /// Of the replies: the port, or ICMP id, of whoever they go to.
    #[inline]
    pub(super) const fn client(&self, protocol: u8) -> u16 {
        match protocol {
            protocol::ICMP | protocol::ICMPV6 => self.source_port(),
            _ => u16::from_be_bytes(self.destination_port()),
        }
    }

    /// Its words without the port of the source.
    #[inline]
    pub(super) const fn without_source_port(&self) -> [u64; 5] {
        let mut words = self.0;
        words[2] &= WITHOUT_SOURCE_PORT;
        words
    }

    /// Of the replies: its words without [`Self::client`].
    #[inline]
    pub(super) const fn without_client(&self, protocol: u8) -> [u64; 5] {
        let mut words = self.0;
        match protocol {
            protocol::ICMP | protocol::ICMPV6 => words[2] &= WITHOUT_SOURCE_PORT,
            _ => words[4] &= WITHOUT_DESTINATION_PORT,
        }
        words
    }

    /// `None`: it is of no known family.
    fn decode(&self) -> Option<EntryTuple> {
        let mut bytes = [0; 40];
        for (eight, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *eight = word.to_ne_bytes();
        }
        let family = self.family();
        let address = |at: usize| -> Option<IpAddr> {
            let from = bytes.get(at..)?;
            match family {
                AF_INET => Some(Ipv4Addr::from(*from.first_chunk::<4>()?).into()),
                AF_INET6 => Some(Ipv6Addr::from(*from.first_chunk::<16>()?).into()),
                _ => None,
            }
        };
        let protocol = self.protocol();
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
                    source: self.source_port(),
                    destination: u16::from_be_bytes(self.destination_port()),
                },
                protocol::ICMP | protocol::ICMPV6 => {
                    let [kind, code] = self.destination_port();
                    Layer4::Icmp {
                        id: self.source_port(),
                        kind,
                        code,
                    }
                }
                _ => Layer4::Addresses,
            },
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The first bytes of an entry.
    pub(in crate::walk) struct Bytes(pub(in crate::walk) [u8; ENTRY_BYTES]);

    impl EntryWords for Bytes {
        fn word(&self, at: usize) -> u64 {
            u64::from_ne_bytes(*self.0[at..].first_chunk().unwrap())
        }
    }

    /// As on 6.12.
    pub(in crate::walk) const LAYOUT: Layout = Layout {
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
    pub(in crate::walk) const CLOCK: JiffyClock = JiffyClock {
        now: 0x1_0000_0010,
        hertz: 250,
    };

    /// An entry that asks 10.0.0.9:80 and is answered by 10.1.0.7:8080.
    pub(in crate::walk) fn copied(protocol: u8, status: u32, timeout: u32) -> Bytes {
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
        Bytes(bytes)
    }

    #[test]
    fn bytes_of_the_kernel_are_an_entry() {
        // 0x10 jiffies after the lower half ran over, 100 s are left.
        let found = copied(protocol::TCP, 1 << 1 | 1 << 2 | 1 << 3, 0x10 + 25_000);
        let entry = LAYOUT.decode(&found, CLOCK).unwrap();
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
        assert!(!entry.evictable() && !LAYOUT.has_expired(&found, CLOCK));
    }

    #[test]
    fn what_has_no_state_of_its_own_says_what_its_status_says() {
        let state = |protocol, status| {
            let entry = LAYOUT.decode(&copied(protocol, status, 99), CLOCK);
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
            .decode(&copied(protocol::ICMP, 0, 99), CLOCK)
            .unwrap();
        assert_eq!(icmp.original.layer4.icmp(), Some((4_000, 0, 80)));
        let other = LAYOUT.decode(&copied(253, 0, 99), CLOCK).unwrap();
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
            assert_eq!(LAYOUT.has_expired(&found, CLOCK), expired, "{timeout:#x}");
            let entry = LAYOUT.decode(&found, CLOCK).unwrap();
            assert_eq!(entry.timeout, Some(0), "less than a second is left");
        }
        let mut none = copied(protocol::UDP, 0, 99);
        none.0[50] = 0;
        assert_eq!(LAYOUT.decode(&none, CLOCK), None);
        // A zone of the replies only is none of the original direction.
        let mut zoned = copied(protocol::UDP, 0, 99);
        zoned.0[15] = 2;
        assert_eq!(LAYOUT.decode(&zoned, CLOCK).unwrap().zone, 0);
    }
}
