//! The table of `nf_tables` that holds the limits (`nf_tables_api.c`, over netlink). Each owner has all of its own in it, so that nobody needs to
//! know of another one:
//!
//! * two sets of addresses, whose elements the kernel removes when their time is over;
//! * two base chains (what comes in, what the host sends), which lead packets from these addresses to
//! * a chain with one rule: of packets whose entry is not in the table yet, so many a second pass.
//!
//! Over empty sets all of it does nothing.

use std::net::IpAddr;

use super::plan::ContainPlan;
use crate::sys::netlink::{
    NetlinkError, NetlinkSocket,
    changes::{APPEND, CREATE, ChangeRequest},
    put, put_nested, put_string,
};

pub(super) const NFTABLES: u8 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6.
pub(super) const INET: u8 = 1;
/// Of the table.
pub(super) const TABLE: &str = "ctpressure";

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const DELETE_SET: u8 = 11;
const NEW_ELEMENTS: u8 = 12;
const DELETE_ELEMENTS: u8 = 14;

/// Of every kind of object: the table that it is in.
pub(super) const IN_TABLE: u16 = 1;
pub(super) const LIST_ELEMENT: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`.
const HOOKS: [(&str, u32); 2] = [("in", 0), ("out", 3)];
/// Right behind conntrack's own hook.
const PRIORITY: i32 = -199;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
/// `NFTNL_UDATA_RULE_COMMENT`: `nft list ruleset` shows it.
pub(super) const COMMENT: u8 = 0;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
/// `NFT_SET_TIMEOUT`.
const WITH_TIMEOUT: u32 = 0x10;
pub(super) const ELEMENTS_OF: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
pub(super) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: i32 = -3;
const DROP: i32 = 0;
/// The first register of 16 bytes.
const REGISTER: u32 = 1;
/// `IPS_CONFIRMED`: the entry is in the table.
const CONFIRMED: u32 = 1 << 3;
pub(super) const LIMIT_RATE: u16 = 1;
const LIMIT_UNIT: u16 = 2;
const LIMIT_BURST: u16 = 3;
const LIMIT_FLAGS: u16 = 5;
/// `NFT_LIMIT_F_INV`: what is over it goes on in the rule.
const OVER: u32 = 1;
/// Entries beyond the rate that pass at once.
const BURST: u32 = 5;

/// A family of addresses: the end of its sets' names, `NFPROTO_*`, what `nft` calls the type, and where in the header a source is, of which length.
struct Family {
    end: &'static str,
    protocol: u8,
    key_type: u32,
    source: u32,
    bytes: u32,
}

const FAMILIES: [Family; 2] = [
    Family {
        end: "4",
        protocol: 2,
        key_type: 7,
        source: 12,
        bytes: 4,
    },
    Family {
        end: "6",
        protocol: 10,
        key_type: 8,
        source: 8,
        bytes: 16,
    },
];

/// The name of an owner's chain, and the beginning of the names of all that is its own: a name of Kubernetes may be longer than the kernel takes
/// (FNV-1a of it).
pub(super) fn name_of(owner: &str) -> String {
    let hash = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("of-{hash:016x}")
}

/// The names of the sets of the owner that has this chain.
pub(super) fn sets_of(chain: &str) -> [String; 2] {
    FAMILIES.map(|family| format!("{chain}-{}", family.end))
}

/// Limits what an owner opens; what was said of it before is replaced.
///
/// # Errors
/// When the kernel refuses: then nothing has changed.
pub(crate) fn limit(socket: &mut NetlinkSocket, plan: &ContainPlan) -> Result<(), NetlinkError> {
    socket.change_all(NFTABLES, &changes(plan))
}

/// Ends the limit of the owner with this chain; `all`: the whole table goes, with all that is in it.
pub(super) fn remove(
    socket: &mut NetlinkSocket,
    chain: &str,
    all: bool,
) -> Result<(), NetlinkError> {
    if all {
        return remove_table(socket);
    }
    let base = HOOKS.map(|(end, _)| format!("{chain}-{end}"));
    let mut changes = Vec::new();
    for chain in base.iter().map(String::as_str).chain([chain]) {
        changes.push(of_chain(DELETE_RULE, RULE_CHAIN, chain));
        changes.push(of_chain(DELETE_CHAIN, CHAIN_NAME, chain));
    }
    for set in sets_of(chain) {
        changes.push(of_chain(DELETE_SET, SET_NAME, &set));
    }
    socket.change_all(NFTABLES, &changes)
}

/// Removes our table, with all that is in it.
pub(super) fn remove_table(socket: &mut NetlinkSocket) -> Result<(), NetlinkError> {
    socket.change_all(NFTABLES, &[table(DELETE_TABLE)])
}

fn of_chain(message: u8, kind: u16, name: &str) -> ChangeRequest {
    change(message, 0, |own| put_string(own, kind, name))
}

/// A change in our table.
fn change(message: u8, flags: u16, fill: impl FnOnce(&mut Vec<u8>)) -> ChangeRequest {
    let mut attributes = Vec::new();
    put_string(&mut attributes, IN_TABLE, TABLE);
    fill(&mut attributes);
    ChangeRequest {
        message,
        family: INET,
        flags,
        attributes,
    }
}

fn table(message: u8) -> ChangeRequest {
    let flags = if message == NEW_TABLE { CREATE } else { 0 };
    change(message, flags, |_| {})
}

fn changes(plan: &ContainPlan) -> Vec<ChangeRequest> {
    let chain = name_of(&plan.owner);
    let mut changes = vec![
        table(NEW_TABLE),
        change(NEW_CHAIN, CREATE, |own| put_string(own, CHAIN_NAME, &chain)),
        of_chain(DELETE_RULE, RULE_CHAIN, &chain),
        rule(&chain, Some(&plan.owner), |list| refuse(list, plan.rate)),
    ];
    for (id, (family, set)) in (1..).zip(FAMILIES.iter().zip(sets_of(&chain))) {
        changes.push(change(NEW_SET, CREATE, |own| {
            put_string(own, SET_NAME, &set);
            put_word(own, SET_FLAGS, WITH_TIMEOUT);
            put_word(own, SET_KEY_TYPE, family.key_type);
            put_word(own, SET_KEY_LENGTH, family.bytes);
            put_word(own, SET_ID, id);
        }));
        changes.push(of_chain(DELETE_ELEMENTS, ELEMENTS_OF, &set));
        let own = plan.addresses.iter().map(octets);
        let own: Vec<_> = own
            .filter(|octets| octets.len() == family.bytes as usize)
            .collect();
        if !own.is_empty() {
            changes.push(elements(&set, &own, plan.seconds));
        }
    }
    for (end, number) in HOOKS {
        let base = format!("{chain}-{end}");
        changes.push(change(NEW_CHAIN, CREATE, |own| {
            put_string(own, CHAIN_NAME, &base);
            put_nested(own, CHAIN_HOOK, |hook| {
                put_word(hook, HOOK_NUMBER, number);
                put(hook, HOOK_PRIORITY, &PRIORITY.to_be_bytes());
            });
            put_string(own, CHAIN_TYPE, "filter");
        }));
        changes.push(of_chain(DELETE_RULE, RULE_CHAIN, &base));
        for (family, set) in FAMILIES.iter().zip(sets_of(&chain)) {
            changes.push(rule(&base, None, |list| lead(list, family, &set, &chain)));
        }
    }
    changes
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn elements(set: &str, addresses: &[Vec<u8>], seconds: u64) -> ChangeRequest {
    change(NEW_ELEMENTS, CREATE, |own| {
        put_string(own, ELEMENTS_OF, set);
        put_nested(own, ELEMENTS, |list| {
            for address in addresses {
                put_nested(list, LIST_ELEMENT, |element| {
                    put_nested(element, ELEMENT_KEY, |key| put(key, DATA_VALUE, address));
                    let milliseconds = seconds.saturating_mul(1000);
                    put(element, ELEMENT_TIMEOUT, &milliseconds.to_be_bytes());
                });
            }
        });
    })
}

fn rule(chain: &str, comment: Option<&str>, fill: impl FnOnce(&mut Vec<u8>)) -> ChangeRequest {
    change(NEW_RULE, CREATE | APPEND, |own| {
        put_string(own, RULE_CHAIN, chain);
        put_nested(own, RULE_EXPRESSIONS, fill);
        if let Some(comment) = comment {
            // The kernel takes 256 bytes.
            let text = comment.as_bytes();
            let text = text.get(..250).unwrap_or(text);
            let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
            put(
                own,
                RULE_USERDATA,
                &[&[COMMENT, length], text, &[0]].concat(),
            );
        }
    })
}

/// `meta nfproto FAMILY; FAMILY saddr @SET jump CHAIN`.
fn lead(list: &mut Vec<u8>, family: &Family, set: &str, chain: &str) {
    expression(list, "meta", |data| {
        put_word(data, 1, REGISTER);
        // `NFT_META_NFPROTO`.
        put_word(data, 2, 15);
    });
    compare(list, &[family.protocol]);
    expression(list, "payload", |data| {
        put_word(data, 1, REGISTER);
        // From the network header on.
        put_word(data, 2, 1);
        put_word(data, 3, family.source);
        put_word(data, 4, family.bytes);
    });
    expression(list, "lookup", |data| {
        put_string(data, 1, set);
        put_word(data, 2, REGISTER);
    });
    verdict(list, JUMP, Some(chain));
}

/// `ct status and confirmed == 0; limit rate over N/second; counter; drop`.
fn refuse(list: &mut Vec<u8>, rate: u32) {
    expression(list, "ct", |data| {
        put_word(data, 1, REGISTER);
        // `NFT_CT_STATUS`.
        put_word(data, 2, 2);
    });
    expression(list, "bitwise", |data| {
        put_word(data, 1, REGISTER);
        put_word(data, 2, REGISTER);
        put_word(data, 3, 4);
        put_nested(data, 4, |mask| {
            put(mask, DATA_VALUE, &CONFIRMED.to_ne_bytes());
        });
        put_nested(data, 5, |flip| put(flip, DATA_VALUE, &[0; 4]));
    });
    compare(list, &[0; 4]);
    // The kernel takes no rate of 0: without a limit all of them are dropped.
    if rate > 0 {
        expression(list, "limit", |data| {
            put(data, LIMIT_RATE, &u64::from(rate).to_be_bytes());
            put(data, LIMIT_UNIT, &1_u64.to_be_bytes());
            put_word(data, LIMIT_BURST, BURST);
            put_word(data, LIMIT_FLAGS, OVER);
        });
    }
    expression(list, "counter", |_| {});
    verdict(list, DROP, None);
}

fn expression(list: &mut Vec<u8>, name: &str, fill: impl FnOnce(&mut Vec<u8>)) {
    put_nested(list, LIST_ELEMENT, |element| {
        put_string(element, EXPRESSION_NAME, name);
        put_nested(element, EXPRESSION_DATA, fill);
    });
}

/// Goes on in the rule when the register is this.
fn compare(list: &mut Vec<u8>, value: &[u8]) {
    expression(list, "cmp", |data| {
        put_word(data, 1, REGISTER);
        // `NFT_CMP_EQ`.
        put_word(data, 2, 0);
        put_nested(data, 3, |own| put(own, DATA_VALUE, value));
    });
}

fn verdict(list: &mut Vec<u8>, code: i32, chain: Option<&str>) {
    expression(list, "immediate", |data| {
        // `NFT_REG_VERDICT`.
        put_word(data, 1, 0);
        put_nested(data, 2, |own| {
            put_nested(own, DATA_VERDICT, |verdict| {
                put(verdict, VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    put_string(verdict, VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

fn put_word(attributes: &mut Vec<u8>, kind: u16, word: u32) {
    put(attributes, kind, &word.to_be_bytes());
}
