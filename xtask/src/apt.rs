//! A private apt: Debian packages of any suite, downloaded and unpacked into the cache. Nothing is installed into the
//! system, its lists and its configuration stay as they are, and no root is needed.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cache::{Cache, replace};
use crate::command;
use crate::files;

/// Debian's key ring; the lists are checked against it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DEFAULT_MIRROR: &str = "http://deb.debian.org";
/// A stable suite changes every few weeks; a list of yesterday still names packages that are there.
const LISTS_STAY_FRESH: Duration = Duration::from_hours(24);

/// Suites whose kernels and guest tools are used, oldest first.
pub(crate) const ALL_SUITES: &[&str] = &[
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-backports",
    "testing",
];

/// What every configuration has; FOLDER stands for where it is.
const CONFIGURATION: &str = include_str!("apt.conf");

/// One configuration with its lists and archives.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    suites: Vec<String>,
    /// Of guests, in which nothing is installed: packages and all that they depend on are fetched. `None`: for this machine,
    /// of which only what it lacks is fetched.
    guests: Option<Arch>,
    sources: bool,
}

impl Apt {
    /// The apt for kernels and guest tools: every suite. Its lists, as those of the others, are of today.
    pub(crate) fn for_guests(cache: &Cache) -> Result<Self> {
        let suites = ALL_SUITES.iter().map(|suite| (*suite).to_owned()).collect();
        let folder = cache.place(&format!("apt{}", cache.arch().suffix()));
        Self::new(folder, suites, Some(cache.arch()), false)
    }

    /// The apt for programs that run on this machine: its own suite and the backports of that.
    pub(crate) fn for_this_machine(cache: &Cache, suite: &str) -> Result<Self> {
        let suites = ["", "-security", "-backports"].map(|part| format!("{suite}{part}"));
        Self::new(cache.place("apt-qemu"), suites.into(), None, false)
    }

    /// The apt for what is built from one suite's source packages.
    pub(crate) fn with_sources(cache: &Cache, suite: &str) -> Result<Self> {
        let folder = cache.place("apt-source");
        Self::new(folder, vec![suite.to_owned()], Some(Arch::Amd64), true)
    }

    fn new(
        folder: PathBuf,
        suites: Vec<String>,
        guests: Option<Arch>,
        sources: bool,
    ) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg"] {
            if command::find(program).is_none() {
                bail!(
                    "`{program}` is missing: kernels and tools come from Debian's archive, and this machine \
                     has no apt.\nOn another system, do this in a Debian 12 or 13 container or machine and set \
                     CTPRESSURE_CACHE to a folder that both see."
                );
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!(
                "{KEYRING} is missing: without it packages can't be checked. \
                 Install it: sudo apt-get install debian-archive-keyring"
            );
        }
        let apt = Self {
            folder,
            suites,
            guests,
            sources,
        };
        apt.configure()?;
        apt.update()?;
        Ok(apt)
    }

    fn configure(&self) -> Result<()> {
        for folder in ["etc", "lists/partial", "cache/archives/partial"] {
            files::folder(&self.folder.join(folder))?;
        }
        let mirror = env::var("CTPRESSURE_DEBIAN_MIRROR").unwrap_or_else(|_| DEFAULT_MIRROR.into());
        let mirror = mirror.trim_end_matches('/');
        let sources = self.suites.iter().map(|suite| {
            let archive = if suite.ends_with("-security") {
                "debian-security"
            } else {
                "debian"
            };
            let place = format!("{mirror}/{archive} {suite} main\n");
            let mut lines = format!(
                "deb [arch={} signed-by={KEYRING}] {place}",
                self.guests.unwrap_or_default().name()
            );
            if self.sources {
                lines.extend(["deb-src [signed-by=", KEYRING, "] ", &place]);
            }
            lines
        });
        write_if_changed(
            &self.folder.join("etc/sources.list"),
            &sources.collect::<String>(),
        )?;

        let folder = self.folder.display().to_string();
        let mut configuration = CONFIGURATION.replace("FOLDER", &folder);
        if let Some(arch) = self.guests {
            configuration.push_str("Dir::State::Status \"/dev/null\";\n");
            for key in ["Architecture", "Architectures"] {
                configuration.extend(["APT::", key, " \"", arch.name(), "\";\n"]);
            }
        }
        write_if_changed(&self.folder.join("etc/apt.conf"), &configuration)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.join("etc/apt.conf"));
        command
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Fetches the lists of packages, unless they are of today.
    fn update(&self) -> Result<()> {
        let stamp = self.folder.join("updated");
        let age = files::modified(&stamp).map(|time| time.elapsed().unwrap_or_default());
        if files::newer(&stamp, &self.folder.join("etc/sources.list"))
            && age.is_some_and(|age| age < LISTS_STAY_FRESH)
        {
            return Ok(());
        }
        command::say(&format!(
            "fetching the package lists of {}",
            self.suites.join(", ")
        ));
        let mut update = self.command("apt-get");
        update.args(command::quiet("-qq"));
        command::run(update.args(["-o", "APT::Update::Error-Mode=any", "update"])).context(
            "Debian's archive could not be reached: check the network or set CTPRESSURE_DEBIAN_MIRROR",
        )?;
        files::write(&stamp, "")
    }

    /// All package names that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = command::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// What packages depend on, as `apt-cache depends` prints it.
    pub(crate) fn depends(&self, packages: &[String]) -> Result<String> {
        command::output(self.command("apt-cache").arg("depends").args(packages))
    }

    /// The version of a package that begins so and ends there or before another part.
    pub(crate) fn version(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let lines = command::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(lines
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(str::trim)
            .find(|version| begins_with(version, prefix))
            .map(str::to_owned))
    }

    /// Downloads just these packages and unpacks them into a folder.
    pub(crate) fn unpack_only(&self, packages: &[String], target: &Path) -> Result<()> {
        self.fetch_and_unpack(target, |apt| {
            let mut download = apt.command("apt-get");
            // Into the folder that it runs in.
            download
                .current_dir(apt.archives())
                .arg("download")
                .args(packages);
            download
        })
    }

    /// Downloads packages and all that they depend on and that counts as missing, and unpacks them into a folder.
    pub(crate) fn unpack_with_dependencies(
        &self,
        packages: &[impl AsRef<OsStr>],
        suite: &str,
        target: &Path,
    ) -> Result<()> {
        self.fetch_and_unpack(target, |apt| apt.download(packages, suite))
    }

    /// Downloads a source package, which apt checks, and unpacks it with Debian's patches into a new folder.
    pub(crate) fn unpack_source(&self, package: &str, target: &Path) -> Result<()> {
        let mut unpack = command::required("dpkg-source", "dpkg-dev", "unpacks source packages")?;
        let folder =
            tempfile::tempdir_in(&self.folder).context("make a folder for a source package")?;
        let mut download = self.command("apt-get");
        download.current_dir(folder.path());
        command::run(download.args(["-qq", "source", "--download-only", package]))?;
        let description = files::list(folder.path())?
            .into_iter()
            .find(|path| path.extension().is_some_and(|ending| ending == "dsc"))
            .with_context(|| format!("the source package {package} has no description"))?;
        let parent = target
            .parent()
            .context("a folder for sources has a parent")?;
        files::folder(parent)?;
        unpack
            .args(["--no-check", "--extract"])
            .arg(&description)
            .arg(target);
        command::output(&mut unpack).map(drop)
    }

    /// Takes one program out of a package, to where it is to be.
    pub(crate) fn bring_program(&self, package: &str, program: &str, target: &Path) -> Result<()> {
        let folder = tempfile::tempdir().context("make a folder")?;
        self.unpack_only(&[package.to_owned()], folder.path())?;
        let unpacked = folder.path().join("usr/bin").join(program);
        replace(target, |new| files::copy(&unpacked, new))
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    /// As [`Self::unpack_with_dependencies`], and writes down for the dpkg in the folder that they are installed, though none of their scripts
    /// ran. The folder of dpkg's records is there.
    pub(crate) fn unpack_as_installed(
        &self,
        packages: &[impl AsRef<OsStr>],
        suite: &str,
        target: &Path,
    ) -> Result<()> {
        let mut status = String::new();
        self.fetch(|apt| apt.download(packages, suite))?;
        for package in packages_in(&self.archives())? {
            let run = |words: &[&str], folder: Option<&Path>| {
                let mut dpkg = Command::new("dpkg-deb");
                command::output(dpkg.args(words).arg(&package).args(folder))
            };
            let control = run(&["--field"], None)?;
            let field = |name: &str| {
                let mut lines = control.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            let name = field("Package").context("a package has a name")?;
            let same = field("Multi-Arch") == Some("same");
            let qualifier = field("Architecture").filter(|_| same);
            let name = qualifier.map_or_else(|| name.to_owned(), |arch| format!("{name}:{arch}"));
            let listed = run(&["--vextract"], Some(target))?;
            let list: String = listed
                .lines()
                .map(|line| line.trim_start_matches('.').trim_end_matches('/'))
                .map(|path| if path.is_empty() { "/." } else { path }.to_owned() + "\n")
                .collect();
            files::write(&target.join(format!("var/lib/dpkg/info/{name}.list")), list)?;
            let (first, rest) = control.split_once('\n').unwrap_or((&control, ""));
            let installed = "\nStatus: install ok installed\n";
            status.extend([first, installed, rest.trim_end(), "\n\n"]);
            fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
        }
        files::write(&target.join("var/lib/dpkg/status"), status)
    }

    /// Downloads packages and all that they depend on and that counts as missing.
    fn download(&self, packages: &[impl AsRef<OsStr>], suite: &str) -> Command {
        let mut install = self.command("apt-get");
        install.args("install --download-only --no-install-recommends --yes".split(' '));
        install.args(["-t", suite]).args(packages);
        install
    }

    fn fetch(&self, command: impl Fn(&Self) -> Command) -> Result<()> {
        command::run(command(self).args(command::quiet("-qq")))
    }

    fn fetch_and_unpack(&self, target: &Path, command: impl Fn(&Self) -> Command) -> Result<()> {
        self.fetch(command)?;
        files::folder(target)?;
        for package in packages_in(&self.archives())? {
            command::output(Command::new("dpkg").arg("-x").arg(&package).arg(target))?;
            // What is unpacked need not be kept, and the next job finds only its own packages.
            fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
        }
        Ok(())
    }
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = files::list(folder)?;
    packages.retain(|path| path.extension().is_some_and(|ending| ending == "deb"));
    packages.sort();
    Ok(packages)
}

fn write_if_changed(path: &Path, content: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    files::write(path, content)
}

/// Where programs that were unpacked for this machine find their libraries: `LD_LIBRARY_PATH`. What it says already stays, behind that:
/// where cargo runs by rustup the toolchain is in it, in which the linker of the eBPF object finds LLVM.
pub(crate) fn libraries(folder: &Path) -> OsString {
    libraries_before(folder, env::var_os("LD_LIBRARY_PATH"))
}

fn libraries_before(folder: &Path, others: Option<OsString>) -> OsString {
    let own = ["usr/lib", "lib"].map(|place| folder.join(place).join(Arch::Amd64.libraries()));
    let mut places = own.map(PathBuf::into_os_string).join(OsStr::new(":"));
    // An empty one would stand for the working folder.
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        places.push(":");
        places.push(others);
    }
    places
}

/// The Debian suite of this machine, e.g. `bookworm`.
pub(crate) fn suite_of_this_machine() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(suite)) => Ok(suite),
        (id, _) => bail!(
            "this machine is not Debian (ID={}), so a package of its suite can't be chosen",
            id.unwrap_or("unknown")
        ),
    }
}

/// Whether a version begins so: `6.1` is a prefix of `6.1.0-56` but not of `6.12`.
pub(crate) fn begins_with(version: &str, prefix: &str) -> bool {
    let rest = version.strip_prefix(prefix);
    rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// The numbers in a version, for comparing: `6.12.107+deb13` is 6, 12, 107, 13.
pub(crate) fn version_numbers(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_are_found_already_stay() {
        let places =
            |others: Option<&str>| libraries_before(Path::new("/x"), others.map(OsString::from));
        let own = "/x/usr/lib/x86_64-linux-gnu:/x/lib/x86_64-linux-gnu";
        assert_eq!(places(None), *own);
        assert_eq!(places(Some("")), *own);
        assert_eq!(
            places(Some("/toolchain/lib")),
            *format!("{own}:/toolchain/lib")
        );
    }
}
