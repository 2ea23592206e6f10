//! Offsets and sizes of members.

use super::{Btf, BtfKind, Type, records::Item};

/// How deep types may refer to types (`MAX_RESOLVE_DEPTH` of the kernel).
const DEPTH: u32 = 32;

/// How many members one question may look at: `struct net_device`, the widest one asked about, has
/// fewer than 300. It bounds the work that a hostile file can cause.
const MEMBERS: u32 = 50_000;

/// Size of a pointer: only 64-bit kernels run the programs.
const POINTER: u32 = 8;

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedMember {
    /// From the start of the structure that was asked about, bytes.
    pub offset_bytes: u32,
    /// Its size, bytes; of an array: all of it.
    pub size: u32,
}

/// Why there is no offset for a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no structure or union of this name.
    #[error("this kernel's BTF has no struct {0}")]
    NoStructure(String),
    /// The structure has no such member (its path, with dots), nor one of its anonymous parts.
    #[error("struct {0} of this kernel has no member {1}")]
    NoMember(String, String),
    /// The path goes on behind this one, which has no members.
    #[error("{1} of struct {0} has no members")]
    NoStruct(String, String),
    /// A bitfield has no address.
    #[error("{1} of struct {0} is a bitfield")]
    Bitfield(String, String),
    /// Types that refer to nothing, to each other, or are too large; up to where it makes sense.
    #[error("the BTF of struct {0} makes no sense at {1}")]
    Malformed(String, String),
}

/// A structure that was found by its name.
#[derive(Clone, Copy, Debug)]
pub struct NamedStructure<'a> {
    btf: &'a Btf<'a>,
    name: &'a str,
    found: Type<'a>,
}

impl NamedStructure<'_> {
    /// As [`Btf::member`].
    ///
    /// # Errors
    /// As there, but for the structure.
    pub fn member(&self, path: &[&str]) -> Result<NamedMember, MemberError> {
        self.btf.member_of(self.found, self.name, path)
    }
}

/// What went wrong, before it is known of which structure and member.
type LayoutFailure = fn(String, String) -> MemberError;
const MALFORMED: LayoutFailure = MemberError::Malformed;

impl Btf<'_> {
    /// Where the member `path` of `structure` is, through anonymous structures and unions, type
    /// definitions, modifiers and (first elements of) arrays.
    ///
    /// For a split BTF the structure is looked up in the base first: modules of newer kernels
    /// carry copies. The first structure with that name is taken.
    ///
    /// # Errors
    /// When the structure or the member is not there, or the member is a bitfield.
    pub fn member(&self, structure: &str, path: &[&str]) -> Result<NamedMember, MemberError> {
        self.named_structure(structure)?.member(path)
    }

    /// The structure itself: to ask for several members looks for it once.
    ///
    /// # Errors
    /// When it is not there.
    pub fn named_structure<'s>(&'s self, name: &'s str) -> Result<NamedStructure<'s>, MemberError> {
        let found = self.structure(name);
        let found = found.ok_or_else(|| MemberError::NoStructure(name.to_owned()))?;
        Ok(NamedStructure {
            btf: self,
            name,
            found,
        })
    }

    fn member_of(
        &self,
        found: Type<'_>,
        structure: &str,
        path: &[&str],
    ) -> Result<NamedMember, MemberError> {
        let mut budget = MEMBERS;
        let mut member = NamedMember {
            offset_bytes: 0,
            size: found.size(),
        };
        let mut at = found;
        for (step, name) in path.iter().enumerate() {
            let so_far = &path[..=step];
            let explain = |failure: LayoutFailure| failure(structure.to_owned(), so_far.join("."));
            let target;
            (member, target) = self.step(at, member, name, &mut budget).map_err(explain)?;
            if so_far.len() < path.len() {
                at = self
                    .innermost(target)
                    .filter(|inner| matches!(inner.kind(), BtfKind::Struct | BtfKind::Union))
                    .ok_or_else(|| explain(MemberError::NoStruct))?;
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
            .or_else(|| self.find(&[BtfKind::Struct, BtfKind::Union], name))
    }

    fn step(
        &self,
        at: Type<'_>,
        before: NamedMember,
        name: &str,
        budget: &mut u32,
    ) -> Result<(NamedMember, u32), LayoutFailure> {
        let found = self
            .search(at, name.as_bytes(), 0, budget)?
            .ok_or::<LayoutFailure>(MemberError::NoMember)?;
        let size = self.size(found.target, 0).ok_or(MALFORMED)?;
        // Before the kind flag existed, a bitfield was an integer of fewer bits than its size.
        let narrow = self
            .unmodified(found.target)
            .and_then(|target| target.integer_bits())
            .is_some_and(|bits| bits != size.saturating_mul(8));
        if found.bitfield != 0 || !found.bits.is_multiple_of(8) || narrow {
            return Err(MemberError::Bitfield);
        }
        let offset_bytes = before
            .offset_bytes
            .checked_add(found.bits / 8)
            .ok_or(MALFORMED)?;
        Ok((NamedMember { offset_bytes, size }, found.target))
    }

    /// Looks for a member by name, in anonymous members too.
    fn search(
        &self,
        at: Type<'_>,
        name: &[u8],
        depth: u32,
        budget: &mut u32,
    ) -> Result<Option<Item>, LayoutFailure> {
        if depth > DEPTH {
            return Err(MALFORMED);
        }
        for item in at.members() {
            *budget = budget.checked_sub(1).ok_or(MALFORMED)?;
            if item.name_offset != 0 {
                if self.is_named(item.name_offset, name) {
                    return Ok(Some(item));
                }
                continue;
            }
            // An unnamed member that is no structure is padding.
            let Some(inner) = self
                .unmodified(item.target)
                .filter(|inner| matches!(inner.kind(), BtfKind::Struct | BtfKind::Union))
            else {
                continue;
            };
            if let Some(mut found) = self.search(inner, name, depth + 1, budget)? {
                found.bits = found.bits.checked_add(item.bits).ok_or(MALFORMED)?;
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
                BtfKind::Typedef
                | BtfKind::Volatile
                | BtfKind::Const
                | BtfKind::Restrict
                | BtfKind::TypeTag => {
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
            BtfKind::Ptr => Some(POINTER),
            BtfKind::Int
            | BtfKind::Struct
            | BtfKind::Union
            | BtfKind::Enum
            | BtfKind::Enum64
            | BtfKind::Float => Some(found.size()),
            BtfKind::Array => {
                let (element, count) = found.array()?;
                self.size(element, depth + 1)?.checked_mul(count)
            }
            _ => None,
        }
    }
}
