//! What holds this process back from looking at others: a capability that it lacks, or a security module.

use std::fmt;
use std::fs;

use caps::Capability;
use ctpressure_model::words::{NAME_BYTES, clean_within};
use nix::unistd::Uid;

use super::Root;

/// Inode number of the first user namespace (`PROC_USER_INIT_INO`, `include/linux/proc_ns.h`): fixed since Linux 3.8.
const FIRST_USERS: &str = "user:[4026531837]";

/// What root is told who may not do something.
const FOR_ROOT: &str = "being root is not enough here: in a container, give it the capabilities that \
    docs/security.md names, in the host's user namespace; a security module such as AppArmor may forbid it too";

/// What to do about rights that are missing: `advice`, to run as root, unless this process does.
pub(crate) fn as_root(advice: &'static str) -> &'static str {
    if Uid::effective().is_root() {
        FOR_ROOT
    } else {
        advice
    }
}

/// Why the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// A capability is missing. `root`: the process is root all the same.
    Capability { name: String, root: bool },
    /// Its capabilities count in a user namespace of its own only.
    UserNamespace,
    /// A profile of `AppArmor` is enforced.
    AppArmor { profile: String },
    /// `SELinux` has put it into this context.
    Selinux { context: String },
    /// Nothing that can be seen from here.
    Unknown,
}

impl Confinement {
    /// What may have refused the calling thread something that needs all of these.
    pub(crate) fn of_this_thread(root: &Root, needed: &[Capability]) -> Self {
        let own = |file: &str| {
            fs::read_to_string(root.proc(format!("thread-self/{file}"))).unwrap_or_default()
        };
        let status = own("status");
        let word = |name: &str, at: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().nth(at)
        };
        let effective = word("CapEff:", 0).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let lacks = |effective: u64| {
            let mut needed = needed.iter();
            needed.find(|capability| (effective >> capability.index()) & 1 == 0)
        };
        if let Some(missing) = effective.and_then(lacks) {
            return Self::Capability {
                name: missing.to_string(),
                // The second of the four is the effective one.
                root: word("Uid:", 1) == Some("0"),
            };
        }
        let users = fs::read_link(root.proc("thread-self/ns/user"));
        if users.is_ok_and(|users| users.as_os_str() != FIRST_USERS) {
            return Self::UserNamespace;
        }
        // The first is of AppArmor alone, and there since Linux 5.8; the second of whichever module comes first.
        [own("attr/apparmor/current"), own("attr/current")]
            .iter()
            .find_map(|label| Self::of_label(label))
            .unwrap_or(Self::Unknown)
    }

    /// What a security module says of a process: `cri-containerd.apparmor.d (enforce)`, `unconfined`, or of `SELinux`
    /// `system_u:system_r:container_t:s0:c1,c2`.
    fn of_label(label: &str) -> Option<Self> {
        let label = label.trim_end_matches(['\0', '\n']);
        if let Some((profile, mode)) = label.rsplit_once(" (") {
            return ["enforce)", "kill)"]
                .contains(&mode)
                .then(|| Self::AppArmor {
                    profile: clean_within(profile, NAME_BYTES),
                });
        }
        let is_context = label.split(':').count() >= 3;
        (is_context && !label.contains(":unconfined_t")).then(|| Self::Selinux {
            context: clean_within(label, NAME_BYTES),
        })
    }

    /// What to do about it, for a person.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Capability { name, root: true } => {
                let short = name.trim_start_matches("CAP_");
                format!(
                    "give it {name}: of a container, add {short} to `securityContext.capabilities`"
                )
            }
            Self::Capability { name, root: false } => format!("run as root, or with {name}"),
            Self::UserNamespace => {
                "run it in the host's user namespace: of a pod, without `hostUsers: false`".to_owned()
            }
            Self::AppArmor { .. } => {
                "run it unconfined: of a pod, `securityContext.appArmorProfile.type: Unconfined` or, before \
                 Kubernetes 1.30, the annotation `container.apparmor.security.beta.kubernetes.io/NAME: unconfined` \
                 with the container's name"
                    .to_owned()
            }
            Self::Selinux { .. } => {
                "run it as `spc_t`: of a pod, `securityContext.seLinuxOptions.type: spc_t`".to_owned()
            }
            Self::Unknown => {
                "a security module may forbid it: see the kernel's log".to_owned()
            }
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capability { name, .. } => write!(to, "this process lacks {name}"),
            Self::UserNamespace => to.write_str("this process is in a user namespace of its own"),
            Self::AppArmor { profile } => {
                write!(to, "the AppArmor profile {profile} confines this process")
            }
            Self::Selinux { context } => {
                write!(to, "SELinux confines this process to {context}")
            }
            Self::Unknown => to.write_str("it has the capabilities for it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PTRACE: &[Capability] = &[Capability::CAP_SYS_PTRACE];

    /// What is said of a thread with these capabilities, user and label.
    fn said(capabilities: &str, user: u32, users: &str, label: &str) -> Confinement {
        let folder = tempfile::tempdir().unwrap();
        let thread = folder.path().join("proc/thread-self");
        for below in ["ns", "attr"] {
            fs::create_dir_all(thread.join(below)).unwrap();
        }
        let status = format!("Name:\tx\nUid:\t1000\t{user}\t0\t0\nCapEff:\t{capabilities}\n");
        fs::write(thread.join("status"), status).unwrap();
        fs::write(thread.join("attr/current"), label).unwrap();
        symlink(users, thread.join("ns/user")).unwrap();
        Confinement::of_this_thread(&Root::at(folder.path()), PTRACE)
    }

    const ALL: &str = "000001ffffffffff";
    const WITHOUT_PTRACE: &str = "000001fffff7ffff";

    #[test]
    fn a_missing_capability_is_named_and_root_is_not_told_to_be_root() {
        for (user, wanted) in [(0, "give it CAP_SYS_PTRACE"), (1000, "run as root")] {
            let said = said(WITHOUT_PTRACE, user, FIRST_USERS, "unconfined\n");
            assert_eq!(said.to_string(), "this process lacks CAP_SYS_PTRACE");
            let help = said.help();
            assert!(help.starts_with(wanted), "{help}");
            assert_eq!(user == 0, !help.contains("run as root"), "{help}");
        }
    }

    #[test]
    fn who_has_the_capability_is_told_what_else_confines_it() {
        let said = |users: &str, label: &str| said(ALL, 0, users, label);
        let profile = "cri-containerd.apparmor.d".to_owned();
        let enforced = said(FIRST_USERS, "cri-containerd.apparmor.d (enforce)\n");
        assert_eq!(enforced, Confinement::AppArmor { profile });
        assert!(
            enforced.help().contains("Unconfined"),
            "{}",
            enforced.help()
        );
        for harmless in ["unconfined\n", "x (complain)\n", "", "kernel"] {
            assert_eq!(said(FIRST_USERS, harmless), Confinement::Unknown);
        }
        let context = "system_u:system_r:container_t:s0:c1,c2";
        let selinux = said(FIRST_USERS, &format!("{context}\0"));
        assert!(matches!(&selinux, Confinement::Selinux { context: its } if its == context));
        let inside = said("user:[4026532000]", "unconfined\n");
        assert_eq!(inside, Confinement::UserNamespace);
        for confinement in [enforced, selinux, inside, Confinement::Unknown] {
            assert!(!confinement.help().contains("as root"));
        }
    }

    #[test]
    fn this_thread_is_told_something() {
        Confinement::of_this_thread(&Root::system(), PTRACE).help();
    }
}
