//! The package for Fedora, RHEL, SUSE and others with rpm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rpm::{BuildConfig, CompressionType, FileOptions, PackageBuilder};

use super::content::{Content, Kind, Place};
use super::{DESCRIPTION, SUMMARY, VENDOR};
use crate::arch::Arch;
use crate::files;

/// Makes the package; the result is where it is.
pub(super) fn make(content: &Content, arch: Arch, revision: u32, folder: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let arch = match arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "aarch64",
    };
    let licence = env!("CARGO_PKG_LICENSE");
    let mut package = PackageBuilder::new("ctpressure", version, licence, arch, SUMMARY);
    // What rpm 4 reads, which all of them have today; no file is of a later time.
    let config = BuildConfig::v4()
        .compression(CompressionType::Gzip)
        .source_date(0_u32);
    package.using_config(config);
    package.release(revision.to_string());
    package.description(DESCRIPTION).vendor(VENDOR);
    for file in content.of(Place::Rpm) {
        let options = FileOptions::new(&file.path).permissions(file.mode());
        let options = match file.kind {
            Kind::Settings => options.config().noreplace(),
            Kind::Document => options.doc(),
            Kind::Licence => options.license(),
            Kind::Program | Kind::Data => options,
        };
        package
            .with_file_contents(file.bytes.clone(), options)
            .with_context(|| format!("pack {}", file.path))?;
    }
    let script = |name: &str| files::text(&super::super::folder().join("package/rpm").join(name));
    package.post_install_script(script("post")?);
    package.pre_uninstall_script(script("preun")?);
    package.post_uninstall_script(script("postun")?);
    let path = folder.join(format!("ctpressure-{version}-{revision}.{arch}.rpm"));
    let package = package.build().context("make the rpm")?;
    package
        .write_file(&path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
