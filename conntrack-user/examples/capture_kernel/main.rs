//! Captures what ctpressure reads of a kernel into a small folder: a fixture for the tests, or an
//! attachment to a bug report.
//!
//! ```text
//! cargo run -p conntrack-user --example capture_kernel -- OUT [ROOT [WITHOUT...]]
//! ```
//!
//! `ROOT` (default `/`) is where `proc` and `sys` are; functions named `WITHOUT` are left out. BTF
//! is cut down to the structures and functions that ctpressure asks about, with what they hold by
//! value; the symbols to those of conntrack. Addresses are left out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, bail};
use conntrack_user::kernel::btf::{Btf, BtfKind};

mod cut;

/// The structures that the programs read, and their neighbours.
const STRUCTURES: [&str; 13] = [
    "nf_conn",
    "nf_conntrack_tuple_hash",
    "nf_conntrack_zone",
    "nf_conntrack_net",
    "nf_hook_state",
    "net",
    "net_generic",
    "ip_conntrack_stat",
    "sk_buff",
    "sock",
    "cgroup",
    "kernfs_node",
    "net_device",
];

/// The beginnings of the names of conntrack's functions.
const FUNCTIONS: [&str; 10] = [
    "__nf_conntrack",
    "nf_conntrack",
    "__nf_ct",
    "nf_ct_",
    "nf_confirm",
    "early_drop",
    "init_conntrack",
    "resolve_normal_ct",
    "gc_worker",
    "destroy_conntrack",
];

/// Files that are taken as they are, if they are there.
const FILES: [&str; 10] = [
    "proc/net/stat/nf_conntrack",
    "proc/sys/kernel/osrelease",
    "proc/sys/net/netfilter/nf_conntrack_max",
    "proc/sys/net/netfilter/nf_conntrack_buckets",
    "proc/sys/net/netfilter/nf_conntrack_count",
    "proc/sys/net/netfilter/nf_conntrack_events",
    "sys/devices/system/cpu/possible",
    "sys/module/nf_conntrack/initstate",
    "sys/module/nf_conntrack/parameters/hashsize",
    "notes.toml",
];

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let Some(out) = arguments.next() else {
        bail!("usage: capture_kernel OUT [ROOT [WITHOUT...]]");
    };
    let root = arguments.next().unwrap_or_else(|| "/".into());
    let without: Vec<String> = arguments
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    capture_btf(&root, &out, &without)?;
    capture_symbols(&root, &out, &without)?;
    for file in FILES {
        if let Ok(content) = fs::read(root.join(file)) {
            write(&out, file, &content)?;
        }
    }
    println!("captured {} into {}", root.display(), out.display());
    Ok(())
}

fn write(out: &Path, file: &str, content: &[u8]) -> anyhow::Result<()> {
    let path = out.join(file);
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))
}

fn read(root: &Path, file: &str) -> anyhow::Result<Vec<u8>> {
    let path = root.join(file);
    fs::read(&path).with_context(|| format!("can't read {}", path.display()))
}

fn capture_btf(root: &Path, out: &Path, without: &[String]) -> anyhow::Result<()> {
    let bytes = read(root, "sys/kernel/btf/vmlinux")?;
    let vmlinux = Btf::parse(&bytes, None)?;
    let module_bytes = fs::read(root.join("sys/kernel/btf/nf_conntrack")).ok();
    let module = module_bytes
        .as_deref()
        .map(|bytes| Btf::parse(bytes, Some(&vmlinux)))
        .transpose()?;

    let in_module = module.as_ref().map(|module| {
        cut::needed(
            module,
            &roots(module, &["nf_conn", "nf_conntrack_net"], without),
        )
    });
    let mut in_vmlinux = roots(&vmlinux, &STRUCTURES, without);
    in_vmlinux.extend(
        in_module
            .iter()
            .flatten()
            .filter(|id| **id < vmlinux.type_count()),
    );
    let in_vmlinux = cut::needed(&vmlinux, &in_vmlinux);

    let mut cut = cut::Cut::new();
    let bytes = cut.section(&vmlinux, &in_vmlinux)?;
    write(out, "sys/kernel/btf/vmlinux", &bytes)?;
    println!(
        "vmlinux BTF: {} types, {} bytes",
        in_vmlinux.len(),
        bytes.len()
    );
    if let (Some(module), Some(needed)) = (&module, &in_module) {
        let bytes = cut.section(module, needed)?;
        write(out, "sys/kernel/btf/nf_conntrack", &bytes)?;
        println!("nf_conntrack BTF: {} bytes", bytes.len());
    }
    Ok(())
}

/// The ids of the structures with these names (the first of each) and of conntrack's functions.
fn roots(btf: &Btf<'_>, structures: &[&str], without: &[String]) -> BTreeSet<u32> {
    let mut ids: BTreeSet<u32> = structures
        .iter()
        .filter_map(|name| btf.find(&[BtfKind::Struct, BtfKind::Union], name))
        .map(|found| found.id())
        .collect();
    btf.each_type(|found| {
        let name = btf.string(found.name_offset()).unwrap_or_default();
        let wanted = || {
            FUNCTIONS
                .iter()
                .any(|function| name.starts_with(function.as_bytes()))
                && !without.iter().any(|function| function.as_bytes() == name)
        };
        if found.kind() == BtfKind::Func && wanted() {
            ids.insert(found.id());
        }
        ControlFlow::<()>::Continue(())
    });
    ids
}

/// The symbols of conntrack, in the order of the file, with all addresses 0 (as `kptr_restrict`
/// shows them).
fn capture_symbols(root: &Path, out: &Path, without: &[String]) -> anyhow::Result<()> {
    let text = String::from_utf8(read(root, "proc/kallsyms")?)?;
    let mut kept = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(kind), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let module = words.next();
        let bare = name.strip_prefix("__pfx_").unwrap_or(name);
        let wanted = match module {
            Some(module) => {
                module == "[nf_conntrack]"
                    && !name.starts_with("__ksymtab")
                    && !name.starts_with("__kstrtab")
            }
            None => bare == "_stext" || FUNCTIONS.iter().any(|function| bare.starts_with(function)),
        };
        if wanted && !without.iter().any(|function| function == bare) {
            let module = module
                .map(|module| format!("\t{module}"))
                .unwrap_or_default();
            writeln!(kept, "{:016x} {kind} {name}{module}", 0)?;
        }
    }
    println!("symbols: {}", kept.lines().count());
    write(out, "proc/kallsyms", kept.as_bytes())
}
