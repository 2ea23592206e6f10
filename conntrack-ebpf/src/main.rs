//! The eBPF programs. On any other target this is an empty program, so that the workspace can be
//! checked, documented and tested without a BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
