//! Addresses of the kernel's variables, asked of the kernel itself: a program may look up a symbol (`bpf_kallsyms_lookup_name`, 5.16 and later),
//! while `/proc/kallsyms` is written line by line, a hundred thousand of them. The program is made here, since aya knows no such kind.

use std::{io, os::fd::AsFd as _};

use aya_obj::generated::bpf_insn;

use crate::sys::bpf::{self, ProgramKind};

// Instructions (include/uapi/linux/bpf.h).
/// `BPF_LD | BPF_IMM | BPF_DW`
const LOAD_WORD: u8 = 0x18;
/// `BPF_LDX | BPF_MEM | BPF_DW`
const LOAD: u8 = 0x79;
/// `BPF_STX | BPF_MEM | BPF_DW`
const STORE: u8 = 0x7b;
/// `BPF_ST | BPF_MEM | BPF_DW`
const STORE_NUMBER: u8 = 0x7a;
/// `BPF_ALU64 | BPF_MOV`, of a register and of a number.
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
/// `BPF_ALU64 | BPF_ADD | BPF_K`
const ADD_NUMBER: u8 = 0x07;
/// `BPF_JMP | BPF_CALL`, `BPF_JMP | BPF_EXIT`
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_FUNC_kallsyms_lookup_name`
const LOOK_UP: i32 = 179;
/// The register that points behind the stack.
const STACK: u8 = 10;
/// Words of the longest name, with its closing zero.
const WORDS: usize = 8;

/// The address of a symbol, of the kernel or of any module.
///
/// # Errors
/// If this kernel has no such program, or it may not be asked; `NotFound` if there is no such symbol.
pub(super) fn look_up(name: &str) -> io::Result<u64> {
    let code = code(name).ok_or(io::ErrorKind::InvalidInput)?;
    let program = bpf::load_program("look_up", ProgramKind::Syscall, &code, c"GPL");
    let program = program.map_err(|error| error.error)?;
    let mut address = [0; 8];
    let returned = bpf::run_with(program.as_fd(), &mut address)?;
    match returned.cast_signed() {
        0 => Ok(u64::from_ne_bytes(address)),
        refused => Err(io::Error::from_raw_os_error(-refused)),
    }
}

fn instruction(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
    }
}

/// Looks up this name and writes the address to where its argument points.
fn code(name: &str) -> Option<Vec<bpf_insn>> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    let length = i32::try_from(bytes.len()).ok()?;
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let words = bytes.len() / 8;
    if words > WORDS {
        return None;
    }
    let name_at = -i16::try_from(bytes.len()).ok()?;
    let result_at = name_at - 8;
    let mut code = vec![
        instruction(MOVE, 6, 1, 0, 0),
        instruction(STORE_NUMBER, STACK, 0, result_at, 0),
    ];
    for (at, word) in (name_at..).step_by(8).zip(bytes.chunks_exact(8)) {
        let [low, high] = [&word[..4], &word[4..]].map(|half| half.first_chunk().copied());
        code.extend([
            instruction(LOAD_WORD, 1, 0, 0, i32::from_ne_bytes(low?)),
            instruction(0, 0, 0, 0, i32::from_ne_bytes(high?)),
            instruction(STORE, STACK, 1, at, 0),
        ]);
    }
    code.extend([
        instruction(MOVE, 1, STACK, 0, 0),
        instruction(ADD_NUMBER, 1, 0, 0, name_at.into()),
        instruction(MOVE_NUMBER, 2, 0, 0, length),
        instruction(MOVE_NUMBER, 3, 0, 0, 0),
        instruction(MOVE, 4, STACK, 0, 0),
        instruction(ADD_NUMBER, 4, 0, 0, result_at.into()),
        instruction(CALL, 0, 0, 0, LOOK_UP),
        instruction(LOAD, 1, STACK, result_at, 0),
        instruction(STORE, 6, 1, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_on_the_stack_with_its_zero() {
        let code = code("nf_conntrack_hash").unwrap();
        let loads: Vec<u8> = code
            .windows(2)
            .filter(|two| two[0].code == LOAD_WORD)
            .flat_map(|two| [two[0].imm.to_ne_bytes(), two[1].imm.to_ne_bytes()].concat())
            .collect();
        assert_eq!(loads, b"nf_conntrack_hash\0\0\0\0\0\0\0");
        let length = code.iter().find(|one| one.code == MOVE_NUMBER).unwrap();
        assert_eq!((length.dst_reg(), length.imm), (2, 18));
        assert!(super::code(&"x".repeat(64)).is_none(), "too long");
    }
}
