//! Addresses that somebody on this node had and nobody has any more: an entry that was translated to one leads nowhere.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Instant};

use crate::owners::Owner;

/// How many are kept; then the half that was lost first goes.
const MOST: usize = 4096;

/// Who had an address last, and when that was found to be over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FormerHolder {
    pub(crate) owner: Owner,
    pub(crate) since: Instant,
}

/// All that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct FormerAddresses {
    all: Arc<HashMap<IpAddr, FormerHolder>>,
    /// Lost, but no process of the one in this slot could be asked since: it may have them still. A pod ends so: its
    /// processes end first, and its control group goes later.
    silent: HashMap<IpAddr, u32>,
}

impl FormerAddresses {
    pub(super) const fn all(&self) -> &Arc<HashMap<IpAddr, FormerHolder>> {
        &self.all
    }

    /// The one in `slot` was not found to have the address any more.
    pub(super) fn missed(&mut self, address: IpAddr, slot: u32) {
        self.silent.insert(address, slot);
    }

    /// Takes out the addresses that were missed and whose holder can be asked, or is gone.
    pub(super) fn decided(&mut self, is_silent: impl Fn(u32) -> bool) -> Vec<(IpAddr, u32)> {
        self.silent
            .extract_if(|_, slot| !is_silent(*slot))
            .collect()
    }

    /// Nobody has the address any more.
    pub(super) fn lost(&mut self, address: IpAddr, owner: Owner, at: Instant) {
        let all = Arc::make_mut(&mut self.all);
        all.insert(address, FormerHolder { owner, since: at });
        if all.len() > MOST {
            // By count: any number may have been lost at one time.
            let mut by_age: Vec<(Instant, IpAddr)> = all
                .iter()
                .map(|(address, former)| (former.since, *address))
                .collect();
            let surplus = by_age.len() - MOST / 2;
            by_age.select_nth_unstable(surplus);
            for (_, address) in &by_age[..surplus] {
                all.remove(address);
            }
        }
    }

    /// Somebody has it.
    pub(super) fn taken(&mut self, address: &IpAddr) {
        self.silent.remove(address);
        if self.all.contains_key(address) {
            Arc::make_mut(&mut self.all).remove(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn those_that_were_lost_last_are_kept() {
        let begin = Instant::now();
        let mut former = FormerAddresses::default();
        let address = |number: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap()));
        for number in 0..=MOST {
            let at = begin + Duration::from_secs(number as u64);
            former.lost(address(number), Owner::host(), at);
        }
        assert_eq!(former.all().len(), MOST / 2);
        assert!(former.all().contains_key(&address(MOST)));
        assert!(!former.all().contains_key(&address(0)));
        former.taken(&address(MOST));
        assert!(!former.all().contains_key(&address(MOST)));
    }

    #[test]
    fn of_many_that_were_lost_at_once_half_are_kept() {
        let begin = Instant::now();
        let mut former = FormerAddresses::default();
        let address = |number: u32| IpAddr::from(Ipv4Addr::from(number));
        former.lost(address(0), Owner::host(), begin);
        let at = begin + Duration::from_secs(1);
        for number in (1..).take(MOST) {
            former.lost(address(number), Owner::host(), at);
        }
        assert_eq!(former.all().len(), MOST / 2);
        assert!(!former.all().contains_key(&address(0)), "the oldest");
    }
}
