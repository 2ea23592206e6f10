//! Through which interfaces of the host each pod's packets go: where to listen with `tcpdump`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::kernel::Root;
use crate::kernel::namespace::namespace_of;
use crate::sys::netlink::NetlinkError;
use crate::sys::netlink::interfaces::{Interfaces, NamespaceNumber};

/// How often it is looked again although nobody is new.
const REFRESH: Duration = Duration::from_secs(30);

/// How many names are kept of one network namespace.
const MOST_NAMES: usize = 8;

/// A network namespace, by its inode number and a process that is in it: both, since the number is
/// used again.
type NamespaceProcess = (u32, u32);

/// The host's interfaces that lead into other network namespaces.
#[derive(Debug, Default)]
pub(super) struct HostSide {
    names: HashMap<NamespaceProcess, Vec<String>>,
    looked: Option<Instant>,
}

impl HostSide {
    /// Looks, if a namespace is new or the last time was long ago. Nothing is known if this thread is
    /// not in the `host`'s network namespace.
    ///
    /// # Errors
    /// When the kernel does not tell; what was known before is kept.
    pub(super) fn look(
        &mut self,
        root: &Root,
        host: Option<u32>,
        namespaces: &[NamespaceProcess],
        now: Instant,
    ) -> Result<(), NetlinkError> {
        self.names
            .retain(|namespace, _| namespaces.contains(namespace));
        let is_new = namespaces
            .iter()
            .any(|namespace| !self.names.contains_key(namespace));
        let is_old = self
            .looked
            .is_some_and(|looked| now.saturating_duration_since(looked) >= REFRESH);
        let here = namespace_of(&root.proc("thread-self/ns/net")).ok();
        if !(is_new || is_old) || !root.is_live() || here.is_none() || here != host {
            return Ok(());
        }
        self.looked = Some(now);
        let mut interfaces = Interfaces::new()?;
        let mut by_number: HashMap<NamespaceNumber, Vec<String>> = HashMap::new();
        for (number, name) in interfaces.leading_out()? {
            by_number.entry(number).or_default().push(name);
        }
        for namespace in namespaces {
            // The process may have ended: then it is not known, and will not be asked for again.
            let number = interfaces.number_of(namespace.1).ok().flatten();
            let mut names = number
                .and_then(|number| by_number.get(&number).cloned())
                .unwrap_or_default();
            names.sort();
            names.truncate(MOST_NAMES);
            self.names.insert(*namespace, names);
        }
        Ok(())
    }

    /// The interfaces that lead into this namespace.
    pub(super) fn names(&self, namespace: NamespaceProcess) -> &[String] {
        self.names.get(&namespace).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_state_has_no_interfaces() {
        let mut side = HostSide::default();
        let root = Root::at("/nowhere");
        let own = namespace_of(&Root::system().proc("thread-self/ns/net")).unwrap();
        side.look(&root, Some(own), &[(own, 1)], Instant::now())
            .unwrap();
        assert!(side.names((own, 1)).is_empty() && side.looked.is_none());
    }

    #[test]
    fn nothing_is_said_from_inside_another_namespace() {
        let mut side = HostSide::default();
        side.look(&Root::system(), Some(1), &[(2, 1)], Instant::now())
            .unwrap();
        assert!(side.looked.is_none());
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut side = HostSide::default();
        let root = Root::system();
        let own = namespace_of(&root.proc("thread-self/ns/net")).unwrap();
        let namespace = (own, std::process::id());
        side.look(&root, Some(own), &[namespace], Instant::now())
            .unwrap();
        assert!(side.names.contains_key(&namespace));
        side.look(&root, Some(own), &[], Instant::now()).unwrap();
        assert!(side.names.is_empty());
    }
}
