//! `IPCTNL_MSG_CT_GET_STATS_CPU`: one message for each possible CPU, one attribute (`CTA_STATS_*`)
//! for each number.

use super::{CpuStats, SOURCES, STATS, StatsReading};
use crate::sys::netlink::{Attributes, NetlinkError, NetlinkSocket};

const CTNETLINK: u8 = 1;

const GET_STATS_CPU: u8 = 4;

/// Reads the attributes of one message. Those that are not known, or dead, are passed over.
fn row_of(attributes: Attributes<'_>) -> CpuStats {
    let mut row = [None; STATS];
    for (kind, value) in attributes {
        let stat = SOURCES
            .iter()
            .position(|(.., attribute)| *attribute == Some(kind));
        if let (Some(stat), Ok(value)) = (stat, value.try_into()) {
            row[stat] = Some(u32::from_be_bytes(value));
        }
    }
    row
}

/// Asks for the statistics of the calling thread's network namespace. They come without the number
/// of entries and without those of expectations.
///
/// # Errors
/// When `nf_conntrack_netlink` is not there (`EINVAL`), or `CAP_NET_ADMIN` is missing (`EPERM`).
pub(crate) fn ask() -> Result<StatsReading, NetlinkError> {
    let mut reading = StatsReading::default();
    NetlinkSocket::netfilter()?.dump(CTNETLINK, GET_STATS_CPU, 0, &[], |part| {
        reading.rows.push(row_of(part.attributes));
    })?;
    if reading.rows.is_empty() {
        return Err(NetlinkError::Malformed);
    }
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{
        Root,
        conntrack::Presence,
        stats::{self, Stat},
    };

    #[test]
    fn the_kernel_answers_both_ways_alike() {
        let root = Root::system();
        if !Presence::read(&root).unwrap().is_loaded() {
            // Asking would load it.
            let error = stats::read(&Root::at("/nonexistent")).unwrap_err();
            assert!(error.to_string().contains("nf_conntrack"), "{error}");
            return;
        }
        let by_netlink = match ask() {
            Ok(reading) => reading,
            Err(NetlinkError::Refused(error)) => {
                // Without the module, or without the right to ask.
                assert!(
                    matches!(error as i32, libc::EINVAL | libc::EPERM | libc::EOPNOTSUPP),
                    "{error}"
                );
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let cpus = crate::kernel::release::possible_cpus(&root).unwrap();
        assert_eq!(by_netlink.rows.len(), cpus);
        for row in &by_netlink.rows {
            assert!(row[Stat::Drop as usize].is_some() && row[Stat::EarlyDrop as usize].is_some());
            assert!(row[Stat::ExpectNew as usize].is_none());
        }
        let path = stats::own_file(&root);
        if path.exists() {
            let by_file = stats::read(&root).unwrap();
            assert_eq!(by_file.rows.len(), cpus);
            for (file, netlink) in by_file.rows.iter().zip(&by_netlink.rows) {
                for stat in [Stat::ClashResolve, Stat::ChainTooLong] {
                    assert_eq!(
                        file[stat as usize].is_some(),
                        netlink[stat as usize].is_some()
                    );
                }
            }
        }
    }
}
