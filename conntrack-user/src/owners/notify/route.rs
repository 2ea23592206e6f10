//! What rtnetlink says that may be about a new owner (`struct nlmsghdr`, `struct ndmsg`).

use std::collections::HashSet;

use libc::{
    NDA_DST, NDA_LLADDR, NUD_DELAY, NUD_PERMANENT, NUD_PROBE, NUD_REACHABLE, NUD_STALE,
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_LINK,
    RTMGRP_NEIGH,
};

use crate::sys::netlink::{Attributes, HEADER, MessageHeader};

/// Interfaces, addresses, routes, neighbours.
pub(super) const GROUPS: u32 = (RTMGRP_LINK
    | RTMGRP_NEIGH
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV6_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV6_ROUTE) as u32;

/// Length of `struct ndmsg`, bytes.
const NEIGHBOUR: usize = 12;

/// How many neighbours are remembered.
const MOST: usize = 1 << 14;

/// Neighbours that were heard of. The state of each changes every few seconds, which means nothing.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashSet<Vec<u8>>);

/// Whether something may have changed.
pub(super) fn concerns(mut messages: &[u8], neighbours: &mut Neighbours) -> bool {
    let mut changed = false;
    while let Some((header, rest)) = MessageHeader::read(messages) {
        let Some(body) = messages.get(HEADER..header.length) else {
            break;
        };
        messages = rest;
        changed |= match header.kind {
            RTM_NEWLINK | RTM_DELLINK | RTM_NEWADDR | RTM_DELADDR | RTM_NEWROUTE | RTM_DELROUTE => {
                true
            }
            RTM_NEWNEIGH => neighbours.is_new(body),
            _ => false,
        };
    }
    changed
}

impl Neighbours {
    /// Whether a neighbour is there that was not heard of before.
    fn is_new(&mut self, body: &[u8]) -> bool {
        let Some(header) = body.first_chunk::<NEIGHBOUR>() else {
            return false;
        };
        let state = u16::from_ne_bytes([header[8], header[9]]);
        let there = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT;
        if state & there == 0 {
            return false;
        }
        // Family and interface, then its address, or of a bridge's neighbour the hardware's.
        let mut key = vec![header[0]];
        key.extend_from_slice(&header[4..8]);
        for (kind, value) in Attributes::nested(&body[NEIGHBOUR..]) {
            if kind == NDA_DST || (kind == NDA_LLADDR && key.len() == 5) {
                key.truncate(5);
                key.extend_from_slice(&value[..value.len().min(32)]);
                if kind == NDA_DST {
                    break;
                }
            }
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    fn neighbour(interface: u8, state: u16, last: u8) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0, interface, 0, 0, 0];
        body.extend(state.to_ne_bytes());
        body.extend([0, 1]);
        for (kind, value) in [(NDA_LLADDR, [2, 0, 0, last]), (NDA_DST, [10, 42, 0, last])] {
            body.extend(8_u16.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
        }
        message(RTM_NEWNEIGH, &body)
    }

    #[test]
    fn a_neighbour_is_new_once() {
        let mut known = Neighbours::default();
        assert!(
            !concerns(&neighbour(3, 1, 7), &mut known),
            "it is only asked for"
        );
        assert!(concerns(&neighbour(3, NUD_REACHABLE, 7), &mut known));
        assert!(!concerns(&neighbour(3, NUD_STALE, 7), &mut known));
        assert!(concerns(&neighbour(3, NUD_STALE, 8), &mut known));
        assert!(concerns(&neighbour(4, NUD_STALE, 7), &mut known));
        assert_eq!(known.0.len(), 3);
    }

    #[test]
    fn interfaces_addresses_and_routes() {
        let mut known = Neighbours::default();
        for kind in [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELROUTE] {
            let mut bytes = message(2, &[0; 4]);
            assert!(!concerns(&bytes, &mut known));
            bytes.extend(message(kind, &[0; 16]));
            assert!(concerns(&bytes, &mut known));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = Neighbours::default();
        for number in 0..40_000_u32 {
            let [_, _, interface, last] = number.to_be_bytes();
            concerns(&neighbour(interface, NUD_STALE, last), &mut known);
        }
        assert!(known.0.len() <= MOST);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100), state: u16, at in 0..44_usize, with: u8) {
            let mut known = Neighbours::default();
            concerns(&bytes, &mut known);
            concerns(&message(RTM_NEWNEIGH, &bytes), &mut known);
            let mut flipped = neighbour(3, state, 7);
            flipped[at] = with;
            concerns(&flipped, &mut known);
        }
    }
}
