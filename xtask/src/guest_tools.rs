//! The programs that a guest has besides ours, each with the libraries that it needs, from Debian's packages, never
//! from this machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, elf};

use crate::apt::Apt;
use crate::arch::Arch;
use crate::cache::{Cache, replace};
use crate::command;
use crate::cpio::Archive;
use crate::files;
use crate::groups::{Group, SUITE};

/// The file that says what an unpacked group is made of.
const RECIPE: &str = ".recipe";

/// Where the packages of a group are unpacked.
fn root(cache: &Cache, group: Group) -> PathBuf {
    cache.guest().join(format!("{}-root", group.name()))
}

/// Where the group's packages are unpacked, if they are the ones that this xtask wants.
pub(crate) fn present(cache: &Cache, group: Group) -> Option<String> {
    let folder = root(cache, group);
    let recipe = fs::read_to_string(folder.join(RECIPE)).ok()?;
    (recipe == group.recipe()).then(|| folder.display().to_string())
}

/// Downloads and unpacks the packages of a group, if they aren't there.
pub(crate) fn fetch(cache: &Cache, group: Group) -> Result<()> {
    if present(cache, group).is_some() {
        return Ok(());
    }
    let target = root(cache, group);
    command::say(&format!(
        "downloading guest tools: {}",
        group.packages().join(", ")
    ));
    let apt = Apt::for_guests(cache)?;
    replace(&target, |new| {
        apt.unpack_with_dependencies(group.packages(), SUITE, new)?;
        files::write(&new.join(RECIPE), group.recipe())
    })
}

/// The group as a cpio archive; made once, then taken from the cache.
pub(crate) fn archive(cache: &Cache, group: Group) -> Result<PathBuf> {
    fetch(cache, group)?;
    let target = cache.guest().join(format!("{}.cpio", group.name()));
    // The archive's making is part of xtask: a newer xtask may make another one.
    let maker = std::env::current_exe().context("where this program is")?;
    if !files::newer(&target, &maker) || !files::newer(&target, &root(cache, group)) {
        replace(&target, |new| files::write(new, pack(cache, group)?))?;
    }
    Ok(target)
}

/// kmod's `depmod`, run by its own loader with its own libraries.
pub(crate) fn depmod(cache: &Cache) -> Result<Command> {
    // One program with many names: it goes by the name that it is called with.
    on_this_machine(cache, "kmod", &["--argv0", "depmod"])
}

/// A program for guests, run on this machine by its own loader (which takes `arguments`) with its own
/// libraries: the one of this machine's architecture, whatever guests have.
pub(crate) fn on_this_machine(cache: &Cache, program: &str, arguments: &[&str]) -> Result<Command> {
    let cache = &cache.of(Arch::Amd64);
    fetch(cache, Group::Base)?;
    let tree = Tree::new(cache, Group::Base);
    let libraries = tree.root.join("usr/lib").join(tree.arch.libraries());
    let mut command = Command::new(libraries.join(tree.arch.loader().0));
    let path = tree.program(program)?;
    command.arg("--library-path").arg(libraries);
    command.args(arguments).arg(tree.root.join(path));
    Ok(command)
}

fn pack(cache: &Cache, group: Group) -> Result<Vec<u8>> {
    let tree = Tree::new(cache, group);
    let mut files: BTreeMap<String, bool> = BTreeMap::new();
    let mut archive = Archive::default();
    if group == Group::Base {
        skeleton(tree.arch, &mut archive);
        busybox(cache, &tree, &mut archive)?;
    }
    for program in group.programs() {
        tree.add_with_libraries(&tree.program(program)?, &mut files)?;
    }
    for folder in group.folders(tree.arch) {
        for path in tree.files_below(&folder)? {
            if path.contains(".so") {
                tree.add_with_libraries(&path, &mut files)?;
            } else {
                files.insert(path, false);
            }
        }
    }
    for (path, executable) in files {
        let content = fs::read(tree.root.join(&path)).with_context(|| format!("read {path}"))?;
        archive.file(&path, executable, &content);
    }
    for (path, target) in group.links() {
        archive.symlink(path, target);
    }
    Ok(archive.finish())
}

/// Folders and links that a Debian system has, and the two devices that a process needs before `/dev` is there.
fn skeleton(arch: Arch, archive: &mut Archive) {
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/local/bin",
        "root",
        "tmp",
        "run",
        "proc",
        "sys",
        "dev",
        "var/lib",
        "var/log",
    ] {
        archive.directory(folder);
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        archive.symlink(folder, &format!("usr/{folder}"));
    }
    archive.symlink("var/run", "/run");
    let (loader, folder) = arch.loader();
    archive.symlink(
        &format!("usr/{folder}/{loader}"),
        &format!("/usr/lib/{}/{loader}", arch.libraries()),
    );
    archive.symlink("etc/mtab", "/proc/self/mounts");
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file(
        "etc/passwd",
        false,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    archive.file("etc/group", false, b"root:x:0:\nnogroup:x:65534:\n");
    archive.file("etc/hosts", false, b"127.0.0.1 localhost\n::1 localhost\n");
    archive.file(
        "etc/nsswitch.conf",
        false,
        b"passwd: files\ngroup: files\nhosts: files\nprotocols: files\nservices: files\n",
    );
}

/// busybox under each of its names, except where the real program is there.
fn busybox(cache: &Cache, tree: &Tree, archive: &mut Archive) -> Result<()> {
    let path = tree.program("busybox")?;
    archive.file(
        "usr/bin/busybox",
        true,
        &fs::read(tree.root.join(&path)).context("read busybox")?,
    );
    // Static, and of the same version for each architecture.
    let cache = &cache.of(Arch::Amd64);
    fetch(cache, Group::Base)?;
    let of_this_machine = Tree::new(cache, Group::Base);
    let program = of_this_machine
        .root
        .join(of_this_machine.program("busybox")?);
    let names = command::output(Command::new(&program).arg("--list"))?;
    for name in names.lines() {
        let real = Group::Base
            .links()
            .iter()
            .any(|(link, _)| link.ends_with(&format!("/{name}")))
            || Group::Base.programs().contains(&name);
        if !real && name != "busybox" {
            archive.symlink(&format!("usr/bin/{name}"), "busybox");
        }
    }
    Ok(())
}

/// A folder into which packages were unpacked. Paths in it are relative and begin with `usr` or `etc`.
struct Tree {
    root: PathBuf,
    arch: Arch,
}

impl Tree {
    fn new(cache: &Cache, group: Group) -> Self {
        Self {
            root: root(cache, group),
            arch: cache.arch(),
        }
    }

    fn program(&self, name: &str) -> Result<String> {
        let folders = [
            "usr/sbin",
            "usr/bin",
            "sbin",
            "bin",
            "usr/lib/cni",
            "usr/lib/systemd",
        ];
        let found = folders
            .iter()
            .map(|folder| format!("{folder}/{name}"))
            .find(|path| self.exists(path));
        found.with_context(|| {
            format!(
                "{name} is not in the unpacked packages; remove {} and try again",
                self.root.display()
            )
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).is_file()
    }

    /// Adds a file and the libraries that it needs, and those that they need.
    fn add_with_libraries(&self, path: &str, files: &mut BTreeMap<String, bool>) -> Result<()> {
        if files.contains_key(path) {
            return Ok(());
        }
        let content = fs::read(self.root.join(path)).with_context(|| format!("read {path}"))?;
        files.insert(path.to_owned(), true);
        let own = format!("usr/lib/{}", self.arch.libraries());
        let of_systemd = format!("{own}/systemd");
        let needed = needed(&content, self.arch.loader().0);
        for library in needed.with_context(|| format!("read {path}"))? {
            let places = [own.as_str(), &of_systemd, "usr/lib", "usr/lib64"];
            let mut places = places
                .map(|folder| format!("{folder}/{library}"))
                .into_iter();
            let Some(place) = places.find(|place| self.exists(place)) else {
                bail!("{path} needs {library}, which none of the unpacked packages holds");
            };
            self.add_with_libraries(&place, files)?;
        }
        Ok(())
    }

    fn files_below(&self, folder: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for path in files::below(&self.root.join(folder))? {
            found.push(path.strip_prefix(&self.root)?.display().to_string());
        }
        found.sort();
        Ok(found)
    }
}

/// The `DT_NEEDED` names of an ELF file, and the loader if it wants one; none for anything else.
fn needed(content: &[u8], loader: &str) -> Result<Vec<String>> {
    if !content.starts_with(&elf::ELFMAG) {
        return Ok(Vec::new());
    }
    let header = elf::FileHeader64::<Endianness>::parse(content)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, content)?;
    let mut names = Vec::new();
    if let Some((entries, link)) = sections.dynamic(endian, content)? {
        let strings = sections.strings(endian, content, link)?;
        for entry in entries
            .iter()
            .filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED)
        {
            names.push(String::from_utf8(entry.string(endian, strings)?.to_vec())?);
        }
    }
    for segment in header.program_headers(endian, content)? {
        if segment.p_type(endian) == elf::PT_INTERP {
            names.push(loader.to_owned());
        }
    }
    Ok(names)
}
