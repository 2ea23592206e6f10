//! Offsets and sizes of members.

use super::{Btf, Kind, Type};

/// How deep types may refer to types (`MAX_RESOLVE_DEPTH` of the kernel).
const DEPTH: u32 = 32;

/// How many members one question may look at: `struct net_device`, the widest one asked about, has
/// fewer than 300. It bounds the work that a hostile file can cause.
const MEMBERS: u32 = 50_000;

/// Size of a pointer: only 64-bit kernels run the programs.
const POINTER: u32 = 8;

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the start of the structure that was asked about, bytes.
    pub offset_bytes: u32,
    /// Its size, bytes; of an array: all of it.
    pub size: u32,
}

/// Why there is no offset for a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No such structure or union.
    #[error("this kernel's BTF has no struct {structure}")]
    NoStructure {
        /// The name asked for.
        structure: String,
    },
    /// The structure has no such member, nor one of its anonymous parts.
    #[error("struct {structure} of this kernel has no member {member}")]
    NoMember {
        /// The structure asked about.
        structure: String,
        /// The path up to the member that is missing, with dots.
        member: String,
    },
    /// A path goes on behind something that has no members.
    #[error("{member} of struct {structure} has no members")]
    NoStruct {
        /// The structure asked about.
        structure: String,
        /// The path up to the member that is no structure, with dots.
        member: String,
    },
    /// A bitfield has no address.
    #[error("{member} of struct {structure} is a bitfield")]
    Bitfield {
        /// The structure asked about.
        structure: String,
        /// The path of the bitfield, with dots.
        member: String,
    },
    /// Types that refer to nothing, to each other, or are too large.
    #[error("the BTF of struct {structure} makes no sense at {member}")]
    Malformed {
        /// The structure asked about.
        structure: String,
        /// The path up to where it makes no sense, with dots.
        member: String,
    },
}

/// What went wrong, before it is known where.
enum Failure {
    Missing,
    NoStruct,
    Bitfield,
    Malformed,
}

/// A member that was found: where, what, and how many bits it has when it is a bitfield.
struct Found {
    bits: u32,
    target: u32,
    bitfield: u8,
}

impl Btf<'_> {
    /// Where the member `path` of `structure` is, through anonymous structures and unions, type
    /// definitions, modifiers and (first elements of) arrays.
    ///
    /// For a split BTF the structure is looked up in the base first: modules of newer kernels
    /// carry copies. The first structure with that name is taken.
    ///
    /// # Errors
    /// When the structure or the member is not there, or the member is a bitfield.
    pub fn member(&self, structure: &str, path: &[&str]) -> Result<Member, MemberError> {
        let found = self
            .structure(structure)
            .ok_or_else(|| MemberError::NoStructure {
                structure: structure.to_owned(),
            })?;
        let mut budget = MEMBERS;
        let mut member = Member {
            offset_bytes: 0,
            size: found.size(),
        };
        let mut at = found;
        for (step, name) in path.iter().enumerate() {
            let so_far = &path[..=step];
            let target;
            (member, target) = self
                .step(at, member, name, &mut budget)
                .map_err(|failure| describe(&failure, structure, so_far))?;
            if so_far.len() < path.len() {
                at = self
                    .innermost(target)
                    .filter(|inner| matches!(inner.kind(), Kind::Struct | Kind::Union))
                    .ok_or_else(|| describe(&Failure::NoStruct, structure, so_far))?;
            }
        }
        Ok(member)
    }

    /// Size of a structure or union, bytes.
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        self.structure(structure).map(|found| found.size())
    }

    fn structure(&self, name: &str) -> Option<Type<'_>> {
        self.base
            .and_then(|base| base.structure(name))
            .or_else(|| self.find(&[Kind::Struct, Kind::Union], name))
    }

    fn step(
        &self,
        at: Type<'_>,
        before: Member,
        name: &str,
        budget: &mut u32,
    ) -> Result<(Member, u32), Failure> {
        let found = self
            .search(at, name.as_bytes(), 0, budget)?
            .ok_or(Failure::Missing)?;
        let size = self.size(found.target, 0).ok_or(Failure::Malformed)?;
        // Before the kind flag existed, a bitfield was an integer of fewer bits than its size.
        let narrow = self
            .unmodified(found.target)
            .and_then(|target| target.integer_bits())
            .is_some_and(|bits| bits != size.saturating_mul(8));
        if found.bitfield != 0 || !found.bits.is_multiple_of(8) || narrow {
            return Err(Failure::Bitfield);
        }
        let offset_bytes = before
            .offset_bytes
            .checked_add(found.bits / 8)
            .ok_or(Failure::Malformed)?;
        Ok((Member { offset_bytes, size }, found.target))
    }

    /// Looks for a member by name, in anonymous members too.
    fn search(
        &self,
        at: Type<'_>,
        name: &[u8],
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<Found>, Failure> {
        if depth > DEPTH {
            return Err(Failure::Malformed);
        }
        for item in at.members() {
            *budget = budget.checked_sub(1).ok_or(Failure::Malformed)?;
            if item.name_offset != 0 {
                if self.is_named(item.name_offset, name) {
                    return Ok(Some(Found {
                        bits: item.bits,
                        target: item.target,
                        bitfield: item.bitfield,
                    }));
                }
                continue;
            }
            // An unnamed member that is no structure is padding.
            let Some(inner) = self
                .unmodified(item.target)
                .filter(|inner| matches!(inner.kind(), Kind::Struct | Kind::Union))
            else {
                continue;
            };
            if let Some(mut found) = self.search(inner, name, depth + 1, budget)? {
                found.bits = found
                    .bits
                    .checked_add(item.bits)
                    .ok_or(Failure::Malformed)?;
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The type behind type definitions and modifiers.
    fn unmodified(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..DEPTH {
            let found = self.by_id(id)?;
            match found.kind() {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    id = found.target();
                }
                _ => return Some(found),
            }
        }
        None
    }

    /// The structure behind type definitions, modifiers and arrays.
    fn innermost(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..DEPTH {
            let found = self.unmodified(id)?;
            match found.array() {
                Some((element, _)) => id = element,
                None => return Some(found),
            }
        }
        None
    }

    /// Size of a type, bytes.
    fn size(&self, id: u32, depth: u32) -> Option<u32> {
        if depth > DEPTH {
            return None;
        }
        let found = self.unmodified(id)?;
        match found.kind() {
            Kind::Ptr => Some(POINTER),
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                Some(found.size())
            }
            Kind::Array => {
                let (element, count) = found.array()?;
                self.size(element, depth + 1)?.checked_mul(count)
            }
            _ => None,
        }
    }
}

fn describe(failure: &Failure, structure: &str, path: &[&str]) -> MemberError {
    let structure = structure.to_owned();
    let member = path.join(".");
    match failure {
        Failure::Missing => MemberError::NoMember { structure, member },
        Failure::NoStruct => MemberError::NoStruct { structure, member },
        Failure::Bitfield => MemberError::Bitfield { structure, member },
        Failure::Malformed => MemberError::Malformed { structure, member },
    }
}
