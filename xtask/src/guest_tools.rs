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
use crate::groups::{Group, SUITE, Tools};

/// The file that says what an unpacked group is made of.
const RECIPE: &str = ".recipe";

/// Where the packages of a group are unpacked.
fn root(cache: &Cache, group: Group) -> PathBuf {
    cache.guest().join(format!("{}-root", group.0))
}

/// Where the group's packages are unpacked, if they are the ones that this xtask wants.
pub(crate) fn present(cache: &Cache, group: Group) -> Result<Option<String>> {
    let folder = root(cache, group);
    let wanted = group.tools()?.recipe();
    let found = fs::read_to_string(folder.join(RECIPE));
    Ok(found
        .is_ok_and(|recipe| recipe == wanted)
        .then(|| folder.display().to_string()))
}

/// Downloads and unpacks the packages of a group, if they aren't there.
pub(crate) fn fetch(cache: &Cache, group: Group) -> Result<()> {
    if present(cache, group)?.is_some() {
        return Ok(());
    }
    let tools = group.tools()?;
    command::say(&format!(
        "downloading guest tools: {}",
        tools.packages.join(", ")
    ));
    let apt = Apt::for_guests(cache)?;
    replace(&root(cache, group), |new| {
        apt.unpack_with_dependencies(&tools.packages, SUITE, new)?;
        files::write(&new.join(RECIPE), tools.recipe())
    })
}

/// The group as a cpio archive; made once, then taken from the cache.
pub(crate) fn archive(cache: &Cache, group: Group) -> Result<PathBuf> {
    fetch(cache, group)?;
    let target = cache.guest().join(format!("{}.cpio", group.0));
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
    fetch(cache, Group::BASE)?;
    let tree = Tree::new(cache, Group::BASE);
    let libraries = tree.root.join("usr/lib").join(tree.arch.libraries());
    let mut command = Command::new(libraries.join(tree.arch.loader().0));
    let path = tree.program(program)?;
    command.arg("--library-path").arg(libraries);
    command.args(arguments).arg(tree.root.join(path));
    Ok(command)
}

fn pack(cache: &Cache, group: Group) -> Result<Vec<u8>> {
    let tree = Tree::new(cache, group);
    let tools = group.tools()?;
    let mut archive = Archive::default();
    for folder in &tools.empty {
        archive.directory(folder);
    }
    for (path, target) in &tools.links {
        archive.symlink(path, target);
    }
    for (path, content) in &tools.files {
        archive.file(path, false, content.as_bytes());
    }
    let (loader, folder) = tree.arch.loader();
    let libraries = format!("usr/lib/{}", tree.arch.libraries());
    if group == Group::BASE {
        archive.symlink(
            &format!("usr/{folder}/{loader}"),
            &format!("/{libraries}/{loader}"),
        );
        // A process needs them before `/dev` is there.
        archive.character_device("dev/console", 5, 1);
        archive.character_device("dev/null", 1, 3);
        busybox(cache, &tree, &tools, &mut archive)?;
    }
    let mut files: BTreeMap<String, bool> = BTreeMap::new();
    for program in &tools.programs {
        tree.add_with_libraries(&tree.program(program)?, &mut files)?;
    }
    for folder in tools.folders {
        for path in tree.files_below(&folder.replace("LIBRARIES", &libraries))? {
            if path.contains(".so") {
                tree.add_with_libraries(&path, &mut files)?;
            } else {
                files.insert(path, false);
            }
        }
    }
    for (path, executable) in files {
        archive.file(&path, executable, &files::bytes(&tree.root.join(&path))?);
    }
    Ok(archive.finish())
}

/// busybox under each of its names, except where the real program is there.
fn busybox(cache: &Cache, tree: &Tree, tools: &Tools, archive: &mut Archive) -> Result<()> {
    let content = files::bytes(&tree.root.join(tree.program("busybox")?))?;
    archive.file("usr/bin/busybox", true, &content);
    // Static, and of the same version for each architecture.
    let cache = &cache.of(Arch::Amd64);
    fetch(cache, Group::BASE)?;
    let of_this_machine = Tree::new(cache, Group::BASE);
    let program = of_this_machine
        .root
        .join(of_this_machine.program("busybox")?);
    let names = command::output(Command::new(&program).arg("--list"))?;
    for name in names.lines() {
        let is_link = |link: &String| link.ends_with(&format!("/{name}"));
        let real = tools.links.keys().any(is_link) || tools.programs.iter().any(|one| one == name);
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
        let content = files::bytes(&self.root.join(path))?;
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
