//! A producer for the benchmark of the ring reader: real records through a real ring buffer, on
//! any kernel that loads socket filters.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use conntrack_ebpf::owner;

use super::{AttachError, RingReader, globals::ring_size, object, tags::TagRoom};
use crate::sys::bpf;

const PROGRAM: &str = "ring_fill";

/// Fills a ring buffer of its own.
#[derive(Debug)]
pub struct RingFiller {
    program: OwnedFd,
}

impl RingFiller {
    /// Makes a ring of so many bytes and its two ends.
    ///
    /// # Errors
    /// If the kernel refuses the maps or the program.
    pub fn new(ring_bytes: u32) -> Result<(Self, RingReader), AttachError> {
        let (programs, maps) = object::open(
            &[],
            ring_size(ring_bytes),
            owner::FIRST,
            TagRoom::LEAST,
            0,
            None,
        )?;
        let (code, license) = programs.code(PROGRAM)?;
        let program = bpf::load_program(PROGRAM, bpf::ProgramKind::SocketFilter, code, license)
            .map_err(|error| AttachError::NotPermitted {
                what: format!("load the program {PROGRAM} ({})", error.log),
                error: error.error,
            })?;
        Ok((Self { program }, RingReader::new(maps.ring, maps.state)))
    }

    /// Writes insert records until the ring is full.
    ///
    /// # Errors
    /// If the kernel can't run the program.
    pub fn fill(&self) -> io::Result<()> {
        // 64 records a run: more than the largest ring holds.
        bpf::run_program(self.program.as_fd(), 1 << 12)
    }
}
