//! The addresses of a network namespace, from the files that `/proc/PID/net` has for it: nothing
//! has to be entered.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// How much of one file is read, bytes. The routes of a node with a whole table of the internet
/// are more; its own addresses then can't all be found.
const LONGEST: u64 = 16 << 20;

/// Addresses of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnAddresses {
    /// Without loopback and link-local ones; not more than were asked for.
    pub(super) found: BTreeSet<IpAddr>,
    /// How many there are; one that is in several routing tables may be counted with each.
    pub(super) count: usize,
    /// The files are longer than is read.
    pub(super) cut: bool,
}

impl OwnAddresses {
    /// Reads `fib_trie` and `if_inet6` in `folder`, a `/proc/PID/net`: at most this many addresses, first those that
    /// were known `before`.
    ///
    /// # Errors
    /// When the process is gone, or the files can't be read. A kernel without IPv6 has no
    /// `if_inet6`: no error.
    pub(super) fn read(folder: &Path, before: &BTreeSet<IpAddr>, most: usize) -> io::Result<Self> {
        let mut addresses = Self::default();
        let mut others = BTreeSet::new();
        let mut trie = TrieReader::default();
        let file = File::open(folder.join("fib_trie"))?;
        let mut take = |known: &mut Self, address: IpAddr| {
            let set = if before.contains(&address) {
                &mut known.found
            } else {
                &mut others
            };
            if set.contains(&address) {
                return;
            }
            known.count += 1;
            if set.len() < most {
                set.insert(address);
            }
        };
        addresses.read_lines(file, |line| trie.read(line), &mut take)?;
        match File::open(folder.join("if_inet6")) {
            Ok(file) => addresses.read_lines(file, of_interface, &mut take)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let room = most.saturating_sub(addresses.found.len());
        addresses.found.extend(others.into_iter().take(room));
        Ok(addresses)
    }

    /// `own` tells the address that a line is about, if it is one of the namespace's own.
    fn read_lines(
        &mut self,
        file: File,
        mut own: impl FnMut(&str) -> Option<IpAddr>,
        take: &mut impl FnMut(&mut Self, IpAddr),
    ) -> io::Result<()> {
        let mut text = BufReader::with_capacity(1 << 14, file.take(LONGEST));
        let mut line = Vec::with_capacity(128);
        let mut read = 0;
        loop {
            line.clear();
            let length = text.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            read += length as u64;
            if let Some(address) = str::from_utf8(&line).ok().and_then(&mut own) {
                take(self, address);
            }
        }
        self.cut |= read >= LONGEST;
        Ok(())
    }
}

/// `/proc/net/fib_trie` (`fib_trie_seq_show`): each address as `|-- 10.0.0.7`, and on the next lines what there is for it;
/// `/32 host LOCAL` makes it an own one. In whichever table: the addresses of a VRF are in that of the VRF. Only `Main:` is
/// passed over: without rules it is the same as `Local:`.
#[derive(Debug, Default)]
struct TrieReader {
    main: bool,
    leaf: Option<Ipv4Addr>,
}

impl TrieReader {
    fn read(&mut self, line: &str) -> Option<IpAddr> {
        if !line.starts_with(' ') {
            self.main = line.trim_end() == "Main:";
            self.leaf = None;
            return None;
        }
        if self.main {
            return None;
        }
        let text = line.trim();
        if let Some(leaf) = text.strip_prefix("|-- ") {
            self.leaf = leaf.parse().ok();
            return None;
        }
        if text.starts_with("+-- ") {
            self.leaf = None;
            return None;
        }
        if text != "/32 host LOCAL" {
            return None;
        }
        let address = self.leaf?;
        let other = address.is_loopback() || address.is_unspecified() || address.is_multicast();
        (!other && !address.is_link_local()).then_some(IpAddr::V4(address))
    }
}

/// `/proc/net/if_inet6` (`if6_seq_show`): address, interface, prefix length, scope, flags, name.
fn of_interface(line: &str) -> Option<IpAddr> {
    let digits = line.split_ascii_whitespace().next()?;
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let address = Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?);
    let own = !address.is_loopback()
        && !address.is_unspecified()
        && !address.is_unicast_link_local()
        && !address.is_multicast();
    own.then_some(IpAddr::V6(address))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 64;

    /// Of a host with a dummy device and a VRF.
    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.0.2.2
        /32 host LOCAL
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        +-- 192.0.2.0/30 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
              /32 link UNICAST
        |-- 192.0.2.255
           /32 link BROADCAST
     |-- 169.254.1.1
        /32 host LOCAL
     |-- 10.42.0.7
        /32 link UNICAST
        /32 host LOCAL
Id 100:
  +-- 0.0.0.0/0 3 0 5
     |-- 203.0.113.9
        /32 host LOCAL
";
    const INTERFACES: &str = "\
fe800000000000000000000000000001 02 40 20 80     eth0
fd000042000000000000000000000007 02 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000001 03 40 00 40     eth1
short 03 40 00 40     eth1
";

    fn namespace(trie: &str, interfaces: Option<&str>) -> OwnAddresses {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fib_trie"), trie).unwrap();
        if let Some(text) = interfaces {
            fs::write(folder.path().join("if_inet6"), text).unwrap();
        }
        OwnAddresses::read(folder.path(), &BTreeSet::new(), MOST).unwrap()
    }

    #[test]
    fn own_addresses_and_no_others() {
        let addresses = namespace(TRIE, Some(INTERFACES));
        let found: Vec<String> = addresses.found.iter().map(IpAddr::to_string).collect();
        assert_eq!(
            found,
            [
                "10.42.0.7",
                "192.0.2.2",
                "203.0.113.9",
                "2001:db8::1",
                "fd00:42::7"
            ]
        );
        assert!(!addresses.cut);
        assert_eq!(namespace(TRIE, None).found.len(), 3);
        assert_eq!(namespace("", Some("")), OwnAddresses::default());
    }

    #[test]
    fn of_this_process() {
        let addresses =
            OwnAddresses::read(Path::new("/proc/self/net"), &BTreeSet::new(), MOST).unwrap();
        assert!(
            !addresses.found.iter().any(IpAddr::is_loopback),
            "{addresses:?}"
        );
    }

    #[test]
    fn a_process_that_is_gone() {
        let error =
            OwnAddresses::read(Path::new("/proc/0/net"), &BTreeSet::new(), MOST).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn very_many() {
        let mut trie = "Local:\n".to_owned();
        for number in 1..=5000_u32 {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + number);
            writeln!(trie, "     |-- {address}\n        /32 host LOCAL").unwrap();
        }
        let addresses = namespace(&trie, None);
        assert_eq!((addresses.count, addresses.found.len()), (5000, MOST));
        assert!(!addresses.cut);
    }

    /// Who adds thousands of others, lower ones among them, is known by its own as before.
    #[test]
    fn those_that_were_there_before_stay() {
        let own: IpAddr = "10.42.0.7".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut trie = "Local:\n".to_owned();
        for number in 1..=3000_u32 {
            let address = Ipv4Addr::from_bits(0x0100_0000 + number);
            writeln!(trie, "     |-- {address}\n        /32 host LOCAL").unwrap();
        }
        trie.push_str("     |-- 10.42.0.7\n        /32 host LOCAL\n");
        fs::write(folder.path().join("fib_trie"), trie).unwrap();
        let read = |before: &[IpAddr]| {
            OwnAddresses::read(folder.path(), &before.iter().copied().collect(), MOST).unwrap()
        };
        assert!(read(&[own]).found.contains(&own));
        assert_eq!(read(&[own]).found.len(), MOST);
        assert!(!read(&[]).found.contains(&own));
    }

    proptest! {
        #[test]
        fn any_text_is_read(trie in "[ -~\n]{0,300}", interfaces in any::<String>()) {
            let mut reader = TrieReader::default();
            for line in trie.lines() {
                reader.read(line);
            }
            for line in interfaces.lines() {
                of_interface(line);
            }
        }

        #[test]
        fn each_address_is_found(v4: u32, v6: u128) {
            let (v4, v6) = (Ipv4Addr::from_bits(v4), Ipv6Addr::from_bits(v6));
            let mut reader = TrieReader::default();
            reader.read(&format!("     |-- {v4}\n"));
            let found = reader.read("        /32 host LOCAL\n");
            prop_assert_eq!(found.is_some(), !(v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_multicast()));
            let line = format!("{:032x} 02 40 00 80 eth0", v6.to_bits());
            let found = of_interface(&line);
            prop_assert!(found.is_none_or(|found| found == IpAddr::V6(v6)));
        }
    }
}
