//! Where members are in the kernel's structures: a walker over raw BTF
//! (`Documentation/bpf/btf.rst`).
//!
//! A kernel describes its types in `/sys/kernel/btf/vmlinux` (about 5 MB, more than 120,000 types)
//! and those of a module in `/sys/kernel/btf/MODULE`, whose type ids and string offsets go on where
//! those of vmlinux end ("split" BTF). Nothing is allocated for a type: one pass checks that every
//! record lies within the file and notes the offset of one type in 64, so that a type can be found
//! by its id. Bytes that are no valid BTF give an error or a miss, never a panic or a loop.
//!
//! A kind that is not known is passed over where the file says how long its records are. Where it does not, what comes
//! behind can't be found: the types before it are read, and [`Btf::gap`] says that there are more.

use std::ops::ControlFlow;

mod layout;
mod records;
#[cfg(test)]
mod tests;

pub use layout::{MemberError, NamedMember, NamedStructure};
use records::Records;
pub use records::{BtfKind, Type};

/// Length of the header that every version of the format begins with, bytes.
const HEADER: usize = 24;

/// Length of a header that also says where the lengths of records are.
const LONG_HEADER: u64 = 32;

/// One type in this many has its offset noted.
const STRIDE: u32 = 64;

/// Why bytes are not BTF that this walker can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Fewer bytes than the header says.
    #[error("BTF is cut off: {need} bytes are needed, {have} are there")]
    CutOff {
        /// Bytes that the header asks for.
        need: u64,
        /// How many bytes there are.
        have: u64,
    },
    /// The first two bytes are not those of BTF.
    #[error("not BTF: the magic number is {0:#06x}, not 0xeb9f")]
    Magic(u16),
    /// BTF of a machine with the other byte order.
    #[error("BTF of a machine with the other byte order")]
    ByteOrder,
    /// A version of the format that is not known.
    #[error("BTF version {0} is not known, only 1 is")]
    Version(u8),
    /// A kind of type whose length is not known, so that what follows can't be found. An error of a split BTF whose base
    /// has such a type: where its own ids begin is not known then.
    #[error("BTF type {id} is of kind {kind}, which is not known")]
    Kind {
        /// Id of the type.
        id: u32,
        /// The number of its kind.
        kind: u8,
    },
    /// A type that reaches beyond the end of the types.
    #[error("BTF type {id} reaches beyond the end of the types")]
    Overrun {
        /// Id of the type.
        id: u32,
    },
}

/// The types of vmlinux or of a module.
#[derive(Clone, Debug)]
pub struct Btf<'a> {
    records: Records<'a>,
    strings: &'a [u8],
    base: Option<&'a Btf<'a>>,
    first_id: u32,
    end_id: u32,
    first_string: u32,
    /// Offset of the types `first_id + 1 * STRIDE`, `first_id + 2 * STRIDE`, ...
    marks: Vec<u32>,
    /// What keeps the types from being read to their end.
    gap: Option<BtfError>,
}

impl<'a> Btf<'a> {
    /// BTF of vmlinux, which stands alone, or of a module, which goes on where `base` (vmlinux) ends.
    ///
    /// # Errors
    /// When the bytes are no BTF or are cut off, or the types of `base` could not be read to their end.
    pub fn parse(bytes: &'a [u8], base: Option<&'a Btf<'a>>) -> Result<Self, BtfError> {
        let cut_off = |need: u64| BtfError::CutOff {
            need,
            have: bytes.len() as u64,
        };
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(cut_off(HEADER as u64))?;
        let magic = u16::from_ne_bytes([header[0], header[1]]);
        if magic == 0xeb9f_u16.swap_bytes() {
            return Err(BtfError::ByteOrder);
        }
        if magic != 0xeb9f {
            return Err(BtfError::Magic(magic));
        }
        if header[2] != 1 {
            return Err(BtfError::Version(header[2]));
        }
        let field = |at: usize| u64::from(records::word(header, at).unwrap_or_default());
        let section = |offset: u64, length: u64| {
            let begin = field(4) + offset;
            let end = begin + length;
            usize::try_from(begin)
                .ok()
                .zip(usize::try_from(end).ok())
                .and_then(|(begin, end)| bytes.get(begin..end))
                .ok_or(cut_off(end))
        };
        if let Some(gap) = base.and_then(Btf::gap) {
            return Err(gap);
        }
        let layout = if field(4) >= LONG_HEADER {
            let at = |at| u64::from(records::word(bytes, at).unwrap_or_default());
            section(at(24), at(28))?
        } else {
            &[]
        };
        let mut btf = Self {
            records: Records {
                types: section(field(8), field(12))?,
                layout,
            },
            strings: section(field(16), field(20))?,
            base,
            first_id: base.map_or(1, |base| base.end_id),
            end_id: 0,
            first_string: base.map_or(0, Btf::end_of_strings),
            marks: Vec::new(),
            gap: None,
        };
        btf.check()?;
        Ok(btf)
    }

    /// The one pass over all types: counts them and notes where one in [`STRIDE`] is.
    fn check(&mut self) -> Result<(), BtfError> {
        let (mut at, mut id) = (0, self.first_id);
        while at < self.records.types.len() {
            if id != self.first_id && (id - self.first_id).is_multiple_of(STRIDE) {
                self.marks
                    .push(u32::try_from(at).map_err(|_| BtfError::Overrun { id })?);
            }
            at += match self.records.length(at, id) {
                Ok(length) => length,
                Err(gap @ BtfError::Kind { .. }) => {
                    self.gap = Some(gap);
                    break;
                }
                Err(error) => return Err(error),
            };
            id = id.checked_add(1).ok_or(BtfError::Overrun { id })?;
        }
        self.end_id = id;
        self.marks.shrink_to_fit();
        Ok(())
    }

    /// Why there are more types than can be read, if there are: those from there on are not found.
    pub fn gap(&self) -> Option<BtfError> {
        self.gap
    }

    fn end_of_strings(&self) -> u32 {
        self.first_string
            .saturating_add(u32::try_from(self.strings.len()).unwrap_or(u32::MAX))
    }

    /// One more than the highest type id. Ids begin at 1 (0 is `void`); those of a split BTF at
    /// the `type_count` of its base.
    pub fn type_count(&self) -> u32 {
        self.end_id
    }

    /// The id of the first type that this BTF itself holds.
    pub fn first_id(&self) -> u32 {
        self.first_id
    }

    /// The type `id` of this BTF or its base; `None` for 0 (`void`) and ids that don't exist.
    pub fn by_id(&self, id: u32) -> Option<Type<'a>> {
        if id < self.first_id {
            return self.base?.by_id(id);
        }
        if id >= self.end_id {
            return None;
        }
        let index = id - self.first_id;
        let mark = (index / STRIDE) as usize;
        let mut at = if mark == 0 {
            0
        } else {
            *self.marks.get(mark - 1)? as usize
        };
        for skipped in 0..index % STRIDE {
            at += self.records.length(at, skipped).ok()?;
        }
        self.records.at(at, id)
    }

    /// Calls `visit` with each type that this BTF itself holds (not its base), in order of id,
    /// until it breaks.
    pub fn each_type<B>(&self, mut visit: impl FnMut(Type<'a>) -> ControlFlow<B>) -> Option<B> {
        let (mut at, mut id) = (0, self.first_id);
        while let Some(found) = self.records.at(at, id) {
            at += found.length();
            id += 1;
            if let ControlFlow::Break(value) = visit(found) {
                return Some(value);
            }
        }
        None
    }

    /// The string at `offset`, without its closing zero; `None` if there is no such string.
    pub fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.string_to_end(offset)?;
        rest.iter()
            .position(|byte| *byte == 0)
            .map(|end| &rest[..end])
    }

    fn string_to_end(&self, offset: u32) -> Option<&'a [u8]> {
        match offset.checked_sub(self.first_string) {
            Some(own) => self.strings.get(own as usize..),
            None => self.base?.string_to_end(offset),
        }
    }

    /// Whether the string at `offset` is `name`.
    fn is_named(&self, offset: u32, name: &[u8]) -> bool {
        self.string_to_end(offset).is_some_and(|rest| {
            rest.get(..name.len()) == Some(name) && rest.get(name.len()) == Some(&0)
        })
    }

    /// The first type of this BTF itself (not of its base) with that name, of one of those kinds.
    pub fn find(&self, kinds: &[BtfKind], name: &str) -> Option<Type<'a>> {
        self.each_type(|found| {
            if kinds.contains(&found.kind()) && self.is_named(found.name_offset(), name.as_bytes())
            {
                ControlFlow::Break(found)
            } else {
                ControlFlow::Continue(())
            }
        })
    }

    /// The id of the function `name` (kind FUNC); for a split BTF only among its own types.
    ///
    /// A function can be here and yet have another symbol (`init_conntrack.isra.0`): to attach to
    /// it by this id, its symbol must be in `crate::kernel::kallsyms` too.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.find(&[BtfKind::Func], name).map(|found| found.id())
    }

    /// How many parameters the function with this id has; `None` if it is no function.
    pub fn function_params(&self, id: u32) -> Option<u32> {
        let function = self
            .by_id(id)
            .filter(|found| found.kind() == BtfKind::Func)?;
        let prototype = self.by_id(function.target())?;
        (prototype.kind() == BtfKind::FuncProto).then(|| prototype.item_count())
    }
}
