//! The rules of `nf_tables`, over netlink (`nf_tables_api.c`): only the names of the tables and the rules
//! of the chain `KUBE-FORWARD`, however many others there are.

use super::{Backend, FORWARD, Forward, InvalidDrop};
use crate::sys::netlink::{Attributes, NetlinkError, NetlinkSocket, put_string};

const NFTABLES: u8 = 10;
const GET_TABLE: u8 = 1;
const GET_RULE: u8 = 7;
const GET_OBJECT: u8 = 19;
const OBJECT_TYPE: u16 = 3;
/// `NFT_OBJECT_CT_TIMEOUT`, in network order.
const TIMEOUT_OBJECT: &[u8] = &[0, 0, 0, 7];
const IPV4: u8 = 2;
const IPV6: u8 = 10;

const TABLE_NAME: u16 = 1;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const MATCH_NAME: u16 = 1;
const MATCH_INFO: u16 = 3;
const CT_KEY: u16 = 2;
const BITWISE_MASK: u16 = 4;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;

/// `match_flags` in `struct xt_conntrack_mtinfo2` and `3`: behind eight addresses, two 32-bit and five
/// 16-bit numbers.
const XT_MATCH_FLAGS: usize = 8 * 16 + 2 * 4 + 5 * 2;
const XT_STATE_MASK: usize = XT_MATCH_FLAGS + 4;
const XT_STATE: u16 = 1;
const INVALID: u16 = 1;

#[derive(Debug, Default)]
pub(super) struct NftRules {
    /// kube-proxy has a table of its own: its mode is nftables.
    pub(super) own_table: bool,
    pub(super) forward: Vec<Forward>,
    /// There are timeouts for some connections (`ct timeout`).
    pub(super) timeouts: bool,
}

/// Asks the kernel. Needs `CAP_NET_ADMIN`.
pub(super) fn read() -> Result<NftRules, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    let mut found = NftRules::default();
    let mut filters = Vec::new();
    socket.dump(NFTABLES, GET_TABLE, 0, &[], |mut part| {
        let name = part
            .attributes
            .find_map(|(kind, value)| (kind == TABLE_NAME).then_some(value));
        match (part.header, name) {
            ([IPV4 | IPV6, ..], Some(b"kube-proxy\0")) => found.own_table = true,
            ([family @ (IPV4 | IPV6), ..], Some(b"filter\0")) => filters.push(*family),
            _ => {}
        }
    })?;
    socket.dump(NFTABLES, GET_OBJECT, 0, &[], |mut part| {
        let kind = part.attributes.find(|(kind, _)| *kind == OBJECT_TYPE);
        found.timeouts |= kind.is_some_and(|(_, kind)| kind == TIMEOUT_OBJECT);
    })?;
    for family in filters {
        let mut wanted = Vec::new();
        put_string(&mut wanted, RULE_TABLE, "filter");
        put_string(&mut wanted, RULE_CHAIN, FORWARD);
        let mut rules = 0;
        let mut drop = None;
        socket.dump(NFTABLES, GET_RULE, family, &wanted, |part| {
            // A kernel that does not know what is asked for lists the rules of all chains.
            let of_chain = part
                .attributes
                .clone()
                .any(|(kind, value)| kind == RULE_CHAIN && value == b"KUBE-FORWARD\0");
            if of_chain {
                rules += 1;
                drop = drop.or_else(|| drops_invalid(part.attributes));
            }
        })?;
        // kube-proxy's chain always has rules.
        if rules > 0 {
            found.forward.push(Forward {
                ipv6: family == IPV6,
                backend: Backend::Nft,
                drop,
            });
        }
    }
    Ok(found)
}

fn inside(value: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::nested(value).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*two))
}

/// Whether a rule drops INVALID packets: written by iptables, or by nft.
fn drops_invalid(rule: Attributes<'_>) -> Option<InvalidDrop> {
    let mut rule = rule;
    let (_, expressions) = rule.find(|(kind, _)| *kind == RULE_EXPRESSIONS)?;
    let (mut invalid, mut of_state, mut drops, mut packets) = (false, false, false, None);
    for (kind, expression) in Attributes::nested(expressions) {
        let name = inside(expression, EXPRESSION_NAME);
        let data = inside(expression, EXPRESSION_DATA).unwrap_or_default();
        if kind != LIST_ELEMENT {
            continue;
        }
        match name {
            Some(b"match\0") => invalid |= matches_invalid(data),
            // `ct state`: loaded, masked, compared. `NFT_CT_STATE` is 0.
            Some(b"ct\0") => of_state = inside(data, CT_KEY) == Some(&[0; 4]),
            Some(b"bitwise\0") => {
                let mask = inside(data, BITWISE_MASK).and_then(|mask| inside(mask, DATA_VALUE));
                invalid |= of_state && mask.and_then(|mask| half(mask, 0)) == Some(INVALID);
            }
            Some(b"counter\0") => {
                packets = inside(data, COUNTER_PACKETS)
                    .and_then(|value| value.first_chunk())
                    .map(|eight| u64::from_be_bytes(*eight));
            }
            Some(b"immediate\0") => {
                let code = inside(data, IMMEDIATE_DATA)
                    .and_then(|data| inside(data, DATA_VERDICT))
                    .and_then(|verdict| inside(verdict, VERDICT_CODE));
                // `NF_DROP`
                drops |= code == Some(&[0; 4]);
            }
            _ => {}
        }
    }
    (invalid && drops).then_some(InvalidDrop { packets })
}

/// The match `conntrack` of iptables, with the state INVALID.
fn matches_invalid(data: &[u8]) -> bool {
    let info = inside(data, MATCH_INFO).unwrap_or_default();
    inside(data, MATCH_NAME) == Some(b"conntrack\0")
        && half(info, XT_MATCH_FLAGS).is_some_and(|flags| flags & XT_STATE != 0)
        && half(info, XT_STATE_MASK).is_some_and(|states| states & INVALID != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        let named = attribute(EXPRESSION_NAME, format!("{name}\0").as_bytes());
        let data = attribute(EXPRESSION_DATA, &data.concat());
        attribute(LIST_ELEMENT, &[named, data].concat())
    }

    fn verdict(code: i32) -> Vec<u8> {
        let code = attribute(VERDICT_CODE, &code.to_be_bytes());
        let data = attribute(IMMEDIATE_DATA, &attribute(DATA_VERDICT, &code));
        expression("immediate", &[data])
    }

    fn read(expressions: &[Vec<u8>]) -> Option<InvalidDrop> {
        let rule = [
            attribute(RULE_CHAIN, b"KUBE-FORWARD\0"),
            attribute(RULE_EXPRESSIONS, &expressions.concat()),
        ]
        .concat();
        drops_invalid(Attributes::nested(&rule))
    }

    fn conntrack(states: u16) -> Vec<u8> {
        let mut info = vec![0; 168];
        info[XT_MATCH_FLAGS..XT_MATCH_FLAGS + 2].copy_from_slice(&XT_STATE.to_ne_bytes());
        info[XT_STATE_MASK..XT_STATE_MASK + 2].copy_from_slice(&states.to_ne_bytes());
        expression(
            "match",
            &[
                attribute(MATCH_NAME, b"conntrack\0"),
                attribute(MATCH_INFO, &info),
            ],
        )
    }

    fn state(bits: u32) -> [Vec<u8>; 2] {
        let mask = attribute(BITWISE_MASK, &attribute(DATA_VALUE, &bits.to_ne_bytes()));
        [
            expression("ct", &[attribute(CT_KEY, &[0; 4])]),
            expression("bitwise", &[mask]),
        ]
    }

    #[test]
    fn rules_of_iptables() {
        let packets = attribute(COUNTER_PACKETS, &7_u64.to_be_bytes());
        let counter = expression("counter", &[packets]);
        let found = read(&[conntrack(INVALID), counter, verdict(0)]);
        assert_eq!(found, Some(InvalidDrop { packets: Some(7) }));
        assert_eq!(read(&[conntrack(6), verdict(0)]), None, "other states");
        assert_eq!(read(&[conntrack(INVALID), verdict(1)]), None, "accepts");
        assert_eq!(read(&[verdict(0)]), None, "drops everything");
    }

    #[test]
    fn rules_of_nft() {
        let [load, mask] = state(INVALID.into());
        let found = read(&[load, mask.clone(), verdict(0)]);
        assert_eq!(found, Some(InvalidDrop { packets: None }));
        assert_eq!(read(&[mask, verdict(0)]), None, "of something else");
        let [load, mask] = state(2);
        assert_eq!(read(&[load, mask, verdict(0)]), None, "established");
    }

    #[test]
    fn bytes_that_are_no_rule() {
        for length in 0..64 {
            let bytes: Vec<u8> = (0..length).collect();
            assert_eq!(drops_invalid(Attributes::nested(&bytes)), None);
        }
    }
}
