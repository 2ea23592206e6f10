//! Records read back from bytes, in user space.

use zerocopy::FromBytes;

use super::{DropRecord, EvictionRecord, Header, InsertRecord, Kind, VERSION};

/// A record read back from bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// An entry entered a table.
    Insert(InsertRecord),
    /// A packet was lost because of conntrack.
    Drop(DropRecord),
    /// An entry was removed to make room.
    Eviction(EvictionRecord),
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The length does not fit the kind (or is shorter than a header).
    Length(usize),
    /// Written by another version.
    Version(u8),
    /// There is no kind of that number.
    Kind(u8),
}

impl View {
    /// Reads one record. Any bytes give a value or a [`Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let length = || Malformed::Length(bytes.len());
        if bytes.len() < size_of::<Header>() {
            return Err(length());
        }
        if bytes[0] != VERSION {
            return Err(Malformed::Version(bytes[0]));
        }
        match bytes[1] {
            kind if kind == Kind::Insert as u8 => InsertRecord::read_from_bytes(bytes)
                .map(Self::Insert)
                .map_err(|_| length()),
            kind if kind == Kind::Drop as u8 => DropRecord::read_from_bytes(bytes)
                .map(Self::Drop)
                .map_err(|_| length()),
            kind if kind == Kind::Eviction as u8 => EvictionRecord::read_from_bytes(bytes)
                .map(Self::Eviction)
                .map_err(|_| length()),
            other => Err(Malformed::Kind(other)),
        }
    }

    /// The header of whichever record it is.
    pub const fn header(&self) -> &Header {
        match self {
            Self::Insert(record) => &record.header,
            Self::Drop(record) => &record.header,
            Self::Eviction(record) => &record.header,
        }
    }
}
