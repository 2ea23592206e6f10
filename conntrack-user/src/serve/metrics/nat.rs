//! What NAT made of the entries that the last census found. Series are bounded by the number of port spaces that are told.

use ctpressure_model::protocol::protocol_name;

use crate::{
    agent::{PortsUsed, Snapshot, Table},
    census::NAT_PORTS,
    serve::family::{Family, f},
};

pub(super) fn families(snapshot: &Snapshot) -> [Family; 4] {
    let nat = snapshot.owners.nat.as_deref();
    let named: Vec<(&Table, &PortsUsed)> = nat
        .iter()
        .flat_map(|nat| &nat.spaces)
        .filter_map(|used| {
            let mut tables = snapshot.tables.list.iter();
            Some((tables.find(|table| table.netns == used.netns)?, used))
        })
        .collect();
    let of = |family: Family, (table, used): &(&Table, &PortsUsed), value: Option<f64>| {
        let space = &used.space;
        let (address, server) = (space.address.to_string(), space.destination.to_string());
        let (port, protocol) = (space.port.to_string(), protocol_name(space.protocol));
        let labels = [
            ("netns", table.name.as_str()),
            ("source", &address),
            ("destination", &server),
            ("port", &port),
            ("protocol", &protocol),
        ];
        family.maybe(&labels, value)
    };
    [
        Family::gauge(
            "ctpressure_nat_ports_used",
            "Ports that source NAT has in use from one address towards one destination, at the last census: of the ten such spaces with the most. At least so many, and exactly unless there are more than 1,024 spaces.",
        )
        .each(&named, |family, used| of(family, used, Some(f(used.1.ports)))),
        Family::gauge(
            "ctpressure_nat_ports",
            "Ports that source NAT chooses from in each such space (1,024 to 65,535), unless a rule names others.",
        )
        .maybe(&[], nat.map(|_| f(NAT_PORTS))),
        Family::gauge(
            "ctpressure_nat_ports_seconds_to_full",
            "Seconds until such a space has no port left, at its pace between the last two censuses; absent while it does not fill.",
        )
        .each(&named, |family, used| of(family, used, used.1.seconds_to_full)),
        Family::gauge(
            "ctpressure_stale_nat_entries",
            "Entries by which NAT leads to, or lets come from, an address that somebody on this node had and nobody has any more, and that nobody answers, at the last census: what is sent by them is lost. ctpressure doctor names them.",
        )
        .maybe(&[], nat.map(|nat| f(nat.stale))),
    ]
}
