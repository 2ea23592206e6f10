//! Kernels for guests: Debian's own packages, by version prefix, unpacked into the cache.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::cache::{Cache, replace};
use crate::command;
use crate::files;
use crate::project;

/// How packages of images are called, and those of its parts.
const IMAGE: &str = "linux-image-";
const PARTS: &[&str] = &["linux-binary-", "linux-modules-"];

/// What the tests run on: the oldest that Debian still has, the stable ones, the newest.
pub(crate) const MATRIX: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7"];

/// An unpacked kernel: with what QEMU boots and with modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As `uname -r` says, e.g. `6.12.107+deb13-cloud-amd64`.
    pub(crate) version: String,
    /// The image that QEMU boots.
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION`, wherever this package has it.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// What was unpacked into a folder; an error says what is not there.
    fn at(folder: &Path, version: &str) -> Result<Self> {
        let places = ["usr/lib/modules", "lib/modules"];
        let mut places = places
            .map(|place| folder.join(place).join(version))
            .into_iter();
        // The image may be in the same folder, so that its being there says nothing.
        let modules = places
            .find(|place| place.join("kernel").is_dir())
            .with_context(|| format!("no modules of {version} in {}", folder.display()))?;
        let places = [
            folder.join(format!("boot/vmlinuz-{version}")),
            modules.join("vmlinuz"),
        ];
        let image = places.into_iter().find(|place| place.is_file());
        Ok(Self {
            version: version.to_owned(),
            image: image
                .with_context(|| format!("no image of {version} in {}", folder.display()))?,
            modules,
        })
    }
}

/// A kernel that Debian's archive names. It keeps packages of superseded kernels for a while, and not all of them equally long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) version: String,
    /// Packages that together are the kernel.
    packages: Vec<String>,
    /// Those of them that the archive no longer has.
    pub(crate) missing: Vec<String>,
}

/// What follows a prefix of a version where a kernel is meant that is all preemptible (`PREEMPT_RT`): `6.12-rt`.
const REAL_TIME: &str = "-rt";

/// The beginning of a version, and the flavour of its kernel: Debian's for clouds, which has all that a guest needs, or the
/// real-time one.
fn wanted<'a>(cache: &Cache, prefix: &'a str) -> (&'a str, String) {
    match prefix.strip_suffix(REAL_TIME) {
        Some(version) => (version, format!("{REAL_TIME}-{}", cache.arch().name())),
        None => (prefix, cache.arch().flavour()),
    }
}

/// Kernels that are in the cache and whole, newest first.
pub(crate) fn cached(cache: &Cache) -> Result<Vec<Kernel>> {
    cached_of(cache, &cache.arch().flavour())
}

fn cached_of(cache: &Cache, flavour: &str) -> Result<Vec<Kernel>> {
    let is_wanted = |version: &str| is_version(version, flavour);
    let mut kernels: Vec<Kernel> = entries(cache)?
        .into_iter()
        .filter(|(version, _)| is_wanted(version))
        .filter_map(|(version, folder)| Kernel::at(&folder, &version).ok())
        .collect();
    kernels.sort_by_key(|kernel| Reverse(apt::version_numbers(&kernel.version)));
    Ok(kernels)
}

/// What is in the cache's folder of kernels, by name.
fn entries(cache: &Cache) -> Result<Vec<(String, PathBuf)>> {
    let folder = cache.kernels();
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let named = |path: PathBuf| Ok((project::name(&path)?.to_owned(), path));
    files::list(&folder)?.into_iter().map(named).collect()
}

/// Removes what is no whole kernel: an xtask that was ended left it, or one that did not know of missing packages.
fn remove_broken(cache: &Cache) -> Result<()> {
    for (version, folder) in entries(cache)? {
        if let Err(error) = Kernel::at(&folder, &version) {
            command::say(&format!("removing it: {error}"));
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
    }
    Ok(())
}

/// Kernels that Debian's archive names, newest first. Fetches the package lists when they are old.
pub(crate) fn available(cache: &Cache) -> Result<Vec<Offer>> {
    available_of(cache, &cache.arch().flavour())
}

fn available_of(cache: &Cache, flavour: &str) -> Result<Vec<Offer>> {
    let apt = Apt::for_guests(cache)?;
    let mut images = apt.names(IMAGE)?;
    images.retain(|name| {
        name.strip_prefix(IMAGE)
            .is_some_and(|version| is_version(version, flavour))
    });
    let mut offers = offers(&apt.depends(&images)?);
    offers.sort_by_key(|offer| Reverse(apt::version_numbers(&offer.version)));
    Ok(offers)
}

/// Reads what `apt-cache depends` says of image packages. Up to 6.18 such a package is the whole kernel, since then it is empty and depends
/// on one with the image and one with the modules. What the archive does not have is named in angle brackets.
fn offers(depends: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for line in depends.lines() {
        if let Some(version) = line.strip_prefix(IMAGE) {
            offers.push(Offer {
                version: version.to_owned(),
                packages: vec![line.to_owned()],
                missing: Vec::new(),
            });
        } else if let Some(offer) = offers.last_mut()
            && let Some(name) = line.trim_start().strip_prefix("Depends: ")
        {
            let plain = name.trim_matches(['<', '>']);
            if PARTS
                .iter()
                .any(|part| plain.strip_prefix(part) == Some(&offer.version))
            {
                let list = if plain == name {
                    &mut offer.packages
                } else {
                    &mut offer.missing
                };
                list.push(plain.to_owned());
            }
        }
    }
    offers
}

/// A full version of the flavour: `linux-image-6.1-cloud-amd64` only depends on the newest one.
fn is_version(name: &str, flavour: &str) -> bool {
    name.strip_suffix(flavour).is_some_and(|version| {
        version.starts_with(|first: char| first.is_ascii_digit())
            && apt::version_numbers(version).len() >= 3
    })
}

/// The newest cached kernel that matches.
pub(crate) fn newest_cached(cache: &Cache, prefix: &str) -> Result<Option<Kernel>> {
    let (prefix, flavour) = wanted(cache, prefix);
    Ok(cached_of(cache, &flavour)?
        .into_iter()
        .find(|kernel| apt::begins_with(&kernel.version, prefix)))
}

/// Downloads and unpacks the newest whole kernel of the archive that matches, if it isn't there yet. The cache has to be locked.
pub(crate) fn fetch(cache: &Cache, prefix: &str) -> Result<Kernel> {
    remove_broken(cache)?;
    let (prefix, flavour) = wanted(cache, prefix);
    let offers = available_of(cache, &flavour)?;
    let Offer { version, packages, .. } = newest(&offers, prefix).with_context(|| {
        let arch = cache.arch().name();
        format!("no kernel {prefix} of the flavour {flavour}; `cargo xtask vm --arch {arch} --list` shows what can be had")
    })?;
    let folder = cache.kernels().join(version);
    if let Ok(kernel) = Kernel::at(&folder, version) {
        return Ok(kernel);
    }
    command::say(&format!("downloading and unpacking kernel {version}"));
    replace(&folder, |new| {
        Apt::for_guests(cache)?.unpack_only(packages, new)?;
        let kernel = Kernel::at(new, version).map(drop);
        kernel.context("the packages of the archive are not what they were")
    })?;
    Kernel::at(&folder, version)
}

/// The first that matches and is whole; an error says what the others lack.
fn newest<'a>(offers: &'a [Offer], prefix: &str) -> Result<&'a Offer> {
    let mut matching = offers
        .iter()
        .filter(|offer| apt::begins_with(&offer.version, prefix));
    let Some(first) = matching.clone().next() else {
        bail!("Debian's archive does not name one");
    };
    matching.find(|offer| offer.missing.is_empty()).with_context(|| {
        format!(
            "Debian's archive names {}, but has no {} any more: of superseded kernels it drops packages one by one",
            first.version,
            first.missing.join(", ")
        )
    })
}

/// A part of the initramfs that belongs to one kernel.
pub(crate) fn part(cache: &Cache, kernel: &Kernel, name: &str) -> PathBuf {
    cache
        .guest()
        .join("kernels")
        .join(&kernel.version)
        .join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apt::begins_with;

    #[test]
    fn a_prefix_ends_at_a_number() {
        assert!(begins_with("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!begins_with("6.12.107+deb13-cloud-amd64", "6.1"));
        assert!(begins_with("6.12.107+deb13-cloud-amd64", "6.12.107"));
        assert!(begins_with("7.3.4+deb13-cloud-amd64", "7"));
        assert!(!begins_with("17.3.4+deb13-cloud-amd64", "7"));
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

    /// What `apt-cache depends` says: 7.2 and 6.18 are whole, of 7.1 and 6.19 something is gone.
    const DEPENDS: &str = "\
linux-image-7.2.12+deb13-cloud-amd64
  PreDepends: linux-base
 |Depends: dracut
  Depends: <linux-initramfs-tool>
    dracut
  Depends: linux-binary-7.2.12+deb13-cloud-amd64
  Depends: linux-modules-7.2.12+deb13-cloud-amd64
linux-image-7.2.13+deb13-cloud-amd64
  Depends: linux-binary-7.2.13+deb13-cloud-amd64
  Depends: <linux-modules-7.2.13+deb13-cloud-amd64>
linux-image-6.19.14+deb13-cloud-amd64
  Depends: <linux-binary-6.19.14+deb13-cloud-amd64>
  Depends: <linux-modules-6.19.14+deb13-cloud-amd64>
  Suggests: <linux-doc-6.19>
linux-image-6.18.15+deb13-cloud-amd64
  Depends: kmod
  Depends: <linux-base-6.18.15+deb13-cloud-amd64>
";

    #[test]
    fn the_newest_is_the_newest_whole_one() {
        let offers = offers(DEPENDS);
        let newest = |prefix| newest(&offers, prefix).map(|offer| offer.packages.as_slice());
        assert_eq!(
            newest("7").unwrap(),
            [
                "linux-image-7.2.12+deb13-cloud-amd64",
                "linux-binary-7.2.12+deb13-cloud-amd64",
                "linux-modules-7.2.12+deb13-cloud-amd64",
            ]
        );
        // What it depends on besides its parts need not be there.
        assert_eq!(
            newest("6.18").unwrap(),
            ["linux-image-6.18.15+deb13-cloud-amd64"]
        );
        assert_eq!(
            newest("6.19").unwrap_err().to_string(),
            "Debian's archive names 6.19.14+deb13-cloud-amd64, but has no \
             linux-binary-6.19.14+deb13-cloud-amd64, linux-modules-6.19.14+deb13-cloud-amd64 any more: \
             of superseded kernels it drops packages one by one"
        );
        assert!(
            newest("7.2.13")
                .unwrap_err()
                .to_string()
                .contains("no linux-modules-7.2.13")
        );
        assert!(
            newest("7.4")
                .unwrap_err()
                .to_string()
                .contains("does not name")
        );
    }

    #[test]
    fn what_is_not_whole_is_not_taken_and_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let whole = "6.1.0-56-cloud-amd64";
        let broken = "6.19.14+deb13-cloud-amd64";
        let make = |path: String| {
            let path = cache.kernels().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        make(format!("{whole}/boot/vmlinuz-{whole}"));
        make(format!("{whole}/lib/modules/{whole}/kernel/net/veth.ko"));
        // The folder of its modules is there, with the image in it.
        make(format!("{broken}/usr/lib/modules/{broken}/vmlinuz"));
        make(".new-abc/new/boot/part".to_owned());
        let versions = || -> Vec<String> {
            cached(&cache)
                .unwrap()
                .into_iter()
                .map(|kernel| kernel.version)
                .collect()
        };
        assert_eq!(versions(), [whole]);
        assert_eq!(entries(&cache).unwrap().len(), 3);
        remove_broken(&cache).unwrap();
        assert_eq!(versions(), [whole]);
        assert_eq!(entries(&cache).unwrap().len(), 1);
    }

    #[test]
    fn newest_is_by_number_not_by_letter() {
        assert!(apt::version_numbers("6.12.9") < apt::version_numbers("6.12.107+deb13"));
        assert!(apt::version_numbers("5.10.0-46") > apt::version_numbers("5.10.0-9"));
    }
}
