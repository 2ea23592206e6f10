//! Addresses that nobody on this node has: an entry that was translated to one leads nowhere.
//!
//! Only what can be told is: an address that somebody on this node had, as the running agent saw it, or one that the kernel asks
//! for in vain on a bridge that leads to containers only. Of any other address somebody elsewhere may have it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use ctpressure_model::words::{clean, seconds};
use serde::Serialize;

use crate::{
    kernel::{Root, entries::TableEntry, host},
    sys::netlink::interfaces::Interfaces,
};

/// Who had an address last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WasHolder {
    pub name: String,
    /// For how long nobody on this node has had it.
    pub since: Duration,
}

/// An address that nobody on this node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vacant {
    /// `None`: it is not known who had it.
    pub was: Option<WasHolder>,
}

impl fmt::Display for Vacant {
    /// What is said beside the address.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.was {
            None => write!(to, "nobody on this node has it"),
            Some(WasHolder { name, since }) => {
                let name = clean(name);
                let since = seconds(since.as_secs());
                write!(
                    to,
                    "nobody on this node has it; {name} did until {since} ago"
                )
            }
        }
    }
}

/// The same as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct VacantRow {
    /// Who had the address; null: not known.
    was: Option<String>,
    /// For how long nobody on this node has had it.
    seconds: Option<u64>,
}

impl Vacant {
    pub(super) fn row(&self) -> VacantRow {
        let was = self.was.as_ref();
        VacantRow {
            was: was.map(|was| was.name.clone()),
            seconds: was.map(|was| was.since.as_secs()),
        }
    }
}

/// The addresses that NAT put into an entry: of the real server, and of who seems to ask it.
pub(crate) fn translated(entry: &TableEntry) -> impl Iterator<Item = IpAddr> {
    let server = entry.destination_translated().then_some(entry.reply.source);
    let client = entry.source_translated().then_some(entry.reply.destination);
    server.into_iter().chain(client)
}

/// All that are known.
#[derive(Clone, Debug, Default)]
pub(crate) struct VacantAddresses {
    former: HashMap<IpAddr, WasHolder>,
    unanswered: HashSet<IpAddr>,
}

impl PartialEq for VacantAddresses {
    /// Times pass, and the kernel asks again and again: what matters is who has what.
    fn eq(&self, other: &Self) -> bool {
        self.former.len() == other.former.len()
            && self
                .former
                .keys()
                .all(|address| other.former.contains_key(address))
    }
}

impl Eq for VacantAddresses {}

impl VacantAddresses {
    /// Those that others had.
    pub(crate) fn former(all: impl Iterator<Item = (IpAddr, String, Duration)>) -> Self {
        Self {
            former: all
                .map(|(address, name, since)| (address, WasHolder { name, since }))
                .collect(),
            unanswered: HashSet::new(),
        }
    }

    /// Adds those that the kernel asks for in vain, as far as it says so.
    pub(crate) fn look(&mut self, root: &Root) {
        let ask = || -> Option<HashSet<IpAddr>> { Interfaces::new().ok()?.unanswered().ok() };
        let found = host::find(root).ok().filter(|_| root.is_live());
        let found = found.and_then(|host| host.inside(root, ask));
        self.unanswered = found.unwrap_or_default();
    }

    pub(super) fn get(&self, address: IpAddr, has_owner: impl FnOnce() -> bool) -> Option<Vacant> {
        if let Some(was) = self.former.get(&address) {
            let was = Some(was.clone());
            return Some(Vacant { was });
        }
        (self.unanswered.contains(&address) && !has_owner()).then_some(Vacant { was: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_here_or_is_asked_for_in_vain() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let since = Duration::from_secs(12);
        let former = (address("10.42.0.2"), "shop/web".to_owned(), since);
        let mut vacant = VacantAddresses::former([former].into_iter());
        vacant.unanswered = ["10.42.0.3", "10.42.0.4"].map(address).into();
        let was = vacant.get(address("10.42.0.2"), || true).unwrap().was;
        assert_eq!(was.map(|was| was.name), Some("shop/web".to_owned()));
        let nobodys = vacant.get(address("10.42.0.3"), || false);
        assert_eq!(nobodys, Some(Vacant { was: None }));
        // It has just begun, and is about to answer.
        assert_eq!(vacant.get(address("10.42.0.4"), || true), None);
        // Another node's.
        assert_eq!(vacant.get(address("10.42.7.2"), || false), None);
    }
}
