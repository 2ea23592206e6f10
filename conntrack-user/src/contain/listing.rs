//! What our table says: who is contained, at which rate, how much was refused, and for how long yet.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::errno::Errno;
use serde::Serialize;

use super::rules::{
    COMMENT, DATA_VALUE, ELEMENT_KEY, ELEMENTS, ELEMENTS_OF, EXPRESSION_DATA, EXPRESSION_NAME,
    IN_TABLE, INET, LIMIT_RATE, LIST_ELEMENT, NFTABLES, RULE_CHAIN, RULE_EXPRESSIONS,
    RULE_USERDATA, TABLE, name_of, remove, remove_table, sets_of,
};
use crate::sys::netlink::{Attributes, NetlinkError, NetlinkSocket, put_string};

const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_ELEMENTS: u8 = 13;
const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;
const COUNTER_PACKETS: u16 = 2;
const ELEMENT_EXPIRATION: u16 = 5;

/// An owner that is contained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Contained {
    pub owner: String,
    #[serde(skip)]
    chain: String,
    /// New entries a second that it may make; 0: none.
    pub rate: u32,
    /// Packets that were refused, each of which would have made an entry.
    pub refused_packets: u64,
    /// Those that are still limited.
    pub addresses: Vec<ContainedAddress>,
}

/// One of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ContainedAddress {
    pub address: IpAddr,
    /// Until the kernel forgets it.
    pub seconds_left: u64,
}

/// Who is contained now. What is left of those whose time is over, which does nothing, is removed.
///
/// # Errors
/// When the kernel can't be asked: without `CAP_NET_ADMIN`, or without `nf_tables`.
pub(crate) fn list(socket: &mut NetlinkSocket) -> Result<Vec<Contained>, NetlinkError> {
    let mut contained = rules(socket)?;
    for owner in &mut contained {
        for set in sets_of(&owner.chain) {
            owner.addresses.extend(elements(socket, &set)?);
        }
        owner.addresses.sort_unstable_by_key(|own| own.address);
    }
    let (live, over): (Vec<_>, Vec<_>) = contained
        .into_iter()
        .partition(|owner| !owner.addresses.is_empty());
    if live.is_empty() {
        if has_table(socket)? {
            unless_gone(remove_table(socket))?;
        }
    } else {
        for owner in over {
            unless_gone(remove(socket, &owner.chain, false))?;
        }
    }
    Ok(live)
}

/// Ends the limit of an owner; `false`: there was none.
pub(crate) fn lift(socket: &mut NetlinkSocket, owner: &str) -> Result<bool, NetlinkError> {
    let contained = chains(socket)?;
    let chain = name_of(owner);
    let others = contained.iter().any(|known| *known != chain);
    if !contained.contains(&chain) {
        return Ok(false);
    }
    remove(socket, &chain, !others)?;
    Ok(true)
}

/// Somebody else may have removed it.
fn unless_gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(NetlinkError::Refused(Errno::ENOENT)) => Ok(()),
        result => result,
    }
}

/// Of what is not there nothing is listed.
fn listed(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        // The table changed: what was read is of before or after, and either is right.
        Err(NetlinkError::Interrupted) => Ok(()),
        result => unless_gone(result),
    }
}

fn has_table(socket: &mut NetlinkSocket) -> Result<bool, NetlinkError> {
    let mut found = false;
    let listing = socket.dump(NFTABLES, GET_TABLE, INET, &[], |part| {
        found |= text(part.attributes, TABLE_NAME).as_deref() == Some(TABLE);
    });
    listed(listing)?;
    Ok(found)
}

/// The chains of owners.
fn chains(socket: &mut NetlinkSocket) -> Result<BTreeSet<String>, NetlinkError> {
    let mut found = BTreeSet::new();
    let listing = socket.dump(NFTABLES, GET_CHAIN, INET, &[], |part| {
        if text(part.attributes.clone(), IN_TABLE).as_deref() == Some(TABLE)
            && let Some(chain) = text(part.attributes, CHAIN_NAME)
            && is_of_owner(&chain)
        {
            found.insert(chain);
        }
    });
    listed(listing)?;
    Ok(found)
}

/// Not a base chain, whose name has an end.
fn is_of_owner(chain: &str) -> bool {
    chain
        .strip_prefix("of-")
        .is_some_and(|rest| !rest.contains('-'))
}

/// The owners by the rules of their chains, without addresses.
fn rules(socket: &mut NetlinkSocket) -> Result<Vec<Contained>, NetlinkError> {
    let mut wanted = Vec::new();
    put_string(&mut wanted, IN_TABLE, TABLE);
    let mut found = Vec::new();
    let listing = socket.dump(NFTABLES, GET_RULE, INET, &wanted, |part| {
        // A kernel that does not know what is asked for lists the rules of all tables.
        if text(part.attributes.clone(), IN_TABLE).as_deref() == Some(TABLE)
            && let Some(chain) = text(part.attributes.clone(), RULE_CHAIN)
            && is_of_owner(&chain)
            && let Some(owner) = comment(part.attributes.clone())
        {
            let (rate, refused_packets) = numbers(part.attributes);
            found.push(Contained {
                owner,
                chain,
                rate,
                refused_packets,
                addresses: Vec::new(),
            });
        }
    });
    listed(listing)?;
    found.sort_unstable_by(|one, other| one.owner.cmp(&other.owner));
    Ok(found)
}

fn elements(socket: &mut NetlinkSocket, set: &str) -> Result<Vec<ContainedAddress>, NetlinkError> {
    let mut wanted = Vec::new();
    put_string(&mut wanted, IN_TABLE, TABLE);
    put_string(&mut wanted, ELEMENTS_OF, set);
    let mut found = Vec::new();
    let listing = socket.dump(NFTABLES, GET_ELEMENTS, INET, &wanted, |part| {
        let lists = part.attributes.filter(|(kind, _)| *kind == ELEMENTS);
        for (_, element) in lists.flat_map(|(_, list)| Attributes::nested(list)) {
            let address = inside(element, ELEMENT_KEY)
                .and_then(|key| inside(key, DATA_VALUE))
                .and_then(address);
            let left = inside(element, ELEMENT_EXPIRATION).and_then(number);
            if let (Some(address), Some(milliseconds)) = (address, left) {
                found.push(ContainedAddress {
                    address,
                    seconds_left: milliseconds.div_ceil(1000),
                });
            }
        }
    });
    listed(listing)?;
    Ok(found)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).ok();
    let v6 = || <[u8; 16]>::try_from(octets).ok();
    v4.map(|octets| Ipv4Addr::from(octets).into())
        .or_else(|| v6().map(|octets| Ipv6Addr::from(octets).into()))
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn inside(value: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::nested(value).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn text(mut attributes: Attributes<'_>, wanted: u16) -> Option<String> {
    let (_, value) = attributes.find(|(kind, _)| *kind == wanted)?;
    let text = value.strip_suffix(&[0])?;
    String::from_utf8(text.to_vec()).ok()
}

/// Whose the rule is.
fn comment(mut rule: Attributes<'_>) -> Option<String> {
    let (_, data) = rule.find(|(kind, _)| *kind == RULE_USERDATA)?;
    let (&[kind, length], rest) = data.split_first_chunk()?;
    let text = rest.get(..usize::from(length))?.strip_suffix(&[0])?;
    (kind == COMMENT).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The rate, and how many packets were dropped.
fn numbers(mut rule: Attributes<'_>) -> (u32, u64) {
    let (mut rate, mut packets) = (0, 0);
    let expressions = rule.find(|(kind, _)| *kind == RULE_EXPRESSIONS);
    for (kind, expression) in expressions
        .into_iter()
        .flat_map(|(_, list)| Attributes::nested(list))
    {
        if kind != LIST_ELEMENT {
            continue;
        }
        let data = inside(expression, EXPRESSION_DATA).unwrap_or_default();
        let value = |wanted| inside(data, wanted).and_then(number).unwrap_or_default();
        match inside(expression, EXPRESSION_NAME) {
            Some(b"limit\0") => rate = u32::try_from(value(LIMIT_RATE)).unwrap_or(u32::MAX),
            Some(b"counter\0") => packets = value(COUNTER_PACKETS),
            _ => {}
        }
    }
    (rate, packets)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::contain::{ContainPlan, limit};

    fn plan(owner: &str, addresses: &[&str], rate: u32, seconds: u64) -> ContainPlan {
        ContainPlan {
            owner: owner.to_owned(),
            slot: 2,
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            rate,
            seconds,
            delete_entries: false,
            overridden: Vec::new(),
        }
    }

    fn ruleset() -> String {
        let output = Command::new("nft").args(["list", "ruleset"]).output();
        let output = output.expect("nft (help: apt-get install nftables)");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `nft` itself lists, in a network namespace of this thread's own.
    #[test]
    fn nft_lists_what_was_made_and_it_ends_by_itself() {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            let mut socket = NetlinkSocket::netfilter().unwrap();
            assert_eq!(list(&mut socket).unwrap(), []);
            let web = plan("shop/web", &["10.42.1.2", "fd00::2"], 10, 2);
            limit(&mut socket, &web).unwrap();
            // Again: what was said before is replaced, not added to.
            limit(&mut socket, &ContainPlan { rate: 7, ..web }).unwrap();
            limit(&mut socket, &plan("a/b", &["10.42.1.3"], 0, 600)).unwrap();
            let rules = ruleset();
            for expected in [
                "table inet ctpressure {",
                "hook prerouting priority -199",
                "hook output priority -199",
                "ct status ! confirmed limit rate over 7/second",
                "counter packets 0 bytes 0 drop comment \"shop/web\"",
                "10.42.1.2 timeout 2s",
                "fd00::2 timeout 2s",
                "10.42.1.3 timeout 10m",
                "flags timeout",
            ] {
                assert!(rules.contains(expected), "{expected}: {rules}");
            }
            assert_eq!(rules.matches("comment").count(), 2, "{rules}");
            assert_eq!(rules.matches("jump of-").count(), 8, "{rules}");
            let listed = list(&mut socket).unwrap();
            let found: Vec<_> = listed
                .iter()
                .map(|own| (own.owner.as_str(), own.rate, own.addresses.len()))
                .collect();
            assert_eq!(found, [("a/b", 0, 1), ("shop/web", 7, 2)]);
            assert!(listed[1].addresses.iter().all(|own| own.seconds_left <= 2));
            assert!(!lift(&mut socket, "shop/nobody").unwrap());

            thread::sleep(Duration::from_millis(2500));
            let listed = list(&mut socket).unwrap();
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert!(!ruleset().contains("shop/web"), "{}", ruleset());
            assert!(lift(&mut socket, "a/b").unwrap());
            assert_eq!(ruleset(), "", "nothing is left");
        })
        .join()
        .unwrap();
    }
}
