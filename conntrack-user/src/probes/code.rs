//! What is put into the programs' code before it is loaded.

use aya_obj::generated::bpf_insn;
use conntrack_ebpf::global::{ADDRESSES_VALUE, PREEMPT_VARIABLE, TAG_GROUPS_VALUE};

// Instructions (include/uapi/linux/bpf.h).

/// `BPF_LD | BPF_IMM | BPF_DW`: a word of 64 bits, in two instructions.
const LOAD_WORD: u8 = 0x18;
/// `BPF_LDX | BPF_MEM | BPF_W`: 32 bits from an address in a register.
const LOAD_32_BITS: u8 = 0x61;
/// `BPF_JMP | BPF_JA`: a jump, by nothing if its offset is 0; the kernel takes such ones out.
const JUMP: u8 = 0x05;
/// `BPF_JMP32 | BPF_JA`: a jump whose distance is in `imm`.
const LONG_JUMP: u8 = 0x06;
/// `BPF_STX | BPF_ATOMIC | BPF_DW` with `BPF_CMPXCHG`, which is in `imm`: compares a word with r0 and exchanges it.
pub(super) const EXCHANGE: (u8, i32) = (0xdb, 0xf1);
/// What sets a register whatever it was: a word, and numbers of 64 and of 32 bits.
const SETS: [u8; 3] = [LOAD_WORD, 0xb7, 0xb4];
/// The classes of all jumps, calls and exits, and the bits in which calls and exits differ.
const CLASS: u8 = 0x07;
const JUMPS: [u8; 2] = [0x05, 0x06];
const OPERATION: u8 = 0xf0;
const CALL_AND_EXIT: [u8; 2] = [0x80, 0x90];
/// The word is the address in the value of the map with this descriptor.
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
/// The word is the address of what has this BTF id.
const BPF_PSEUDO_BTF_ID: u8 = 3;

/// Puts in the address of the kernel's variable with this BTF id (a variable of each CPU) for [`PREEMPT_VARIABLE`].
pub(super) fn put_in_variable(code: &mut [bpf_insn], id: u32) {
    // The id is one of vmlinux.
    put_in(code, PREEMPT_VARIABLE, BPF_PSEUDO_BTF_ID, id.cast_signed());
}

/// Puts in the address of the only element of the map with this descriptor for [`ADDRESSES_VALUE`].
pub(super) fn put_in_addresses(code: &mut [bpf_insn], map: i32) {
    put_in(code, ADDRESSES_VALUE, BPF_PSEUDO_MAP_VALUE, map);
}

/// Likewise for [`TAG_GROUPS_VALUE`].
pub(super) fn put_in_tag_groups(code: &mut [bpf_insn], map: i32) {
    put_in(code, TAG_GROUPS_VALUE, BPF_PSEUDO_MAP_VALUE, map);
}

/// Takes out what a kernel refuses that has no compare-and-exchange, even where no program gets to.
pub(super) fn take_out_exchanges(code: &mut [bpf_insn]) {
    for one in code {
        if (one.code, one.imm) == EXCHANGE {
            (one.code, one.off, one.imm) = (JUMP, 0, 0);
            one.set_dst_reg(0);
            one.set_src_reg(0);
        }
    }
}

/// Makes each `word` of the code the address of what has this number.
fn put_in(code: &mut [bpf_insn], word: u64, of_kind: u8, number: i32) {
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    let halves = (
        (word as u32).cast_signed(),
        ((word >> 32) as u32).cast_signed(),
    );
    for at in 1..code.len() {
        let [first, second] = &mut code[at - 1..=at] else {
            continue;
        };
        let is_load = first.code == LOAD_WORD && first.src_reg() == 0;
        if is_load && (first.imm, second.imm) == halves {
            first.set_src_reg(of_kind);
            (first.imm, second.imm) = (number, 0);
        }
    }
}

/// Puts in the values of read-only globals, where the code loads their address and then what is there, and does not use the address any
/// more: the kernel knows the values too, but leaves the two loads. `map` has these `bytes`.
pub(super) fn put_in_constants(code: &mut [bpf_insn], map: i32, bytes: &[u8]) {
    let targets = jump_targets(code);
    for at in 2..code.len() {
        if targets.get(at).copied().unwrap_or(true) {
            continue;
        }
        let next = code.get(at + 1).copied();
        let [first, second, load] = &mut code[at - 2..=at] else {
            continue;
        };
        let is_address =
            first.code == LOAD_WORD && first.src_reg() == BPF_PSEUDO_MAP_VALUE && first.imm == map;
        let register = first.dst_reg();
        let is_over = |next: bpf_insn| SETS.contains(&next.code) && next.dst_reg() == register;
        let is_read = load.code == LOAD_32_BITS
            && load.src_reg() == register
            && (load.dst_reg() == register || next.is_some_and(is_over));
        if !is_address || !is_read {
            continue;
        }
        let value = usize::try_from(second.imm + i32::from(load.off))
            .ok()
            .and_then(|offset| bytes.get(offset..)?.first_chunk())
            .map(|value| i32::from_ne_bytes(*value));
        let Some(value) = value else { continue };
        first.set_src_reg(0);
        first.set_dst_reg(load.dst_reg());
        first.imm = value;
        // The word's upper half.
        second.imm = 0;
        (load.code, load.off, load.imm) = (JUMP, 0, 0);
        load.set_dst_reg(0);
        load.set_src_reg(0);
    }
}

/// Which instructions something jumps to.
fn jump_targets(code: &[bpf_insn]) -> Vec<bool> {
    let mut targets = vec![false; code.len()];
    for (at, instruction) in code.iter().enumerate() {
        let operation = instruction.code & OPERATION;
        if !JUMPS.contains(&(instruction.code & CLASS)) || CALL_AND_EXIT.contains(&operation) {
            continue;
        }
        let distance = if instruction.code == LONG_JUMP {
            i64::from(instruction.imm)
        } else {
            i64::from(instruction.off)
        };
        let target = isize::try_from(distance)
            .ok()
            .and_then(|distance| (at + 1).checked_add_signed(distance));
        if let Some(target) = target.and_then(|target| targets.get_mut(target)) {
            *target = true;
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, registers: (u8, u8), off: i16, imm: i32) -> bpf_insn {
        let mut made = bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
            off,
            imm,
        };
        made.set_dst_reg(registers.0);
        made.set_src_reg(registers.1);
        made
    }

    fn read_of_global(offset: i32, registers: (u8, u8)) -> [bpf_insn; 3] {
        [
            instruction(LOAD_WORD, (1, BPF_PSEUDO_MAP_VALUE), 0, 9),
            instruction(0, (0, 0), 0, offset),
            instruction(LOAD_32_BITS, registers, 0, 0),
        ]
    }

    fn numbers(code: &[bpf_insn]) -> Vec<(u8, u8, i32)> {
        code.iter()
            .map(|one| (one.code, one.src_reg(), one.imm))
            .collect()
    }

    #[test]
    fn a_global_that_is_read_becomes_a_constant() {
        let bytes: Vec<u8> = [7_u32, 0x7fff_ffff]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let mut code = read_of_global(4, (1, 1));
        put_in_constants(&mut code, 9, &bytes);
        assert_eq!(
            numbers(&code),
            [(LOAD_WORD, 0, 0x7fff_ffff), (0, 0, 0), (JUMP, 0, 0)]
        );
        // Into another register, if the address is not used any more.
        for (then, becomes) in [((0xb7, 1), true), ((0xb7, 2), false), ((0x0f, 1), false)] {
            let mut code = read_of_global(0, (2, 1)).to_vec();
            code.push(instruction(then.0, (then.1, 0), 0, 5));
            put_in_constants(&mut code, 9, &bytes);
            assert_eq!(code[2].code == JUMP, becomes, "{then:?}");
            assert_eq!(code[0].dst_reg(), if becomes { 2 } else { 1 });
        }
        for (offset, registers, map) in [(4, (2, 1), 9), (8, (1, 1), 9), (4, (1, 1), 8)] {
            let mut code = read_of_global(offset, registers);
            let before = numbers(&code);
            put_in_constants(&mut code, map, &bytes);
            assert_eq!(numbers(&code), before, "{offset} {registers:?} {map}");
        }
    }

    #[test]
    fn exchanges_are_taken_out_and_additions_stay() {
        const ADDITION: i32 = 0;
        let of = |operation| instruction(EXCHANGE.0, (2, 1), 8, operation);
        let mut code = [of(EXCHANGE.1), of(ADDITION)];
        take_out_exchanges(&mut code);
        assert_eq!(numbers(&code), [(JUMP, 0, 0), (EXCHANGE.0, 1, ADDITION)]);
        assert_eq!((code[0].off, code[0].dst_reg()), (0, 0));
    }

    #[test]
    fn a_read_that_something_else_jumps_to_stays() {
        let bytes = [0; 8];
        let mut code = [instruction(0x15, (2, 0), 2, 0)].to_vec();
        code.extend(read_of_global(4, (1, 1)));
        let before = numbers(&code);
        put_in_constants(&mut code, 9, &bytes);
        assert_eq!(numbers(&code), before);
        code[0].off = 0;
        put_in_constants(&mut code, 9, &bytes);
        assert_ne!(numbers(&code), before);
    }
}
