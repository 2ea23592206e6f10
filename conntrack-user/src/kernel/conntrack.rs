//! Whether conntrack is in this kernel, and whether it is still the same instance.

use std::os::unix::fs::MetadataExt;
use std::{fs, io};

use super::Root;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Part of the kernel image: it can't go away.
    BuiltIn,
    /// A module that is loaded now, with the inode of `/sys/module/nf_conntrack`: that is numbered on at each
    /// loading (the times of sysfs folders are those of the first look, so they tell nothing).
    Module(u64),
    /// Not there: a module that is not loaded, or a kernel without it.
    Absent,
}

impl Presence {
    /// What is there now: one or two `stat` calls, cheap enough for every second.
    ///
    /// Comparing two values tells whether the module went away or was loaded again meanwhile.
    ///
    /// # Errors
    /// When sysfs can't be read.
    pub(crate) fn read(root: &Root) -> io::Result<Self> {
        let folder = root.sys("module/nf_conntrack");
        let explain = |path: &std::path::Path, error: &io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{}: {error}; it says whether conntrack is loaded (is /sys mounted?)",
                    path.display()
                ),
            )
        };
        let found = match fs::metadata(&folder) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let modules = root.sys("module");
                return match fs::metadata(&modules) {
                    Ok(_) => Ok(Self::Absent),
                    Err(error) => Err(explain(&modules, &error)),
                };
            }
            Err(error) => return Err(explain(&folder, &error)),
        };
        // What is built in has parameters there too, but only a module has a state.
        match fs::read(folder.join("initstate")) {
            Ok(state) if state.starts_with(b"live") => Ok(Self::Module(found.ino())),
            // Coming or going: not usable now.
            Ok(_) => Ok(Self::Absent),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::BuiltIn),
            // The module went away between the two calls.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Self::Absent),
            Err(error) => Err(explain(&folder.join("initstate"), &error)),
        }
    }

    /// Whether conntrack can be used now.
    pub(crate) fn is_loaded(self) -> bool {
        self != Self::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_absent_to_loaded_to_reloaded() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        assert!(
            Presence::read(&root)
                .unwrap_err()
                .to_string()
                .contains("/sys mounted")
        );

        let module = root.sys("module/nf_conntrack");
        fs::create_dir_all(root.sys("module")).unwrap();
        assert_eq!(Presence::read(&root).unwrap(), Presence::Absent);

        let load = |state: &str| {
            fs::create_dir(&module).unwrap();
            fs::write(module.join("initstate"), state).unwrap();
        };
        load("coming\n");
        assert_eq!(Presence::read(&root).unwrap(), Presence::Absent);
        fs::write(module.join("initstate"), "live\n").unwrap();
        let first = Presence::read(&root).unwrap();
        assert!(matches!(first, Presence::Module(_)));
        assert_eq!(Presence::read(&root).unwrap(), first);

        // Kept aside: an ordinary file system would hand out its inode again.
        fs::rename(&module, folder.path().join("gone")).unwrap();
        assert_eq!(Presence::read(&root).unwrap(), Presence::Absent);
        load("live\n");
        let second = Presence::read(&root).unwrap();
        assert!(second.is_loaded());
        assert_ne!(second, first);

        fs::remove_file(module.join("initstate")).unwrap();
        assert_eq!(Presence::read(&root).unwrap(), Presence::BuiltIn);
    }

    #[test]
    fn of_this_machine() {
        assert!(Presence::read(&Root::system()).is_ok());
    }
}
