//! What the agent knows of whose entries are: a look around does not tell whose an entry was before its address changed hands, whose
//! socket of the host opened it, and what the Kubernetes API says.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use conntrack_ebpf::owner::{Address, Claim};
use serde::{Deserialize, Serialize};

use crate::{
    agent::Charged,
    census::{Charging, VacantAddresses},
    owners::{Details, Owner, SlotMaps, TableOwner},
    probes::TagMapIds,
    sys::netns::Inode,
};

/// Who has an address or a table: the slot, the base, the flags of a [`Claim`].
type ClaimNumbers = (u32, u32, u32);

/// The answer to `charged`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChargedAnswer {
    host_netns: Inode,
    /// The owners of slots.
    owners: Vec<(u32, Details)>,
    /// Whose the tables are, and whether they are there.
    #[serde(default)]
    named_tables: Vec<(Inode, Details, bool)>,
    addresses: Vec<(IpAddr, ClaimNumbers)>,
    tables: Vec<(Inode, ClaimNumbers)>,
    /// Addresses that nobody has any more, who had them, and for how many seconds nobody has had them.
    #[serde(default)]
    former: Vec<(IpAddr, String, u64)>,
    /// Where tags of entries are; `None`: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<TagMapIds>,
}

const fn numbers(claim: &Claim) -> ClaimNumbers {
    (claim.slot, claim.base, claim.flags)
}

const fn claim((slot, base, flags): ClaimNumbers) -> Claim {
    Claim { slot, base, flags }
}

fn whole(details: Details) -> Owner {
    Owner::unknown().with(|own| *own = details)
}

impl From<&Charged> for ChargedAnswer {
    fn from(charged: &Charged) -> Self {
        let maps = &charged.maps;
        Self {
            host_netns: charged.host_netns,
            owners: charged
                .owners
                .iter()
                .map(|(slot, owner)| (*slot, Details::clone(owner)))
                .collect(),
            named_tables: charged
                .tables
                .iter()
                .map(|(netns, table)| (*netns, Details::clone(&table.owner), table.present))
                .collect(),
            addresses: maps
                .addresses
                .iter()
                .map(|(address, claim)| (address.ip(), numbers(claim)))
                .collect(),
            tables: maps
                .netns
                .iter()
                .map(|(netns, claim)| (*netns, numbers(claim)))
                .collect(),
            former: charged
                .former
                .iter()
                .map(|(address, former)| {
                    let seconds = former.since.elapsed().as_secs();
                    (*address, former.owner.name(), seconds)
                })
                .collect(),
            tags: charged.tags,
        }
    }
}

impl ChargedAnswer {
    /// As the agent charges; `None`: it does not know which table is the host's.
    pub(crate) fn charging(self) -> Option<Charging> {
        let addresses = self.addresses.into_iter();
        let tables = self.tables.into_iter();
        let owners: Vec<(u32, Owner)> = self
            .owners
            .into_iter()
            .map(|(slot, details)| (slot, whole(details)))
            .collect();
        let named = self.named_tables.into_iter();
        let maps = Arc::new(SlotMaps {
            addresses: addresses
                .map(|(address, numbers)| (Address::of(address), claim(numbers)))
                .collect(),
            cgroups: HashMap::new(),
            netns: tables
                .map(|(netns, numbers)| (netns, claim(numbers)))
                .collect(),
        });
        let former = self.former.into_iter();
        let owners = owners.iter().map(|(slot, owner)| (*slot, owner));
        (self.host_netns != 0).then(|| Charging {
            vacant: VacantAddresses::former(
                former
                    .map(|(address, name, seconds)| (address, name, Duration::from_secs(seconds))),
            ),
            tables: named
                .map(|(netns, details, present)| {
                    let owner = whole(details);
                    (netns, TableOwner { owner, present })
                })
                .collect(),
            ..Charging::new(maps, self.host_netns, owners)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use conntrack_ebpf::owner::FLAG_TAGGED;

    use super::*;
    use crate::owners::{FormerHolder, Workload};

    #[test]
    fn a_command_charges_as_the_agent_does() {
        let cart = Owner::pod("u-7", Some(("shop", "cart-1"))).with(|details| {
            details.workload = Some(Workload {
                kind: "Deployment".to_owned(),
                name: "cart".to_owned(),
            });
        });
        let claims = [("10.42.1.2", (9, 7, FLAG_TAGGED)), ("fd00::7", (7, 7, 0))];
        let maps = SlotMaps {
            addresses: claims
                .into_iter()
                .map(|(of, numbers)| (Address::of(of.parse().unwrap()), claim(numbers)))
                .collect(),
            netns: [(4_026_532_001, claim((7, 7, 0)))].into(),
            ..SlotMaps::default()
        };
        let charged = Charged {
            maps: Arc::new(maps),
            tables: [(
                4_026_532_001,
                TableOwner {
                    owner: cart.clone(),
                    present: true,
                },
            )]
            .into(),
            owners: [(7, cart), (9, Owner::pod("u-9", Some(("pay", "new"))))].into(),
            former: Arc::new(
                [(
                    "10.42.1.9".parse().unwrap(),
                    FormerHolder {
                        owner: Owner::pod("u-8", Some(("shop", "gone"))),
                        since: Instant::now(),
                    },
                )]
                .into(),
            ),
            host_netns: 4_026_531_840,
            tags: Some([5, 5, 6]),
        };
        let line = serde_json::to_string(&ChargedAnswer::from(&charged)).unwrap();
        let answer: ChargedAnswer = serde_json::from_str(&line).unwrap();
        assert_eq!(answer.tags, Some([5, 5, 6]));
        let charging = answer.charging().unwrap();
        assert_eq!(charging.maps, charged.maps);
        assert_eq!(charging.host_netns, charged.host_netns);
        assert_eq!(charging.tables, charged.tables);
        assert_eq!(charging.name(9), "pay/new");
        assert_eq!(charging.name(7), "shop/cart-1");
        let workloads = [(7, "Deployment shop/cart".to_owned())];
        assert_eq!(charging.workloads, workloads.into_iter().collect());
        let vacant = |address: &str| charging.vacant(address.parse().unwrap());
        let was = vacant("10.42.1.9").and_then(|vacant| vacant.was);
        assert_eq!(was.map(|was| was.name), Some("shop/gone".to_owned()));
        assert_eq!(vacant("10.42.1.2"), None);
        assert_eq!(vacant("192.0.2.1"), None, "of elsewhere");
        // Before the first look around nothing is known.
        assert_eq!(ChargedAnswer::from(&Charged::default()).charging(), None);
    }
}
