//! The file system of a guest: guest tools, kernel modules, our binaries and the job, put together from cpio archives.
//! The first two are made once and kept in the cache, so that a boot costs no more than the copying of a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, replace};
use crate::cpio::Archive;
use crate::groups::Group;
use crate::guest_tools;
use crate::kernels::{self, Kernel};
use crate::{command, files, frame, modules, project};

/// What goes into one guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content<'a> {
    pub(crate) script: &'a [u8],
    pub(crate) init: &'a Path,
    pub(crate) binaries: &'a [PathBuf],
    /// The archive of a whole system that is booted; without one it is what every guest has.
    pub(crate) root: Option<&'a Path>,
    /// Guest tools besides those that every guest has.
    pub(crate) groups: &'a [Group],
    /// Files of the host and where the guest has them.
    pub(crate) put: &'a [(PathBuf, String)],
    /// Files of the guest that the host wants at the end.
    pub(crate) fetch: &'a [String],
}

/// Writes the initramfs of a guest.
pub(crate) fn write(
    cache: &Cache,
    kernel: &Kernel,
    content: &Content<'_>,
    target: &Path,
) -> Result<()> {
    let kernel_part = kernel_archive(cache, kernel)?;
    let mut parts = match content.root {
        Some(root) => vec![root.to_owned(), kernel_part],
        None => vec![
            guest_tools::archive(cache, Group::BASE)?,
            kernel_part,
            guest_tools::archive(cache, Group::APPARMOR)?,
        ],
    };
    for group in content.groups {
        parts.push(guest_tools::archive(cache, *group)?);
    }
    let mut file = File::create(target).with_context(|| format!("write {}", target.display()))?;
    for part in parts {
        let mut part_file =
            File::open(&part).with_context(|| format!("open {}", part.display()))?;
        io::copy(&mut part_file, &mut file).with_context(|| format!("copy {}", part.display()))?;
    }
    file.write_all(&job_archive(content)?)
        .with_context(|| format!("write {}", target.display()))
}

fn job_archive(content: &Content<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("init", true, &files::bytes(content.init)?);
    for binary in content.binaries {
        archive.file(
            &format!("usr/local/bin/{}", project::name(binary)?),
            true,
            &files::bytes(binary)?,
        );
    }
    for (from, to) in content.put {
        // Everything that is put is executable: a program can be, and data isn't hurt by it.
        archive.file(to, true, &files::bytes(from)?);
    }
    let job = |name: &str| format!("{}/{name}", frame::JOB_FOLDER);
    archive.file(&job(frame::JOB_SCRIPT), false, content.script);
    archive.file(
        &job(frame::JOB_FETCH),
        false,
        content.fetch.join("\n").as_bytes(),
    );
    Ok(archive.finish())
}

/// The modules of a kernel as an archive: made once for a kernel and a list of modules.
fn kernel_archive(cache: &Cache, kernel: &Kernel) -> Result<PathBuf> {
    let target = kernels::part(cache, kernel, "modules.cpio");
    let recipe = kernels::part(cache, kernel, "recipe");
    // What the archive was made of; another list makes another archive.
    let modules = modules::wanted();
    let wanted = format!("3 {}", modules.join(" "));
    if target.is_file() && fs::read_to_string(&recipe).is_ok_and(|made| made == wanted) {
        return Ok(target);
    }
    command::say(&format!("unpacking the modules of {}", kernel.version));
    let folder = &kernel.modules;
    let listed = modules::Modules::list(folder)?;
    let closure = listed.closure(folder, &modules)?;
    let base = format!("usr/lib/modules/{}", kernel.version);

    // depmod wants a tree of files; the archive gets the same files and what depmod adds.
    let tree = tempfile::tempdir().context("make a folder for the modules")?;
    let tree_folder = tree.path().join(&base);
    for (_, module) in &closure {
        let path = tree_folder.join(&module.path);
        let parent = path.parent().context("a module is in a folder")?;
        files::folder(parent)?;
        files::write(&path, &module.content)?;
    }
    std::os::unix::fs::symlink("usr/lib", tree.path().join("lib"))
        .context("link lib to usr/lib")?;
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        // Older packages lack some of them, and depmod can do without.
        if folder.join(name).is_file() {
            files::copy(&folder.join(name), &tree_folder.join(name))?;
        }
    }
    modules::index(guest_tools::depmod(cache)?, tree.path(), &kernel.version)?;

    let mut archive = Archive::default();
    for (_, module) in &closure {
        archive.file(&format!("{base}/{}", module.path), false, &module.content);
    }
    for path in files::list(&tree_folder)? {
        if path.is_file() {
            let content = files::bytes(&path)?;
            archive.file(
                &format!("{base}/{}", project::name(&path)?),
                false,
                &content,
            );
        }
    }
    let drivers: Vec<String> = modules::port_drivers(&closure)
        .iter()
        .map(|module| format!("/{base}/{}", module.path))
        .collect();
    let list = format!("{}/{}", frame::JOB_FOLDER, frame::JOB_MODULES);
    archive.file(&list, false, drivers.join("\n").as_bytes());
    replace(&target, |new| files::write(new, archive.finish()))?;
    files::write(&recipe, wanted)?;
    Ok(target)
}
