//! Where the kernel has the variables of its hash table: `/proc/kallsyms`.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
};

use super::{error::NoHashWalk, symbol_program};
use crate::kernel::Root;

/// Address of the first bucket, number of buckets, and how often another table was begun (`net/netfilter/nf_conntrack_core.c`).
const NAMES: [&str; 3] = [
    "nf_conntrack_hash",
    "nf_conntrack_htable_size",
    "nf_conntrack_generation",
];

/// Addresses of the variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HashSymbols {
    pub(super) hash: u64,
    pub(super) size: u64,
    pub(super) generation: u64,
}

impl HashSymbols {
    /// As the running kernel has them.
    ///
    /// # Errors
    /// When one is not there, or addresses are hidden.
    pub(super) fn find(root: &Root) -> Result<Self, NoHashWalk> {
        let [hash, size, generation] = NAMES.map(symbol_program::look_up);
        match (hash, size, generation) {
            (Ok(hash), Ok(size), Ok(generation)) => Ok(Self {
                hash,
                size,
                generation,
            }),
            // Its words on why are better.
            _ => Self::read(root),
        }
    }

    /// As `/proc/kallsyms` has them.
    fn read(root: &Root) -> Result<Self, NoHashWalk> {
        let path = root.proc("kallsyms");
        let unreadable = |error| NoHashWalk::Symbols(format!("{}: {error}", path.display()));
        let file = File::open(&path).map_err(unreadable)?;
        let mut found = [None; NAMES.len()];
        let mut source = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        while found.contains(&None) && source.read_until(b'\n', &mut line).map_err(unreadable)? > 0
        {
            if let Some((place, address)) = parse(&line) {
                found[place] = Some(address);
            }
            line.clear();
        }
        let address = |place: usize| match found[place] {
            None => Err(NoHashWalk::NoSymbol(NAMES[place])),
            Some(0) => Err(NoHashWalk::Hidden),
            Some(address) => Ok(address),
        };
        Ok(Self {
            hash: address(0)?,
            size: address(1)?,
            generation: address(2)?,
        })
    }
}

/// Which of [`NAMES`] a line is about, and its address.
fn parse(line: &[u8]) -> Option<(usize, u64)> {
    // Most lines end here: an address, a space, a letter, a space, and the name.
    let rest = line.get(19..)?;
    if !rest.starts_with(b"nf_conntrack_") {
        return None;
    }
    let name = rest.split(u8::is_ascii_whitespace).next()?;
    let place = NAMES.iter().position(|wanted| wanted.as_bytes() == name)?;
    let address = std::str::from_utf8(&line[..16]).ok()?;
    Some((place, u64::from_str_radix(address, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_of_the_variables_or_none() {
        let of = |line: &str| parse(line.as_bytes());
        assert_eq!(
            of("ffffffffc02396c0 d nf_conntrack_hash\t[nf_conntrack]\n"),
            Some((0, 0xffff_ffff_c023_96c0))
        );
        assert_eq!(
            of("ffffffff82000000 B nf_conntrack_generation\n"),
            Some((2, 0xffff_ffff_8200_0000))
        );
        assert_eq!(
            of("0000000000000000 d nf_conntrack_htable_size\t[nf_conntrack]\n"),
            Some((1, 0))
        );
        for other in [
            "ffffffffc02396c8 d nf_conntrack_htable_size_user\t[nf_conntrack]\n",
            "ffffffffc0228e40 t nf_conntrack_hash_sysctl\t[nf_conntrack]\n",
            "",
            "ffff",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
