//! One record of the type section: `struct btf_type` and what follows it.

use zerocopy::TryFromBytes;

use super::BtfError;

/// Length of `struct btf_type`, bytes.
const FIXED: usize = 12;

/// What a type is (`BTF_KIND_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TryFromBytes)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the format")]
pub enum BtfKind {
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    Datasec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
    Enum64 = 19,
    /// Of a later kernel, whose file says how long its records are.
    Unknown = 0xff,
}

impl BtfKind {
    fn from_number(number: u8) -> Option<Self> {
        Self::try_read_from_bytes(&[number]).ok()
    }

    /// Bytes that follow `struct btf_type`: once, and for each item.
    const fn extra(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag
            | Self::Unknown => (0, 0),
        }
    }
}

/// The four bytes at `at`, in this machine's byte order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_ne_bytes(*four))
}

/// The section of types, and what the file says of the length of their records (`struct btf_layout`, kernels of 2026
/// and later): by kind two bytes, how many follow `struct btf_type` once and for each item, and two of flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records<'a> {
    pub(super) types: &'a [u8],
    pub(super) layout: &'a [u8],
}

impl<'a> Records<'a> {
    /// Kind and length of the record at `at`, bytes, which lies within the section as a whole.
    fn measure(&self, at: usize, id: u32) -> Result<(BtfKind, usize), BtfError> {
        let info = word(self.types, at + 4).ok_or(BtfError::Overrun { id })?;
        let number = kind_number(info);
        let known = BtfKind::from_number(number).map(|kind| (kind, kind.extra()));
        let (kind, (once, each)) = known
            .or_else(|| Some((BtfKind::Unknown, self.told(number)?)))
            .ok_or(BtfError::Kind { id, kind: number })?;
        let length = FIXED + once + each * item_count(info) as usize;
        if self.types.len() - at < length {
            return Err(BtfError::Overrun { id });
        }
        Ok((kind, length))
    }

    /// What the file says of a kind that is not known here.
    fn told(&self, number: u8) -> Option<(usize, usize)> {
        let told = self.layout.chunks_exact(4).nth(usize::from(number))?;
        // 0 is no kind.
        (number > 0).then(|| (usize::from(told[0]), usize::from(told[1])))
    }

    pub(super) fn length(&self, at: usize, id: u32) -> Result<usize, BtfError> {
        self.measure(at, id).map(|(_, length)| length)
    }

    pub(super) fn at(&self, at: usize, id: u32) -> Option<Type<'a>> {
        let (kind, length) = self.measure(at, id).ok()?;
        let record = self.types.get(at..at + length)?;
        Some(Type { id, kind, record })
    }
}

/// Seven bits; five of them were used before 2026, the others were 0.
const fn kind_number(info: u32) -> u8 {
    (info >> 24) as u8 & 0x7f
}

/// 24 bits; 16 of them were used before 2026.
const fn item_count(info: u32) -> u32 {
    info & 0x00ff_ffff
}

/// One type of the kernel, with its name and members.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    id: u32,
    kind: BtfKind,
    /// The record as a whole.
    record: &'a [u8],
}

/// One member of a structure or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Offset of its name in the strings.
    pub name_offset: u32,
    /// Id of its type.
    pub target: u32,
    /// Where it begins, bits from the start of the structure.
    pub bits: u32,
    /// Its width in bits when it is a bitfield, else 0.
    pub bitfield: u8,
}

impl<'a> Type<'a> {
    fn word(&self, at: usize) -> u32 {
        word(self.record, at).unwrap_or_default()
    }

    pub(super) fn length(&self) -> usize {
        self.record.len()
    }

    /// The record: `struct btf_type` and what follows it.
    pub fn record(&self) -> &'a [u8] {
        self.record
    }

    /// Its number in this BTF, base included.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What kind of type it is.
    pub fn kind(&self) -> BtfKind {
        self.kind
    }

    /// Offset of its name in the strings; 0 is the empty name.
    pub fn name_offset(&self) -> u32 {
        self.word(0)
    }

    /// How many members, parameters or values it has.
    pub fn item_count(&self) -> u32 {
        item_count(self.word(4))
    }

    /// The type that it refers to (pointers, modifiers, functions), by id.
    pub fn target(&self) -> u32 {
        self.word(8)
    }

    /// Its size in bytes (integers, structures, unions, enumerations, floats).
    pub fn size(&self) -> u32 {
        self.word(8)
    }

    /// Type of the elements and their number, if it is an array.
    pub fn array(&self) -> Option<(u32, u32)> {
        (self.kind == BtfKind::Array).then(|| (self.word(FIXED), self.word(FIXED + 8)))
    }

    /// Width in bits, if it is an integer.
    pub fn integer_bits(&self) -> Option<u32> {
        (self.kind == BtfKind::Int).then(|| self.word(FIXED) & 0xff)
    }

    /// The members, if it is a structure or union.
    pub fn members(&self) -> impl Iterator<Item = Item> + 'a {
        let fields = matches!(self.kind, BtfKind::Struct | BtfKind::Union);
        let packed = self.word(4) >> 31 == 1;
        let rest = if fields { &self.record[FIXED..] } else { &[] };
        rest.chunks_exact(12).map(move |member| {
            let part = |at| word(member, at).unwrap_or_default();
            let raw = part(8);
            // With the kind flag the top byte is the width of a bitfield.
            let (bits, bitfield) = if packed {
                (raw & 0x00ff_ffff, raw.to_be_bytes()[0])
            } else {
                (raw, 0)
            };
            Item {
                name_offset: part(0),
                target: part(4),
                bits,
                bitfield,
            }
        })
    }
}
