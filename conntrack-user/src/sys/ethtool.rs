//! ethtool's ioctl (`SIOCETHTOOL`, `include/uapi/linux/ethtool.h`): what the driver of a network interface counts.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::libc;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_GDRVINFO`, `ETHTOOL_GSTRINGS`, `ETHTOOL_GSTATS`
const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_STATISTICS: u32 = 0x1d;
/// `ETH_SS_STATS`
const STATISTICS: u32 = 1;
/// `ETH_GSTRING_LEN`
const NAME_BYTES: usize = 32;
/// Statistics of one driver at most: large ones have some for each of 128 queues.
const MOST: usize = 1 << 14;

/// `struct ethtool_drvinfo`
#[derive(Clone, Copy)]
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    private_flags: u32,
    statistics: u32,
    tests: u32,
    eeprom_bytes: u32,
    register_bytes: u32,
}

/// What a driver counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DriverStatistics {
    /// The driver's name, such as `ena`.
    pub(crate) driver: String,
    /// Each statistic's name and value, as `ethtool -S` prints them.
    pub(crate) values: Vec<(String, u64)>,
}

/// Asks the driver of an interface in the calling thread's network namespace. Takes no capability.
///
/// # Errors
/// If there is no such interface, its driver counts nothing (`EOPNOTSUPP`), or has more statistics than can be asked for.
pub(crate) fn statistics(interface: &str) -> io::Result<DriverStatistics> {
    let socket = socket()?;
    let about = driver_info(&socket, interface)?;
    let count = about.statistics as usize;
    if count > MOST {
        return Err(io::Error::other(format!(
            "the driver has {count} statistics"
        )));
    }
    let mut values = Vec::new();
    if count > 0 {
        let names = names(&socket, interface)?;
        let numbers = numbers(&socket, interface)?;
        // A driver that has changed what it counts in between.
        if names.len() != numbers.len() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        values = names.into_iter().zip(numbers).collect();
    }
    Ok(DriverStatistics {
        driver: text(&about.driver),
        values,
    })
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn driver_info(socket: &OwnedFd, interface: &str) -> io::Result<DriverInfo> {
    // SAFETY: integers only, of which 0 is a value.
    let mut info: DriverInfo = unsafe { std::mem::zeroed() };
    info.command = GET_DRIVER;
    // SAFETY: the kernel writes one `struct ethtool_drvinfo`, whose size never changes.
    unsafe { ask(socket, interface, (&raw mut info).cast())? };
    Ok(info)
}

/// Words of 8 bytes of an answer: a header of `header` bytes and [`MOST`] times `each`, twice over. The kernel writes as many as the driver has at
/// that moment, whatever it was asked for; how many there are was just asked, and a driver that has twice the most by then does not exist. What it
/// does not write is never touched.
fn room(header: usize, each: usize) -> Vec<u64> {
    vec![0; (header + 2 * MOST * each).div_ceil(8)]
}

/// `struct ethtool_gstrings`: command, set, length, then the strings.
fn names(socket: &OwnedFd, interface: &str) -> io::Result<Vec<String>> {
    const HEADER: usize = 12;
    let mut answer = room(HEADER, NAME_BYTES);
    answer[0] = header(GET_STRINGS, STATISTICS);
    // SAFETY: there is room for what it answers, see `room`.
    unsafe { ask(socket, interface, answer.as_mut_ptr().cast())? };
    let count = number(&answer, 8).min(MOST);
    let words = (HEADER + count * NAME_BYTES).div_ceil(8);
    let bytes: Vec<u8> = answer
        .iter()
        .take(words)
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let strings = bytes
        .get(HEADER..)
        .unwrap_or_default()
        .chunks_exact(NAME_BYTES);
    Ok(strings.take(count).map(text).collect())
}

/// `struct ethtool_stats`: command, length, then the numbers.
fn numbers(socket: &OwnedFd, interface: &str) -> io::Result<Vec<u64>> {
    let mut answer = room(8, 8);
    answer[0] = header(GET_STATISTICS, 0);
    // SAFETY: as in `names`.
    unsafe { ask(socket, interface, answer.as_mut_ptr().cast())? };
    let count = number(&answer, 4);
    Ok(answer.iter().skip(1).take(count).copied().collect())
}

/// The first two words of 4 bytes.
fn header(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The word of 4 bytes at so many bytes.
fn number(answer: &[u64], at: usize) -> usize {
    let bytes = answer.get(at / 8).copied().unwrap_or(0).to_ne_bytes();
    let word = bytes.get(at % 8..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_ne_bytes(*word) as usize)
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
    String::from_utf8_lossy(text).into_owned()
}

/// # Safety
///
/// `data` is aligned for words of 8 bytes, and has room for whatever the command writes.
unsafe fn ask(socket: &OwnedFd, interface: &str, data: *mut libc::c_char) -> io::Result<()> {
    // SAFETY: integers and a union of plain bytes, of which 0 is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = data;
    // SAFETY: a whole `struct ifreq`, whose data is as the caller promises; the descriptor is open as long as it is borrowed.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::{super::netlink::tests::ip, *};

    #[test]
    fn a_driver_without_statistics_and_no_interface_at_all() {
        assert!(statistics("no-such-device").is_err());
        assert!(statistics("a-name-that-is-too-long").is_err());
        let found = statistics("lo").map(|found| found.values);
        assert!(found.is_err() || found.is_ok_and(|values| values.is_empty()));
    }

    #[test]
    fn a_veth_counts_what_passes_and_knows_its_peer() {
        let of_its_own = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (help: run as root)");
            ip("link add ctp-a type veth peer name ctp-b");
            let found = statistics("ctp-a").expect("a driver");
            assert_eq!(found.driver, "veth");
            // `veth_get_ethtool_stats`: the number of the interface at the other end.
            // SAFETY: a string that ends.
            let peer = unsafe { libc::if_nametoindex(c"ctp-b".as_ptr()) };
            assert_ne!(peer, 0, "the peer has a number");
            let told = found.values.iter().find(|(name, _)| name == "peer_ifindex");
            assert_eq!(
                told.map(|(_, value)| *value),
                Some(peer.into()),
                "{found:?}"
            );
            let names: HashSet<&str> = found.values.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names.len(), found.values.len(), "{found:?}");
        });
        of_its_own.join().unwrap();
    }
}
