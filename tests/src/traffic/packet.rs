//! The first packet of a flow, IP header included: valid enough that conntrack's trackers accept
//! it as new, wherever it is looked at.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use crc::{CRC_32_ISCSI, Crc};
use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

use super::flow::{Flow, Protocol};

/// Hop limit: enough for a sender, a router and a receiver.
const HOPS: u8 = 16;
/// What UDP, ICMP and the unknown protocol carry.
const PAYLOAD: &[u8] = b"ctpressure";
/// SCTP's checksum (RFC 9260, appendix A). `sctp_error` (`nf_conntrack_proto_sctp.c`) checks it
/// on packets that come in.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Writes the first packet of `flow` to `buffer`, which is emptied before.
pub fn first_packet(flow: &Flow, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.clear();
    let write = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = PacketBuilder::ipv4(source.octets(), destination.octets(), HOPS);
            match flow.protocol {
                Protocol::Udp => ip
                    .udp(flow.source_port, flow.destination_port)
                    .write(buffer, PAYLOAD),
                Protocol::Tcp => syn(ip, flow).write(buffer, &[]),
                Protocol::Icmp => ip
                    .icmpv4_echo_request(flow.source_port, 1)
                    .write(buffer, PAYLOAD),
                _ => ip.write(buffer, number(flow), &payload(flow)),
            }
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = PacketBuilder::ipv6(source.octets(), destination.octets(), HOPS);
            match flow.protocol {
                Protocol::Udp => ip
                    .udp(flow.source_port, flow.destination_port)
                    .write(buffer, PAYLOAD),
                Protocol::Tcp => syn(ip, flow).write(buffer, &[]),
                Protocol::Icmp => ip
                    .icmpv6_echo_request(flow.source_port, 1)
                    .write(buffer, PAYLOAD),
                _ => ip.write(buffer, number(flow), &payload(flow)),
            }
        }
        _ => anyhow::bail!(
            "{} and {} are of different families",
            flow.source,
            flow.destination
        ),
    };
    write.with_context(|| format!("building the first packet of {flow:?}"))
}

fn syn(
    ip: PacketBuilderStep<etherparse::IpHeaders>,
    flow: &Flow,
) -> PacketBuilderStep<etherparse::TcpHeader> {
    ip.tcp(flow.source_port, flow.destination_port, 0x1000_0000, 64_240)
        .syn()
}

const fn number(flow: &Flow) -> IpNumber {
    IpNumber(flow.protocol.number(flow.family()))
}

/// What follows the IP header of the protocols that have no builder.
fn payload(flow: &Flow) -> Vec<u8> {
    match flow.protocol {
        Protocol::Sctp => sctp_init(flow.source_port, flow.destination_port),
        // No checksum, key or sequence number; version 0; carries IPv4 (RFC 2784).
        Protocol::Gre => vec![0, 0, 0x08, 0x00],
        _ => PAYLOAD.to_vec(),
    }
}

/// An SCTP packet with one INIT chunk (RFC 9260, section 3.3.2). The common header's tag is 0 and
/// nothing else is in the packet: `sctp_new` (`nf_conntrack_proto_sctp.c`) wants both.
fn sctp_init(source_port: u16, destination_port: u16) -> Vec<u8> {
    const CHECKSUM: std::ops::Range<usize> = 8..12;
    let mut packet = Vec::with_capacity(32);
    packet.extend(source_port.to_be_bytes());
    packet.extend(destination_port.to_be_bytes());
    packet.extend(0u32.to_be_bytes()); // verification tag
    packet.extend(0u32.to_be_bytes()); // checksum, below
    packet.extend([1, 0, 0, 20]); // INIT, no flags, 20 bytes
    packet.extend(0x1234_5678u32.to_be_bytes()); // initiate tag
    packet.extend(106_496u32.to_be_bytes()); // receiver window
    packet.extend([0, 10, 0, 10]); // streams out and in
    packet.extend(1u32.to_be_bytes()); // initial sequence number
    let checksum = CRC32C.checksum(&packet);
    packet[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn packet(protocol: Protocol, v6: bool) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) = if v6 {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ("198.18.0.1".parse().unwrap(), "198.19.0.1".parse().unwrap())
        };
        let flow = Flow {
            protocol,
            source,
            destination,
            source_port: 4242,
            destination_port: 53,
        };
        let mut buffer = vec![9; 3];
        first_packet(&flow, &mut buffer).unwrap();
        buffer
    }

    #[test]
    fn every_packet_reads_back_with_its_protocol_number() {
        for v6 in [false, true] {
            for protocol in Protocol::ALL {
                let bytes = packet(protocol, v6);
                let parsed = SlicedPacket::from_ip(&bytes).unwrap();
                let number = match parsed.net.unwrap() {
                    NetSlice::Ipv4(ip) => ip.header().protocol(),
                    NetSlice::Ipv6(ip) => ip.header().next_header(),
                    NetSlice::Arp(_) => panic!("not an IP packet"),
                };
                let family = if v6 {
                    super::super::flow::Family::V6
                } else {
                    super::super::flow::Family::V4
                };
                assert_eq!(number.0, protocol.number(family), "{protocol:?} {family}");
            }
        }
    }

    #[test]
    fn ports_and_flags_are_where_they_belong() {
        let bytes = packet(Protocol::Tcp, true);
        let parsed = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = parsed.transport else {
            panic!("no TCP header")
        };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (4242, 53));
        assert!(tcp.syn() && !tcp.ack());

        let bytes = packet(Protocol::Icmp, false);
        let parsed = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else {
            panic!("no ICMP header")
        };
        let etherparse::Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else {
            panic!("not an echo request")
        };
        assert_eq!(echo.id, 4242);
    }

    #[test]
    fn the_sctp_checksum_is_crc32c() {
        // The known answer of RFC 3720 B.4 for 32 bytes of zeroes.
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
        let mut init = sctp_init(1, 2);
        assert_eq!(init.len(), 32);
        let stored = u32::from_le_bytes(init[8..12].try_into().unwrap());
        init[8..12].fill(0);
        assert_eq!(stored, CRC32C.checksum(&init));
    }
}
