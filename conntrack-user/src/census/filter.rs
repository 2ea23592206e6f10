//! Which entries somebody wants to see. Values of one field are alternatives; fields that are given
//! must all fit.

use ipnet::IpNet;

use crate::kernel::entries::{TableEntry, state_names};

/// What to let through; an empty list lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub protocols: Vec<u8>,
    /// Addresses or prefixes: source or destination, before or after NAT.
    pub networks: Vec<IpNet>,
    /// Ports: source or destination, before or after NAT.
    pub ports: Vec<u16>,
    /// Names of states, as [`parse_state`] gives them.
    pub states: Vec<&'static str>,
    /// Only those that `early_drop` may remove, or only the others.
    pub evictable: Option<bool>,
    /// Only those that nobody answered, or that were not completed.
    pub one_way: bool,
}

impl Filter {
    /// Whether this entry passes.
    #[inline]
    pub(crate) fn passes(&self, entry: &TableEntry) -> bool {
        let tuples = [&entry.original, &entry.reply];
        self.evictable
            .is_none_or(|evictable| evictable == entry.evictable())
            && (!self.one_way || entry.one_way())
            && any(&self.protocols, |number| entry.original.protocol == *number)
            && any(&self.states, |name| entry.state.name() == Some(*name))
            && any(&self.ports, |port| {
                tuples.iter().any(|tuple| {
                    tuple.layer4.ports().is_some_and(|(source, destination)| {
                        source == *port || destination == *port
                    })
                })
            })
            && any(&self.networks, |network| {
                tuples.iter().any(|tuple| {
                    network.contains(&tuple.source) || network.contains(&tuple.destination)
                })
            })
    }
}

/// True of an empty list, else whether one of its values fits.
#[inline]
fn any<T>(values: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(fits)
}

/// The given text names no state.
#[derive(Debug, thiserror::Error)]
#[error("not a state: use one of {}", state_names().join(", "))]
pub(crate) struct UnknownState;

/// A state by its name, in any case.
pub(crate) fn parse_state(text: &str) -> Result<&'static str, UnknownState> {
    state_names()
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(text))
        .ok_or(UnknownState)
}
