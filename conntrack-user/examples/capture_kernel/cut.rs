//! Cuts BTF down to some types and what they hold by value. What they only point to becomes
//! `void *` unless it is kept anyway.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use conntrack_user::kernel::btf::{Btf, BtfKind, Type};

const TYPE: usize = 12;

/// The ids of `roots` and of all types that they hold by value, in `btf` and its base.
pub(crate) fn needed(btf: &Btf<'_>, roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<u32> = roots.iter().copied().collect();
    while let Some(id) = open.pop() {
        let Some(found) = btf.by_id(id) else { continue };
        if needed.insert(id) && found.kind() != BtfKind::Ptr {
            open.extend(
                references(&found)
                    .into_iter()
                    .map(|at| word(found.record(), at)),
            );
        }
    }
    needed
}

/// Where in the record of a type the ids of other types are.
fn references(found: &Type<'_>) -> Vec<usize> {
    let items =
        |step: usize| (0..found.item_count() as usize).map(move |item| TYPE + item * step + 4);
    match found.kind() {
        BtfKind::Struct | BtfKind::Union | BtfKind::Datasec => items(12)
            .map(|at| {
                if found.kind() == BtfKind::Datasec {
                    at - 4
                } else {
                    at
                }
            })
            .collect(),
        BtfKind::Array => vec![TYPE, TYPE + 4],
        BtfKind::FuncProto => [8].into_iter().chain(items(8)).collect(),
        BtfKind::Int | BtfKind::Enum | BtfKind::Enum64 | BtfKind::Float | BtfKind::Fwd => {
            Vec::new()
        }
        _ => vec![8],
    }
}

/// Where in the record of a type the offsets of names are.
fn names(found: &Type<'_>) -> Vec<usize> {
    let step = match found.kind() {
        BtfKind::Struct | BtfKind::Union | BtfKind::Enum64 => 12,
        BtfKind::Enum | BtfKind::FuncProto => 8,
        _ => 0,
    };
    let items = (0..if step == 0 {
        0
    } else {
        found.item_count() as usize
    })
        .map(|item| TYPE + item * step);
    [0].into_iter().chain(items).collect()
}

fn word(record: &[u8], at: usize) -> u32 {
    record
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |four| u32::from_ne_bytes(*four))
}

/// The new ids and strings: first those of vmlinux, then those of a module.
pub(crate) struct Cut {
    ids: BTreeMap<u32, u32>,
    strings: BTreeMap<Vec<u8>, u32>,
    next_id: u32,
    next_string: u32,
}

impl Cut {
    pub(crate) fn new() -> Self {
        Self {
            ids: BTreeMap::new(),
            strings: BTreeMap::new(),
            next_id: 1,
            next_string: 0,
        }
    }

    /// The BTF of those of `needed` that `btf` itself holds.
    pub(crate) fn section(
        &mut self,
        btf: &Btf<'_>,
        needed: &BTreeSet<u32>,
    ) -> anyhow::Result<Vec<u8>> {
        let own: Vec<Type<'_>> = needed
            .range(btf.first_id()..)
            .filter_map(|id| btf.by_id(*id))
            .collect();
        for found in &own {
            self.ids.insert(found.id(), self.next_id);
            self.next_id += 1;
        }
        let mut strings = Vec::new();
        self.string(b"", &mut strings);
        let mut types = Vec::new();
        for found in &own {
            let mut record = found.record().to_vec();
            for at in names(found) {
                let name = btf
                    .string(word(&record, at))
                    .context("a name beyond the strings")?;
                let offset = self.string(name, &mut strings);
                record[at..at + 4].copy_from_slice(&offset.to_ne_bytes());
            }
            for at in references(found) {
                let id = self.reference(btf, word(&record, at));
                record[at..at + 4].copy_from_slice(&id.to_ne_bytes());
            }
            types.extend(record);
        }
        let (type_length, string_length) =
            (u32::try_from(types.len())?, u32::try_from(strings.len())?);
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        for field in [24, 0, type_length, type_length, string_length] {
            bytes.extend(u32::to_ne_bytes(field));
        }
        bytes.extend(types);
        bytes.extend(strings);
        Ok(bytes)
    }

    fn string(&mut self, text: &[u8], strings: &mut Vec<u8>) -> u32 {
        if let Some(offset) = self.strings.get(text) {
            return *offset;
        }
        let offset = self.next_string;
        strings.extend(text);
        strings.push(0);
        self.next_string += u32::try_from(text.len()).unwrap_or_default() + 1;
        self.strings.insert(text.to_vec(), offset);
        offset
    }

    /// The new id of a type; of one that is not kept, that behind its modifiers; else `void`.
    fn reference(&self, btf: &Btf<'_>, mut id: u32) -> u32 {
        for _ in 0..32 {
            if let Some(new) = self.ids.get(&id) {
                return *new;
            }
            match btf.by_id(id) {
                Some(found)
                    if matches!(
                        found.kind(),
                        BtfKind::Const
                            | BtfKind::Volatile
                            | BtfKind::Typedef
                            | BtfKind::Restrict
                            | BtfKind::TypeTag
                    ) =>
                {
                    id = found.target();
                }
                _ => return 0,
            }
        }
        0
    }
}
