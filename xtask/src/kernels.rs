//! Kernels for guests: Debian's own packages, by version prefix, unpacked into the cache.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::cache::{Cache, Staged};
use crate::command;

/// What the tests run on: the oldest that Debian still has, the stable ones, the newest.
pub(crate) const MATRIX: &[&str] = &["5.10", "6.1", "6.12", "6.18", "7"];

/// An unpacked kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` says, e.g. `6.12.107+deb13-cloud-amd64`.
    pub(crate) version: String,
    folder: PathBuf,
}

impl Kernel {
    /// The image that QEMU boots.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let places = [
            self.folder
                .join("boot")
                .join(format!("vmlinuz-{}", self.version)),
            self.modules_folder()?.join("vmlinuz"),
        ];
        let found = places.iter().find(|place| place.is_file());
        found.cloned().with_context(|| {
            format!(
                "the unpacked kernel {} holds no image; remove {} and run `cargo xtask setup`",
                self.version,
                self.folder.display()
            )
        })
    }

    /// `lib/modules/VERSION`, wherever this package has it.
    pub(crate) fn modules_folder(&self) -> Result<PathBuf> {
        let places = ["usr/lib/modules", "lib/modules"];
        places
            .iter()
            .map(|place| self.folder.join(place).join(&self.version))
            .find(|place| place.is_dir())
            .with_context(|| format!("no modules in {}", self.folder.display()))
    }
}

/// Kernels that are in the cache, newest first.
pub(crate) fn cached(cache: &Cache) -> Result<Vec<Kernel>> {
    let folder = cache.kernels();
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(Vec::new());
    };
    let mut kernels = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(&cache.arch().flavour()) && !name.starts_with('.') && path.is_dir() {
            kernels.push(Kernel {
                version: name,
                folder: path,
            });
        }
    }
    kernels.sort_by_key(|kernel| Reverse(apt::version_numbers(&kernel.version)));
    Ok(kernels)
}

/// Versions that Debian's archive has, newest first. Fetches the package lists when they are old.
pub(crate) fn available(cache: &Cache) -> Result<Vec<String>> {
    let apt = Apt::for_guests(cache)?;
    apt.update(false)?;
    let mut versions: Vec<String> = apt
        .names("linux-image-")?
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|version| is_version(version, &cache.arch().flavour()))
        .map(str::to_owned)
        .collect();
    versions.sort_by_key(|version| Reverse(apt::version_numbers(version)));
    Ok(versions)
}

/// A full version of the flavour: `linux-image-6.1-cloud-amd64` only depends on the newest one.
fn is_version(name: &str, flavour: &str) -> bool {
    name.strip_suffix(flavour).is_some_and(|version| {
        version.starts_with(|first: char| first.is_ascii_digit())
            && apt::version_numbers(version).len() >= 3
    })
}

/// The newest cached kernel that matches, without asking the network; else it is fetched.
pub(crate) fn get(cache: &Cache, prefix: &str) -> Result<Kernel> {
    if let Some(kernel) = newest_cached(cache, prefix)? {
        return Ok(kernel);
    }
    fetch(cache, prefix)
}

/// The newest cached kernel that matches.
pub(crate) fn newest_cached(cache: &Cache, prefix: &str) -> Result<Option<Kernel>> {
    Ok(cached(cache)?
        .into_iter()
        .find(|kernel| matches(&kernel.version, prefix)))
}

/// Downloads and unpacks the newest kernel of the archive that matches, if it isn't there yet.
pub(crate) fn fetch(cache: &Cache, prefix: &str) -> Result<Kernel> {
    let versions = available(cache)?;
    let Some(version) = versions.iter().find(|version| matches(version, prefix)) else {
        bail!(
            "Debian's archive has no kernel {prefix} for cloud-{0}; `cargo xtask vm --arch {0} --list` shows what it has",
            cache.arch().name()
        );
    };
    let folder = cache.kernels().join(version);
    let kernel = Kernel {
        version: version.clone(),
        folder: folder.clone(),
    };
    if folder.is_dir() {
        return Ok(kernel);
    }
    command::say(&format!("downloading and unpacking kernel {version}"));
    let apt = Apt::for_guests(cache)?;
    // Since 7.3 the image package is empty and depends on one with the image and one with the modules.
    let mut packages = Vec::new();
    for part in ["image", "binary", "modules"] {
        packages.extend(
            apt.names(&format!("linux-{part}-{version}"))?
                .into_iter()
                .filter(|name| name.ends_with(version.as_str())),
        );
    }
    let staged = Staged::new(&folder)?;
    apt.unpack_only(&packages, &staged.path())?;
    staged.publish()?;
    kernel.image()?;
    Ok(kernel)
}

fn matches(version: &str, prefix: &str) -> bool {
    version == prefix || version.strip_prefix(prefix).is_some_and(ends_a_number)
}

/// `6.1` is a prefix of `6.1.0-56` but not of `6.12`.
fn ends_a_number(rest: &str) -> bool {
    !rest.starts_with(|next: char| next.is_ascii_digit())
}

/// A part of the initramfs that belongs to one kernel.
pub(crate) fn part(cache: &Cache, kernel: &Kernel, name: &str) -> PathBuf {
    cache
        .guest()
        .join("kernels")
        .join(&kernel.version)
        .join(name)
}

/// Whether a file is there and newer than another, or the other isn't there.
pub(crate) fn newer(path: &Path, than: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (modified(path), modified(than)) {
        (Some(path), Some(than)) => path >= than,
        (found, _) => found.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_number() {
        assert!(matches("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!matches("6.12.107+deb13-cloud-amd64", "6.1"));
        assert!(matches("6.12.107+deb13-cloud-amd64", "6.12.107"));
        assert!(matches("7.3.4+deb13-cloud-amd64", "7"));
        assert!(!matches("17.3.4+deb13-cloud-amd64", "7"));
    }

    #[test]
    fn a_package_that_only_depends_is_no_version() {
        let is_version = |name| is_version(name, "-cloud-amd64");
        assert!(is_version("6.1.0-56-cloud-amd64"));
        assert!(!is_version("6.1-cloud-amd64"));
        assert!(!is_version("cloud-amd64"));
        assert!(!is_version("6.1.0-56-cloud-amd64-unsigned"));
        assert!(!is_version("6.1.0-56-cloud-arm64"));
    }

    #[test]
    fn newest_is_by_number_not_by_letter() {
        assert!(apt::version_numbers("6.12.9") < apt::version_numbers("6.12.107+deb13"));
        assert!(apt::version_numbers("5.10.0-46") > apt::version_numbers("5.10.0-9"));
    }
}
