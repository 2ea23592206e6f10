//! All entries of the tables, wherever they are best had from: copied by a program that walks over the kernel's hash table
//! (`hash`), or from ctnetlink ([`crate::kernel::entries`]), which every kernel has and which costs much more, and for each
//! network namespace again.

mod copied;
mod decode;
mod error;
mod hash;
mod hertz;
mod program;
mod source;
mod symbol_program;
mod symbols;
mod tables;

pub(crate) use error::NoHashWalk;
pub(crate) use source::CensusSource;
pub(crate) use tables::{EntryCounter, TableWalker, WalkSource};
