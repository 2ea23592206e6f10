//! The kernel modules of a guest: those that the tests need and everything that these depend on.
//!
//! Debian's packages have no `modules.dep` (their post-install script makes it), so the dependencies are read
//! from the modules themselves. `depmod` then makes the indexes for the few that go into the guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::command;
use crate::files;

/// Modules by name. Those that a kernel has built in or doesn't have are left out.
pub(crate) fn wanted() -> Vec<&'static str> {
    let lines = include_str!("../guest/modules.txt").lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// What the first process has to load before it can talk to the host.
const PORT_DRIVERS: &[&str] = &["virtio_pci", "virtio_console"];

/// The modules of one kernel package.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Name, with underscores, to file.
    files: BTreeMap<String, PathBuf>,
}

#[derive(Debug)]
pub(crate) struct Module {
    /// Its path below `/lib/modules/VERSION`, without the ending of a compression.
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    depends: Vec<String>,
}

impl Modules {
    /// Lists a folder `lib/modules/VERSION`.
    pub(crate) fn list(folder: &Path) -> Result<Self> {
        let files: BTreeMap<_, _> = files::below(&folder.join("kernel"))?
            .into_iter()
            .filter_map(|path| Some((module_name(&path)?, path)))
            .collect();
        if files.is_empty() {
            bail!("{} holds no modules", folder.display());
        }
        Ok(Self { files })
    }

    /// The wanted modules that exist and all that they depend on, dependencies first.
    pub(crate) fn closure(&self, folder: &Path, wanted: &[&str]) -> Result<Vec<(String, Module)>> {
        let mut done = Vec::new();
        for name in wanted {
            if self.files.contains_key(*name) {
                self.add(folder, name, &mut done)?;
            }
        }
        Ok(done)
    }

    fn add(&self, folder: &Path, name: &str, done: &mut Vec<(String, Module)>) -> Result<()> {
        if done.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("no module {name}"))?;
        let mut content = decompress(path)?;
        content.truncate(without_signature(&content));
        let depends = depends(&content).with_context(|| format!("read {}", path.display()))?;
        for dependency in &depends {
            self.add(folder, dependency, done)?;
        }
        let path = path.strip_prefix(folder)?.to_string_lossy();
        let plain = path.split_once(".ko").map_or(&*path, |(stem, _)| stem);
        let module = Module {
            path: format!("{plain}.ko"),
            content,
            depends,
        };
        done.push((name.to_owned(), module));
        Ok(())
    }
}

/// The modules that carry the port to the host, in load order.
pub(crate) fn port_drivers(modules: &[(String, Module)]) -> Vec<&Module> {
    fn add<'a>(name: &str, modules: &'a [(String, Module)], done: &mut Vec<&'a Module>) {
        let Some((_, module)) = modules.iter().find(|(other, _)| other == name) else {
            return;
        };
        for dependency in &module.depends {
            add(dependency, modules, done);
        }
        if !done.iter().any(|other| other.path == module.path) {
            done.push(module);
        }
    }
    let mut done = Vec::new();
    for name in PORT_DRIVERS {
        add(name, modules, &mut done);
    }
    done
}

/// Runs `depmod` over a folder that has `lib/modules/VERSION` in it.
pub(crate) fn index(mut depmod: Command, root: &Path, version: &str) -> Result<()> {
    command::output(depmod.arg("-b").arg(root).arg(version))?;
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, ending) = file.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

fn decompress(path: &Path) -> Result<Vec<u8>> {
    let (program, package) = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return files::bytes(path),
    };
    let mut unpack = command::required(program, package, "unpacks kernel modules")?;
    command::output_bytes(unpack.arg("-dc").arg(path))
}

/// What a module ends with if a signature is in front of it: `MODULE_SIG_STRING` of `include/linux/module_signature.h`.
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// The length of a module without its signature: to check one takes an emulated processor long (a tenth of short
/// scenarios went into loading modules), and a kernel that does not insist on signatures checks none where there is none (`module_sig_check`).
fn without_signature(module: &[u8]) -> usize {
    let Some((rest, description)) = module
        .strip_suffix(SIGNED)
        .and_then(|rest| rest.split_last_chunk::<12>())
    else {
        return module.len();
    };
    // `struct module_signature`: three bytes of kinds, the lengths of signer and key, three of padding, the length of the signature.
    let [_, _, _, signer, key, _, _, _, length @ ..] = *description;
    let signature = usize::from(signer) + usize::from(key) + u32::from_be_bytes(length) as usize;
    rest.len().checked_sub(signature).unwrap_or(module.len())
}

/// The `depends=` of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .context("no section .modinfo")?;
    let text = section.data()?;
    let names = text
        .split(|byte| *byte == 0)
        .find_map(|line| line.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(names.unwrap_or_default()).replace('-', "_");
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_loses_its_signature_and_nothing_else() {
        let signed = [
            b"module".as_slice(),
            b"sig",
            &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3],
            SIGNED,
        ]
        .concat();
        assert_eq!(without_signature(&signed), 6);
        assert_eq!(without_signature(b"module"), 6);
        assert_eq!(without_signature(SIGNED), SIGNED.len());
        let longer = [
            b"m".as_slice(),
            &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9, 9],
            SIGNED,
        ]
        .concat();
        assert_eq!(without_signature(&longer), longer.len());
    }
}
