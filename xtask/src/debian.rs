//! The root of a Debian that a guest boots as its own: packages of one suite, unpacked, with dpkg's records of them, so that dpkg installs
//! others there, and systemd is the first process. The packages' own scripts did not run; what the base needs of them is done here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::cache::{Cache, replace};
use crate::cpio::Archive;
use crate::{command, files};

/// What each has. `Essential` ones are among them, since nothing is installed that would bring them.
const BASE: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "libc-bin",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "perl-base",
    "procps",
    "sed",
    "sysvinit-utils",
    "systemd",
    "systemd-sysv",
    "tar",
    "util-linux",
];
/// Where both names of a folder are one: packages of 12 still have some in the old one.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// What a guest has no use for, and no memory.
const LEFT_OUT: [&str; 5] = [
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/zoneinfo",
];
const RECIPE: &str = "var/lib/dpkg/.recipe";
/// Files that the base packages' scripts would write, or an installer: what holds each.
const FILES: &[(&str, &str)] = &[
    // With it systemd does not take the boot for the first, at which it enables what is there.
    ("etc/machine-id", "c0ffee00000000000000000000000001\n"),
    ("etc/hostname", "guest\n"),
    ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
    ("etc/fstab", ""),
    ("etc/shells", "/bin/sh\n/bin/bash\n"),
];

/// The root as a cpio archive, made once for a suite and a list of packages.
pub(crate) fn archive(cache: &Cache, suite: &str, packages: &[&str]) -> Result<PathBuf> {
    let packages: Vec<&str> = BASE.iter().chain(packages).copied().collect();
    let recipe = format!("2 {}", packages.join(" "));
    let root = cache.guest().join(format!("debian-{suite}"));
    if !fs::read_to_string(root.join(RECIPE)).is_ok_and(|made| made == recipe) {
        let _lock = cache.lock()?;
        command::say(&format!("downloading a Debian: {suite}"));
        let apt = Apt::for_guests(cache)?;
        replace(&root, |new| {
            let records = new.join("var/lib/dpkg/info");
            files::folder(&records)?;
            apt.unpack_as_installed(&packages, suite, new)?;
            merge(new)?;
            complete(new)?;
            files::write(&new.join(RECIPE), &recipe)
        })?;
    }
    let target = cache.guest().join(format!("debian-{suite}.cpio"));
    let maker = std::env::current_exe().context("where this program is")?;
    if !files::newer(&target, &maker) || !files::newer(&target, &root.join(RECIPE)) {
        replace(&target, |new| files::write(new, pack(&root)?))?;
    }
    Ok(target)
}

/// Makes one folder of each two, as the package `usrmerge` does: unpacked packages of 12 have made both.
fn merge(root: &Path) -> Result<()> {
    for name in MERGED {
        let (old, new) = (root.join(name), root.join("usr").join(name));
        files::folder(&new)?;
        if old.is_dir() && !old.is_symlink() {
            move_into(&old, &new)?;
        }
        if !old.is_symlink() {
            symlink(format!("usr/{name}"), &old)
                .with_context(|| format!("link {name} to usr/{name}"))?;
        }
    }
    Ok(())
}

/// Moves all that is in a folder into another one, and removes the folder.
fn move_into(from: &Path, to: &Path) -> Result<()> {
    for path in files::list(from)? {
        let target = to.join(path.file_name().context("a file has a name")?);
        let is_folder = |path: &Path| path.is_dir() && !path.is_symlink();
        if is_folder(&path) && is_folder(&target) {
            move_into(&path, &target)?;
        } else {
            fs::rename(&path, &target).with_context(|| format!("move {}", path.display()))?;
        }
    }
    fs::remove_dir(from).with_context(|| format!("remove {}", from.display()))
}

fn complete(root: &Path) -> Result<()> {
    for name in ["passwd", "group"] {
        let master = root.join(format!("usr/share/base-passwd/{name}.master"));
        files::copy(&master, &root.join("etc").join(name))?;
    }
    for (path, content) in FILES {
        files::write(&root.join(path), content)?;
    }
    for (path, target) in [("bin/sh", "dash"), ("usr/bin/awk", "mawk")] {
        let path = root.join(path);
        if fs::symlink_metadata(&path).is_err() {
            symlink(target, &path).with_context(|| format!("link {}", path.display()))?;
        }
    }
    Ok(())
}

fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    add(root, root, &mut archive)?;
    Ok(archive.finish())
}

/// Adds what is in a folder, links as links.
fn add(root: &Path, folder: &Path, archive: &mut Archive) -> Result<()> {
    let mut paths = files::list(folder)?;
    paths.sort();
    for path in paths {
        let inside = path.strip_prefix(root)?.display().to_string();
        let read = || format!("read {}", path.display());
        let about = fs::symlink_metadata(&path).with_context(read)?;
        if about.is_symlink() {
            let target = fs::read_link(&path).with_context(read)?;
            archive.symlink(&inside, &target.display().to_string());
        } else if about.is_dir() {
            if !LEFT_OUT.contains(&inside.as_str()) {
                archive.directory(&inside);
                add(root, &path, archive)?;
            }
        } else {
            let executable = about.permissions().mode() & 0o100 != 0;
            archive.file(&inside, executable, &files::bytes(&path)?);
        }
    }
    Ok(())
}
