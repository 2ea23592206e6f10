//! The tunnels of this network namespace that put packets into UDP (`IFLA_INFO_KIND`, `IFLA_INFO_DATA`): `drivers/net/vxlan/`,
//! `drivers/net/geneve.c`.

use libc::{IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_GETLINK};

use super::interfaces::{Interfaces, LINK_HEADER};
use super::{Attributes, NetlinkError};

const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_GENEVE_PORT: u16 = 5;

/// Ports that are told apart at most: nodes have one tunnel or two, and who may make devices in a network namespace of his own makes
/// thousands.
const MOST: usize = 32;

/// A kind of device that puts packets into UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UdpTunnel {
    Vxlan,
    Geneve,
}

impl Interfaces {
    /// The ports that the tunnels send to, each once, of the first [`MOST`].
    ///
    /// # Errors
    /// When the kernel refuses, or the list is not whole.
    pub(crate) fn tunnels(&mut self) -> Result<Vec<(UdpTunnel, u16)>, NetlinkError> {
        let mut found = Vec::new();
        self.list(RTM_GETLINK, LINK_HEADER, |mut part| {
            let info = part.attributes.find(|(kind, _)| *kind == IFLA_LINKINFO);
            let tunnel = info.and_then(|(_, info)| of_link(info));
            let is_new = |tunnel: &_| found.len() < MOST && !found.contains(tunnel);
            if let Some(tunnel) = tunnel.filter(is_new) {
                found.push(tunnel);
            }
        })?;
        Ok(found)
    }
}

fn of_link(info: &[u8]) -> Option<(UdpTunnel, u16)> {
    let value = |wanted| {
        let mut attributes = Attributes::nested(info);
        attributes.find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let kind = value(IFLA_INFO_KIND)?;
    let (tunnel, attribute) = match kind.strip_suffix(b"\0").unwrap_or(kind) {
        b"vxlan" => (UdpTunnel::Vxlan, IFLA_VXLAN_PORT),
        b"geneve" => (UdpTunnel::Geneve, IFLA_GENEVE_PORT),
        _ => return None,
    };
    let mut data = Attributes::nested(value(IFLA_INFO_DATA)?);
    let (_, port) = data.find(|(kind, _)| *kind == attribute)?;
    Some((tunnel, u16::from_be_bytes(*port.first_chunk()?)))
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

    /// A device of this kind with this in its data.
    fn link(kind: &str, data: &[u8]) -> Option<(UdpTunnel, u16)> {
        let kind = attribute(IFLA_INFO_KIND, format!("{kind}\0").as_bytes());
        // Nested: the kernel sets a flag of the type.
        let data = attribute(IFLA_INFO_DATA | 1 << 15, data);
        of_link(&[kind, data].concat())
    }

    #[test]
    fn tunnels_by_the_port_that_they_were_given() {
        let port = |kind, port: u16| attribute(kind, &port.to_be_bytes());
        let other = attribute(1, &[0; 4]);
        let vxlan = [other, port(IFLA_VXLAN_PORT, 4799)].concat();
        assert_eq!(link("vxlan", &vxlan), Some((UdpTunnel::Vxlan, 4799)));
        let geneve = port(IFLA_GENEVE_PORT, 6099);
        assert_eq!(link("geneve", &geneve), Some((UdpTunnel::Geneve, 6099)));
        assert_eq!(link("vxlan", &geneve), None);
        assert_eq!(link("dummy", &vxlan), None);
        assert_eq!(of_link(&[]), None);
    }
}
