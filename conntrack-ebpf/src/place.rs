//! Hash tables that user space writes as a whole and the programs read in place.
//!
//! A look-up in a BPF hash map is a call that costs a new connection about 150 instructions; here
//! it is a few loads. Collisions go to the next places, [`PROBES`] at most: the writer tries
//! seeds until everything is that near (see [`fill`]).
//!
//! There are two of each table, and each CPU has a word that says which is read. The writer fills the other
//! one and then changes the words.

use core::mem::size_of;

use crate::owner::{Address, Claim, IPV4};

/// Places of a table.
pub const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 14;
/// Places that are looked at for one key.
pub const PROBES: usize = 8;

/// What is found by a hash table's key.
pub trait Key: Copy {
    /// The key of a free place: never one of a taken place.
    fn is_free(&self) -> bool;
    /// A number that tells keys apart.
    fn digest(self) -> u32;
    /// Whether they are equal. (The derived comparison of arrays calls a function.)
    fn is(&self, other: &Self) -> bool;
}

impl Key for u32 {
    #[inline(always)]
    fn is_free(&self) -> bool {
        *self == 0
    }

    #[inline(always)]
    fn digest(self) -> u32 {
        self
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        self == other
    }
}

impl Key for Address {
    /// No address of a machine begins and ends like this.
    #[inline(always)]
    fn is_free(&self) -> bool {
        self.words[0] | self.words[3] == 0
    }

    #[inline(always)]
    fn digest(self) -> u32 {
        let [first, second, third, fourth] = self.words;
        first ^ second.rotate_left(7) ^ third.rotate_left(15) ^ fourth
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        // The last word first: it differs most.
        self.words[3] == other.words[3]
            && self.words[2] == other.words[2]
            && self.words[1] == other.words[1]
            && self.words[0] == other.words[0]
    }
}

impl Key for u64 {
    #[inline(always)]
    fn is_free(&self) -> bool {
        *self == 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn digest(self) -> u32 {
        self as u32 ^ (self >> 32) as u32
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        self == other
    }
}

/// One place: a key and what it leads to.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromZeros))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Place<K, V> {
    /// What it is found by; see [`Key::is_free`].
    key: K,
    /// What is kept for the key.
    value: V,
}

/// A hash table of fixed size.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromZeros))]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Table<K, V> {
    /// Changes where keys belong.
    seed: u32,
    /// Always 0, so that no byte is undefined.
    reserved: u32,
    /// The places, in the order in which they are looked at.
    places: [Place<K, V>; PLACES],
}

/// Who an address is of. The keys of IPv4 are one word, which costs half as much as four.
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::FromZeros))]
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Addresses {
    v4: Table<u32, Claim>,
    v6: Table<Address, Claim>,
}
/// `cgroup v2 id -> slot` (in 64 bits, for the alignment).
pub type Cgroups = Table<u64, u64>;

const _: () = {
    assert!(size_of::<Addresses>() == 2 * 8 + (16 + 28) * PLACES);
    assert!(size_of::<Cgroups>() == 8 + 16 * PLACES);
};

#[inline(always)]
fn first_place(seed: u32, key: impl Key) -> usize {
    // Fibonacci hashing: the highest bits of the product are the well mixed ones.
    ((key.digest() ^ seed).wrapping_mul(0x9e37_79b1) >> (u32::BITS - PLACE_BITS)) as usize
}

impl<K: Key, V> Table<K, V> {
    /// What `key` leads to.
    #[inline(always)]
    pub fn find(&self, key: K) -> Option<&V> {
        let first = first_place(self.seed, key);
        for step in 0..PROBES {
            let index = (first + step) & (PLACES - 1);
            // SAFETY: the mask keeps the index below the number of places.
            let place = unsafe { &*(&raw const self.places).cast::<Place<K, V>>().add(index) };
            if place.key.is(&key) {
                return Some(&place.value);
            }
            if place.key.is_free() {
                return None;
            }
        }
        None
    }
}

impl Addresses {
    /// Who has an IPv4 address, network order.
    #[inline(always)]
    pub fn find_v4(&self, address: u32) -> Option<&Claim> {
        self.v4.find(address)
    }

    /// Who has an IPv6 address.
    #[inline(always)]
    pub fn find_v6(&self, address: Address) -> Option<&Claim> {
        self.v6.find(address)
    }

    /// Who has the address of these words in a tuple of this family.
    #[inline(always)]
    pub fn find_in_family(&self, words: [u32; 4], l3num: u16) -> Option<&Claim> {
        if l3num == IPV4 {
            self.find_v4(words[0])
        } else {
            self.find_v6(Address { words })
        }
    }

    /// Says who has which address, and gives how many found no place, as [`fill`].
    #[cfg(not(target_arch = "bpf"))]
    pub fn fill(&mut self, claims: &[(Address, Claim)]) -> usize {
        let claims = claims.iter().copied();
        let v4 = claims.clone().filter(|(address, _)| address.is_v4());
        let v6 = claims.filter(|(address, _)| !address.is_v4());
        let v4 = v4.map(|(address, claim)| (address.words[3], claim));
        fill(&mut self.v4, v4) + fill(&mut self.v6, v6)
    }
}

/// Fills `table` with `entries` and gives how many did not find a place: 0 unless there are more than
/// a quarter of [`PLACES`] or somebody chose them to collide.
#[cfg(not(target_arch = "bpf"))]
pub fn fill<K: Key + Default, V: Copy + Default>(
    table: &mut Table<K, V>,
    entries: impl Iterator<Item = (K, V)> + Clone,
) -> usize {
    /// Seeds that are tried.
    const SEEDS: u32 = 32;
    let mut best = (usize::MAX, 0);
    for attempt in 0..SEEDS {
        let seed = attempt.wrapping_mul(0x85eb_ca6b);
        let left_out = fill_with_seed(table, seed, entries.clone());
        if left_out == 0 {
            return 0;
        }
        best = best.min((left_out, seed));
    }
    fill_with_seed(table, best.1, entries)
}

#[cfg(not(target_arch = "bpf"))]
fn fill_with_seed<K: Key + Default, V: Copy + Default>(
    table: &mut Table<K, V>,
    seed: u32,
    entries: impl Iterator<Item = (K, V)>,
) -> usize {
    table.seed = seed;
    table.places.fill(Place::default());
    let mut left_out = 0;
    for (key, value) in entries {
        let first = first_place(seed, key);
        let free = (0..PROBES)
            .map(|step| (first + step) & (PLACES - 1))
            .find(|index| table.places[*index].key.is_free())
            .filter(|_| !key.is_free());
        match free {
            Some(index) => table.places[index] = Place { key, value },
            None => left_out += 1,
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;

    fn empty() -> Box<Addresses> {
        Addresses::new_box_zeroed().expect("memory")
    }

    fn claim(slot: u32) -> Claim {
        Claim {
            slot,
            ..Claim::default()
        }
    }

    #[test]
    fn pods_of_a_full_node_are_all_found_and_nobody_else() {
        let mut table = empty();
        let find = |table: &Addresses, address: Address| {
            let found = if address.is_v4() {
                table.find_v4(address.words[3])
            } else {
                table.find_v6(address)
            };
            found.copied()
        };
        let v4 = |n: u32| Address::of(IpAddr::V4(Ipv4Addr::from_bits(0x0a2a_0000 + n)));
        let v6 = |n: u32| {
            Address::of(IpAddr::V6(Ipv6Addr::from_bits(
                (0xfd00_u128 << 112) + u128::from(n),
            )))
        };
        let entries: Vec<_> = (0..2000)
            .flat_map(|n| [(v4(n), claim(n)), (v6(n), claim(n))])
            .collect();
        assert_eq!(table.fill(&entries), 0);
        for (address, claim) in &entries {
            assert_eq!(find(&table, *address), Some(*claim));
        }
        for n in 2000..4000 {
            assert_eq!(find(&table, v4(n)), None);
            assert_eq!(find(&table, v6(n)), None);
        }
    }

    #[test]
    fn what_finds_no_place_is_told() {
        let mut table = empty();
        // All of one digest, whatever the seed.
        let same = |n: u32| Address {
            words: [n, 0, 0, n],
        };
        let entries: Vec<_> = (1..20).map(|n| (same(n), claim(n))).collect();
        assert_eq!(table.fill(&entries), entries.len() - PROBES);
        let nobody = [(Address::default(), claim(1)), (Address::v4(0), claim(2))];
        assert_eq!(empty().fill(&nobody), 2, "no address of a machine");
    }

    proptest! {
        #[test]
        fn it_is_a_map(keys in proptest::collection::hash_map(1..u64::MAX, any::<u64>(), 0..600)) {
            let mut table = Table::<u64, u64>::new_box_zeroed().expect("memory");
            let entries: Vec<_> = keys.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(fill(&mut table, entries.iter().copied()), 0);
            for (key, value) in &keys {
                prop_assert_eq!(table.find(*key), Some(value));
                if !keys.contains_key(&!key) {
                    prop_assert_eq!(table.find(!key), None);
                }
            }
        }
    }
}
