//! The tunnels of overlay networks that there are, besides those that everybody knows by their ports.

use ctpressure_model::verdict::{Tunnel, TunnelKind};

use super::{Root, tables::Namespace};
use crate::sys::{
    netlink::{interfaces::Interfaces, tunnels::UdpTunnel},
    netns,
};

/// The tunnels of a network namespace that put packets into UDP, with the ports that they were given. None where they can't be
/// listed: those of the usual ports are known all the same.
pub(crate) fn of(root: &Root, namespace: &Namespace) -> Vec<Tunnel> {
    if namespace.own {
        return list();
    }
    let Some(path) = namespace.way_in(root) else {
        return Vec::new();
    };
    let seen = netns::visit(&[(namespace.inode, path, ())], |(), entered| {
        entered.map_or_else(|_| Vec::new(), |()| list())
    });
    seen.into_iter().flat_map(|(_, tunnels)| tunnels).collect()
}

/// Those of the calling thread's network namespace.
fn list() -> Vec<Tunnel> {
    let listed = Interfaces::new().and_then(|mut interfaces| interfaces.tunnels());
    let tunnels = listed.unwrap_or_default().into_iter();
    tunnels
        .map(|(tunnel, port)| {
            let kind = match tunnel {
                UdpTunnel::Vxlan => TunnelKind::Vxlan,
                UdpTunnel::Geneve => TunnelKind::Geneve,
            };
            Tunnel::of_port(kind, port)
        })
        .collect()
}
