//! Whose entries are: by what the running agent knows, so that every command says the same; without one by a look around.

use std::{path::Path, time::Duration};

use crate::{
    census::{Charging, VacantAddresses},
    cli::thread,
    kernel::{Root, tables::Namespace},
    probes::{TagMapIds, TagReader},
    serve::{charged::ChargedAnswer, socket::Remote},
};

/// By what entries are charged at one moment.
pub(super) struct KnownOwners {
    pub(super) charging: Charging,
    /// Reads the tags of the running agent.
    pub(super) tags: Option<TagReader>,
    tag_maps: Option<TagMapIds>,
    /// The running agent said it.
    pub(super) of_agent: bool,
}

impl KnownOwners {
    pub(super) fn find(root: &Root, socket: &Path) -> Self {
        Self::of_agent(socket).unwrap_or_else(|| Self {
            charging: Charging::look_around(root),
            tags: None,
            tag_maps: None,
            of_agent: false,
        })
    }

    /// Looks for addresses that nobody has, for who reads these tables: in others than the host's the same addresses are others'.
    pub(super) fn look_for_vacant(&mut self, root: &Root, namespaces: &[Namespace]) {
        let host = self.charging.host_netns;
        if namespaces.iter().all(|namespace| namespace.inode == host) {
            self.charging.vacant.look(root);
        } else {
            self.charging.vacant = VacantAddresses::default();
        }
    }

    fn of_agent(socket: &Path) -> Option<Self> {
        let answer = ask(socket)?;
        let tag_maps = answer.tags;
        let charging = answer.charging()?;
        match tag_maps.map(TagReader::open).transpose() {
            Ok(tags) => Some(Self {
                charging,
                tags,
                tag_maps,
                of_agent: true,
            }),
            Err(error) => {
                eprintln!(
                    "ctpressure: owners are told by a look around: the running agent's tags, which say whose entries were before their \
                     addresses changed hands and of which sockets of the host they are, can't be read: {error} (it takes CAP_SYS_ADMIN)"
                );
                None
            }
        }
    }

    /// Whether entries are charged as they were then.
    pub(super) fn is_as(&self, then: &Self) -> bool {
        (&self.charging, self.tag_maps) == (&then.charging, then.tag_maps)
    }
}

/// Who has which address, and which nobody has: by what the running agent saw of the host's network, else by a look around.
pub(super) fn addresses(root: &Root, socket: &Path) -> Charging {
    let known = ask(socket).and_then(ChargedAnswer::charging);
    let mut charging = known.unwrap_or_else(|| Charging::look_around(root));
    charging.vacant.look(root);
    charging
}

/// What a running agent knows; `None` if there is none, or it can't be asked.
fn ask(socket: &Path) -> Option<ChargedAnswer> {
    let ask = async { Ok(Remote::charged(socket).await?) };
    thread::block_on(Duration::ZERO, ask)
        .inspect_err(|error| {
            tracing::warn!(%error, "owners are told by a look around: the running agent does not say whose entries are");
        })
        .ok()?
}
