//! The Debian package, packed by dpkg itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::content::{Content, Kind, Place};
use super::{DESCRIPTION, SUMMARY, VENDOR};
use crate::arch::Arch;
use crate::{command, files};

/// What runs when it is installed, upgraded and removed.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes the package; the result is where it is.
pub(super) fn make(content: &Content, arch: Arch, revision: u32, folder: &Path) -> Result<PathBuf> {
    let scratch = tempfile::tempdir().context("make a folder")?;
    let root = scratch.path().join("root");
    let mut bytes = 0;
    let mut settings = String::new();
    for file in content.of(Place::Deb) {
        let path = root.join(file.path.trim_start_matches('/'));
        write(&path, &file.bytes, file.mode())?;
        bytes += file.bytes.len();
        if file.kind == Kind::Settings {
            settings.extend([file.path.as_str(), "\n"]);
        }
    }
    let own = root.join("DEBIAN");
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let control = control(arch, &version, bytes);
    write(&own.join("control"), control.as_bytes(), 0o644)?;
    write(&own.join("conffiles"), settings.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let from = super::super::folder().join("package/debian").join(script);
        write(&own.join(script), &files::bytes(&from)?, 0o755)?;
    }
    open_folders(&root)?;
    let package = folder.join(format!("ctpressure_{version}_{}.deb", arch.name()));
    let mut dpkg = command::required("dpkg-deb", "dpkg", "packs the Debian package")?;
    // No file is of a later time.
    dpkg.env("SOURCE_DATE_EPOCH", "0");
    dpkg.args(["--root-owner-group", "-Zxz", "--build"]);
    command::output(dpkg.arg(&root).arg(&package))?;
    Ok(package)
}

fn control(arch: Arch, version: &str, bytes: usize) -> String {
    // It needs nothing: a static program, and what its scripts call is in each Debian.
    format!(
        "Package: ctpressure\n\
         Version: {version}\n\
         Architecture: {}\n\
         Maintainer: {VENDOR} <ctpressure@localhost>\n\
         Installed-Size: {}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: {SUMMARY}\n {DESCRIPTION}\n",
        arch.name(),
        bytes.div_ceil(1024)
    )
}

fn write(path: &Path, bytes: &[u8], mode: u16) -> Result<()> {
    files::folder(path.parent().context("a packed file is in a folder")?)?;
    files::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode.into()))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// Whatever this user's umask is: all may look into the folders of a package.
fn open_folders(root: &Path) -> Result<()> {
    let mut folders = BTreeSet::from([root.to_owned()]);
    for file in files::below(root)? {
        let above = file.ancestors().skip(1);
        folders.extend(
            above
                .take_while(|path| path.starts_with(root))
                .map(Into::into),
        );
    }
    folders.iter().try_for_each(|path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("set the mode of {}", path.display()))
    })
}
