//! The files in a package, and where they go.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

use super::super::{folder, image};
use crate::arch::Arch;
use crate::{command, files};

/// Where documents go, the same on each system.
const DOCUMENTS: &str = "/usr/share/doc/ctpressure";

/// What a file is, as far as a package treats it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Program,
    /// Of an administrator, who may have changed it.
    Settings,
    Document,
    Licence,
    /// Anything else.
    Data,
}

/// Which package system it is for: completions of zsh have a place of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Deb,
    Rpm,
}

/// One file.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    pub(super) kind: Kind,
    /// `None`: in both.
    only: Option<Place>,
}

impl Packed {
    pub(super) fn mode(&self) -> u16 {
        if self.kind == Kind::Program {
            0o755
        } else {
            0o644
        }
    }
}

/// All files.
#[derive(Debug)]
pub(super) struct Content(Vec<Packed>);

impl Content {
    /// The program, what is made of its arguments, and what `deploy/` has for it.
    pub(super) fn gather(program: &Path, arch: Arch) -> Result<Self> {
        let mut content = Self(Vec::new());
        content.add("/usr/bin/ctpressure", files::bytes(program)?, Kind::Program);
        for (from, to, kind) in [
            (
                "ctpressure.service",
                "/usr/lib/systemd/system/ctpressure.service",
                Kind::Data,
            ),
            (
                "package/ctpressure.default",
                "/etc/default/ctpressure",
                Kind::Settings,
            ),
        ] {
            content.add(to, files::bytes(&folder().join(from))?, kind);
        }
        for (from, name) in [
            (
                "deploy/package/limit-controller.conf",
                "limit-controller.conf",
            ),
            (
                "deploy/node-problem-detector/ctpressure.json",
                "node-problem-detector.json",
            ),
        ] {
            let bytes = files::bytes(&command::repository().join(from))?;
            content.add(&format!("{DOCUMENTS}/{name}"), bytes, Kind::Document);
        }
        for schema in sorted(&folder().join("schemas"))? {
            let path = format!("{DOCUMENTS}/schemas/{}", name(&schema)?);
            content.add(&path, files::bytes(&schema)?, Kind::Document);
        }
        let bill = image::bill(arch)?.into_bytes();
        let path = format!("{DOCUMENTS}/ctpressure.cdx.json");
        content.add(&path, bill, Kind::Document);
        content.add_licences()?;
        content.add_pages()?;
        Ok(content)
    }

    /// Those for one package system.
    pub(super) fn of(&self, place: Place) -> impl Iterator<Item = &Packed> {
        let is_for = move |file: &&Packed| file.only.is_none_or(|only| only == place);
        self.0.iter().filter(is_for)
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, kind: Kind) {
        self.0.push(Packed {
            path: path.to_owned(),
            bytes,
            kind,
            only: None,
        });
    }

    /// In one file, as Debian wants it.
    fn add_licences(&mut self) -> Result<()> {
        let text = |name: &str| files::text(&command::repository().join(name));
        let both = format!(
            "ctpressure is under either of two licences, MIT or Apache-2.0; its eBPF programs are under MIT or GPL-2.0-only. What it is made of besides, \
             and under which licence, is in ctpressure.cdx.json beside this file.\n\n{}\n\n{}",
            text("LICENSE-MIT")?.trim(),
            text("LICENSE-APACHE")?
        );
        let path = format!("{DOCUMENTS}/copyright");
        self.add(&path, both.into_bytes(), Kind::Licence);
        Ok(())
    }

    /// Man pages and completions, which the program's own arguments make.
    fn add_pages(&mut self) -> Result<()> {
        let made = tempfile::tempdir().context("make a folder")?;
        let mut cargo = command::cargo("run --quiet --locked --package");
        cargo.args([image::PACKAGE, "--example", "pages"]);
        cargo.args(image::features()?).arg("--").arg(made.path());
        command::run(&mut cargo).context("make the man pages")?;
        for path in sorted(made.path())? {
            let name = name(&path)?;
            let bytes = files::bytes(&path)?;
            match name {
                "ctpressure.bash" => {
                    let to = "/usr/share/bash-completion/completions/ctpressure";
                    self.add(to, bytes, Kind::Data);
                }
                "ctpressure.fish" => {
                    let to = "/usr/share/fish/vendor_completions.d/ctpressure.fish";
                    self.add(to, bytes, Kind::Data);
                }
                "_ctpressure" => {
                    for (place, folder) in [
                        (Place::Deb, "vendor-completions"),
                        (Place::Rpm, "site-functions"),
                    ] {
                        self.0.push(Packed {
                            path: format!("/usr/share/zsh/{folder}/{name}"),
                            bytes: bytes.clone(),
                            kind: Kind::Data,
                            only: Some(place),
                        });
                    }
                }
                page => {
                    let to = format!("/usr/share/man/man8/{page}.gz");
                    self.add(&to, packed(&bytes)?, Kind::Data);
                }
            }
        }
        Ok(())
    }
}

/// What is in a folder, in the same order each time.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = files::list(folder)?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} has no name", path.display()))
}

/// By gzip, without a name or a time.
fn packed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(bytes)
        .and_then(|()| gzip.finish())
        .context("pack a man page")
}
