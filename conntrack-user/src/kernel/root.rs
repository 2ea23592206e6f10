//! Where the files are that say what the kernel is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folder in which `proc`, `sys`, `run` and `var` are: `/` of a running system, or captured state.
///
/// ```
/// use std::path::Path;
/// use conntrack_user::kernel::Root;
///
/// assert_eq!(Root::system().proc("kallsyms"), Path::new("/proc/kallsyms"));
/// assert_eq!(Root::at("/captured").sys("module"), Path::new("/captured/sys/module"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    base: PathBuf,
    live: bool,
}

impl Root {
    /// The files of the running system.
    pub fn system() -> Self {
        Self {
            base: PathBuf::from("/"),
            live: true,
        }
    }

    /// State that was captured into `base` (`base/proc/...`, `base/sys/...`, and so on).
    pub fn at(base: impl Into<PathBuf>) -> Self {
        Self {
            base: base.into(),
            live: false,
        }
    }

    /// Whether this is the running system: only there can a namespace be entered or a netlink
    /// question be asked.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The file `relative` of procfs.
    pub fn proc(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.base.join("proc").join(relative)
    }

    /// The file `relative` of sysfs.
    pub fn sys(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.base.join("sys").join(relative)
    }

    /// The file `relative` of `/run`.
    pub fn run(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.base.join("run").join(relative)
    }

    /// The file `relative` of `/`.
    pub fn file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.base.join(relative)
    }

    /// The file `relative` of `/var`.
    pub fn var(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.base.join("var").join(relative)
    }
}

/// The text of a file; an error says of which.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl Default for Root {
    fn default() -> Self {
        Self::system()
    }
}
