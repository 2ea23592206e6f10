//! The network namespace of the machine's first process, asked of the kernel by a program that reads its structures: for
//! where `/proc/1/ns/net` may not be read.
//!
//! From the calling thread: its process number (`struct pid`), the first of the process number namespaces that this is in
//! (`init_pid_ns`, which every process is in), the process that has number 1 there, and its network namespace. Nothing
//! of that can be changed by anybody. It takes `CAP_BPF` and `CAP_PERFMON`, no other process's leave, and Linux 5.10.

use std::fs;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use aya_obj::generated::bpf_insn;

use crate::kernel::Root;
use crate::kernel::btf::Btf;
use crate::sys::bpf::{self, ProgramKind};
use crate::sys::netns::Inode;

/// Each member is a pointer to the next structure, but for the last.
const PATH: [(&str, &[&str]); 6] = [
    ("task_struct", &["thread_pid"]),
    ("pid", &["numbers"]),
    ("pid_namespace", &["child_reaper"]),
    ("task_struct", &["nsproxy"]),
    ("nsproxy", &["net_ns"]),
    ("net", &["ns", "inum"]),
];

/// Which step goes on inside of an element of an array: to its pointer to the namespace.
const NUMBERS: usize = 1;
const NUMBER: (&str, &[&str]) = ("upid", &["ns"]);

/// Numbers of helpers (`include/uapi/linux/bpf.h`).
const GET_CURRENT_TASK: i32 = 35;
const PROBE_READ_KERNEL: i32 = 113;

/// Inode number of the network namespace that the machine's first process is in. Asked once: it does not change.
///
/// # Errors
/// Why the kernel can't be asked.
pub(super) fn network_namespace() -> Result<Inode, String> {
    static ANSWER: OnceLock<Result<Inode, String>> = OnceLock::new();
    ANSWER.get_or_init(ask).clone()
}

fn ask() -> Result<Inode, String> {
    let path = Root::system().sys("kernel/btf/vmlinux");
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let vmlinux =
        Btf::parse(&bytes, None).map_err(|error| format!("{}: {error}", path.display()))?;
    let code = program(&offsets(&vmlinux)?);
    let loaded = bpf::load_program("first_netns", ProgramKind::RawTracepoint, &code, c"GPL");
    let program = loaded.map_err(|error| format!("a program that tells it: {error}"))?;
    match bpf::run_once(program.as_fd()) {
        Ok(0) => Err("what the kernel's structures say of it makes no sense".to_owned()),
        Ok(inode) => Ok(inode),
        Err(error) => Err(format!("a program that tells it: {error}")),
    }
}

/// Where to read in the structures of [`PATH`].
fn offsets(vmlinux: &Btf<'_>) -> Result<[u32; PATH.len()], String> {
    let of = |(structure, members): (&str, &[&str])| {
        let found = vmlinux.member(structure, members);
        found.map(|member| member.offset_bytes)
    };
    let mut offsets = [0; PATH.len()];
    for (offset, step) in offsets.iter_mut().zip(PATH) {
        *offset = of(step).map_err(|error| error.to_string())?;
    }
    offsets[NUMBERS] += of(NUMBER).map_err(|error| error.to_string())?;
    Ok(offsets)
}

/// Follows the pointers; 0 if one of them can't be read.
fn program(offsets: &[u32; PATH.len()]) -> Vec<bpf_insn> {
    const BUFFER: i16 = -8;
    // Operations (`include/uapi/linux/bpf.h`): 64 bits, of a register or a number.
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const STORE_NUMBER: u8 = 0x7a;
    const LOAD: u8 = 0x79;
    const CALL: u8 = 0x85;
    const UNLESS_ZERO: u8 = 0x55;
    const EXIT: u8 = 0x95;
    let step = |code, to, from, off, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
    };
    let mut code = vec![step(CALL, 0, 0, 0, GET_CURRENT_TASK)];
    let last = offsets.len() - 1;
    for (number, offset) in offsets.iter().enumerate() {
        let size = if number == last { 4 } else { 8 };
        // Over what is left of this round, 9 for each further one, and the end of who got through.
        let rounds = i16::try_from(last - number).unwrap_or_default();
        code.extend([
            step(STORE_NUMBER, 10, 0, BUFFER, 0),
            step(MOVE, 3, 0, 0, 0),
            step(
                ADD_NUMBER,
                3,
                0,
                0,
                i32::try_from(*offset).unwrap_or_default(),
            ),
            step(MOVE, 1, 10, 0, 0),
            step(ADD_NUMBER, 1, 0, 0, i32::from(BUFFER)),
            step(MOVE_NUMBER, 2, 0, 0, size),
            step(CALL, 0, 0, 0, PROBE_READ_KERNEL),
            step(UNLESS_ZERO, 0, 0, 2 + 9 * rounds, 0),
            step(LOAD, 0, 10, BUFFER, 0),
        ]);
    }
    code.extend([
        step(EXIT, 0, 0, 0, 0),
        step(MOVE_NUMBER, 0, 0, 0, 0),
        step(EXIT, 0, 0, 0, 0),
    ]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_read_that_fails_leads_to_the_end_that_returns_0() {
        let code = program(&[1, 2, 3, 4, 5, 6]);
        let end = code.len() - 2;
        let jumps = code
            .iter()
            .enumerate()
            .filter(|(_, step)| step.code == 0x55);
        let targets: Vec<usize> = jumps
            .map(|(at, step)| at + 1 + usize::try_from(step.off).unwrap())
            .collect();
        assert_eq!(targets, [end; PATH.len()]);
        assert_eq!((code[end].code, code[end].imm), (0xb7, 0));
        assert_eq!(code[end - 1].code, 0x95);
    }

    /// Where a test may load programs it must be what procfs says; elsewhere why not must be said.
    #[test]
    fn it_is_that_of_process_1_or_why_it_can_not_be_told() {
        match network_namespace() {
            Ok(inode) => {
                let first =
                    crate::kernel::namespace::namespace_of(&Root::system().proc("1/ns/net"));
                assert!(inode >= 0xefff_fff8, "{inode}");
                if let Ok(first) = first {
                    assert_eq!(inode, first);
                }
            }
            Err(error) => assert!(!error.is_empty()),
        }
    }
}
