//! Which network namespace is the host's. Never guessed: whose addresses and sockets are charged as the host's, and
//! which table is called `host`, hangs on it.
//!
//! It is that of the machine's first process. The first of these that tells decides:
//!
//! 1. `/proc/1/ns/net`, if process 1 is that of the machine: this process is in the first process number namespace, or
//!    in that of a machine within the machine (a node that is a container, such as those of kind).
//! 2. The kernel itself, by a program that follows its structures (`first_process`).
//! 3. The own network namespace, if its number is the one that only the first can have.
//!
//! Else it is not known, and [`HostUnseen`] says why and what to do.

use std::fs;
use std::io;

use caps::Capability;

use super::confinement::Confinement;
use super::namespace::namespace_of;
use super::{Problem, Root};
use crate::sys::netns::{self, Inode};

mod first_process;

/// Number of the first process number namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`): fixed since Linux 3.8.
const FIRST_NUMBERS: &str = "pid:[4026531836]";

/// Number of the first network namespace from Linux 6.18 on (`NET_NS_INIT_INO`, `include/uapi/linux/nsfs.h`). Before,
/// none has it: numbers that are given begin at 0xf0000000.
const FIRST_NETWORK: Inode = 0xefff_fff9;

/// What is needed to see which namespaces a process is in.
pub(crate) const TO_SEE_PROCESSES: &[Capability] = &[Capability::CAP_SYS_PTRACE];

/// The host's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostNamespace {
    /// Its number.
    pub inode: Inode,
    /// The folder of `/proc` whose `net` shows it: of process 1, or of the calling thread, which is in it.
    pub folder: &'static str,
    /// Which namespace the process of that folder is in may not be asked, but is known.
    pub by_kernel: bool,
}

impl HostNamespace {
    /// What `ask` says inside of it; `None`: it can't be entered, or nothing.
    pub(crate) fn inside<T: Send>(
        &self,
        root: &Root,
        ask: impl Fn() -> Option<T> + Sync,
    ) -> Option<T> {
        if self.folder != "1" {
            return ask();
        }
        let target = (self.inode, root.proc("1/ns/net"), ());
        let found = netns::visit(&[target], |(), entered| entered.ok().and_then(|()| ask()));
        found.into_iter().next().and_then(|(_, found)| found)
    }
}

/// Why it can't be told which network namespace is the host's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostUnseen {
    /// Process 1 may not be looked at, and the kernel can't be asked.
    #[error("/proc/1/ns/net: {error}; {confinement}; the kernel does not tell either: {kernel}")]
    Refused {
        error: String,
        confinement: Confinement,
        kernel: String,
    },
    /// Process 1 is one of a container.
    #[error(
        "process 1 is a container's here, which is in another network namespace than the host{0}"
    )]
    OwnNumbers(String),
}

impl HostUnseen {
    /// What to do about it, for a person.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Refused { confinement, .. } => confinement.help(),
            Self::OwnNumbers(_) => {
                "run it with the host's process numbers: of a pod, `hostPID: true`".to_owned()
            }
        }
    }

    /// What is wrong, what it means, what to do.
    pub(crate) fn problem(&self) -> Problem {
        let what = format!(
            "the host's network namespace is not known, so its table and what is the host's are not seen: {self}"
        );
        Problem::new(what).help(self.help())
    }
}

/// The host's network namespace, as far as it can be told.
///
/// # Errors
/// Why it can't be told.
pub(crate) fn find(root: &Root) -> Result<HostNamespace, HostUnseen> {
    find_by(root, || {
        if root.is_live() {
            first_process::network_namespace()
        } else {
            Err("this state is captured".to_owned())
        }
    })
}

/// As [`find`]; `ask` asks the kernel for the namespace of the machine's first process.
fn find_by(
    root: &Root,
    ask: impl FnOnce() -> Result<Inode, String>,
) -> Result<HostNamespace, HostUnseen> {
    let own = namespace_of(&root.proc("thread-self/ns/net")).ok();
    let first = namespace_of(&root.proc("1/ns/net"));
    let found = |inode, by_kernel| HostNamespace {
        inode,
        folder: if own == Some(inode) {
            "thread-self"
        } else {
            "1"
        },
        by_kernel,
    };
    // A kernel without such namespaces has one set of numbers.
    let numbers = fs::read_link(root.proc("thread-self/ns/pid"));
    let all_numbers = numbers.map_or(true, |numbers| numbers.as_os_str() == FIRST_NUMBERS);
    let error = match first {
        Ok(inode) if all_numbers || is_nested_machine(root) => return Ok(found(inode, false)),
        first => first.err(),
    };
    if own == Some(FIRST_NETWORK) {
        return Ok(found(FIRST_NETWORK, true));
    }
    match ask() {
        // Process 1 here is another one than the kernel spoke of.
        Ok(inode) if all_numbers || own == Some(inode) => Ok(found(inode, true)),
        Ok(_) => Err(HostUnseen::OwnNumbers(String::new())),
        Err(kernel) if !all_numbers => {
            Err(HostUnseen::OwnNumbers(format!(", or may be ({kernel})")))
        }
        Err(kernel) => Err(HostUnseen::Refused {
            error: error.map_or_else(String::new, |error| error.to_string()),
            confinement: Confinement::of_this_thread(root, TO_SEE_PROCESSES),
            kernel,
        }),
    }
}

/// Whether process 1, with which another set of process numbers begins, is that of a whole machine: it is in another
/// control group than this process, one that can be seen from here, and no process that can be seen is without a number.
fn is_nested_machine(root: &Root) -> bool {
    let group = |process: &str| fs::read_to_string(root.proc(format!("{process}/cgroup")));
    let (Ok(first), Ok(own)) = (group("1"), group("thread-self")) else {
        return false;
    };
    let hierarchies = ["", "unified/", "pids/", "systemd/"];
    let all = hierarchies
        .iter()
        .map(|at| fs::read_to_string(root.sys(format!("fs/cgroup/{at}cgroup.procs"))))
        .find(io::Result::is_ok);
    let Some(Ok(all)) = all else { return false };
    first != own && !first.contains("/..") && !all.lines().any(|process| process == "0")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const HOST: Inode = 4_026_531_840;
    const POD: Inode = 4_026_532_500;

    /// What a process sees.
    struct Seen(TempDir);

    impl Seen {
        /// In the network namespace `own`; `first`: that of process 1, if it may be looked at.
        fn new(own: Inode, first: Option<Inode>, numbers: &str) -> Self {
            let seen = Self(tempfile::tempdir().unwrap());
            seen.link("proc/thread-self/ns/net", &format!("net:[{own}]"));
            seen.link("proc/thread-self/ns/pid", numbers);
            if let Some(first) = first {
                seen.link("proc/1/ns/net", &format!("net:[{first}]"));
            }
            seen.write(
                "proc/thread-self/status",
                "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
            );
            seen.write(
                "proc/thread-self/attr/current",
                "docker-default (enforce)\n",
            );
            seen
        }

        fn path(&self, file: &str) -> std::path::PathBuf {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn link(&self, file: &str, target: &str) {
            symlink(target, self.path(file)).unwrap();
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.path(file), text).unwrap();
        }

        fn host(&self, kernel: Result<Inode, &str>) -> Result<HostNamespace, HostUnseen> {
            let root = Root::at(self.0.path());
            find_by(&root, || kernel.map_err(str::to_owned))
        }
    }

    const fn host(folder: &'static str, by_kernel: bool) -> HostNamespace {
        HostNamespace {
            inode: HOST,
            folder,
            by_kernel,
        }
    }

    #[test]
    fn process_1_tells_it_from_wherever_it_may_be_looked_at() {
        for (own, folder) in [(HOST, "thread-self"), (POD, "1")] {
            let seen = Seen::new(own, Some(HOST), FIRST_NUMBERS);
            assert_eq!(seen.host(Err("not asked")), Ok(host(folder, false)));
        }
    }

    #[test]
    fn who_may_not_look_at_process_1_asks_the_kernel() {
        for (own, folder) in [(HOST, "thread-self"), (POD, "1")] {
            let seen = Seen::new(own, None, FIRST_NUMBERS);
            assert_eq!(seen.host(Ok(HOST)), Ok(host(folder, true)));
        }
    }

    #[test]
    fn the_own_namespace_is_never_taken_for_the_hosts() {
        for own in [HOST, POD] {
            let seen = Seen::new(own, None, FIRST_NUMBERS);
            let unseen = seen.host(Err("no BTF")).unwrap_err();
            let said = unseen.problem().to_string();
            for words in ["docker-default", "no BTF", "Unconfined", "not seen"] {
                assert!(said.contains(words), "`{words}` is not in `{said}`");
            }
            assert!(!said.contains("as root"), "{said}");
        }
    }

    #[test]
    fn the_number_of_the_first_from_6_18_on_needs_no_question() {
        let seen = Seen::new(FIRST_NETWORK, None, FIRST_NUMBERS);
        assert_eq!(seen.host(Err("no BTF")).unwrap().inode, FIRST_NETWORK);
    }

    #[test]
    fn process_1_of_a_container_tells_nothing() {
        let own_numbers = "pid:[4026532501]";
        let seen = Seen::new(POD, Some(POD), own_numbers);
        for kernel in [Ok(HOST), Err("no BTF")] {
            let unseen = seen.host(kernel).unwrap_err();
            assert!(unseen.help().contains("hostPID"), "{unseen}");
        }
        // In the host's network it is in the right one all the same.
        let seen = Seen::new(HOST, Some(HOST), own_numbers);
        assert_eq!(seen.host(Ok(HOST)), Ok(host("thread-self", true)));
    }

    #[test]
    fn a_machine_in_a_container_has_a_host_of_its_own() {
        let nested = |first: &str, own: &str, all: &str| {
            let seen = Seen::new(POD, Some(HOST), "pid:[4026532501]");
            seen.write("proc/1/cgroup", first);
            seen.write("proc/thread-self/cgroup", own);
            seen.write("sys/fs/cgroup/cgroup.procs", all);
            seen.host(Ok(1)).is_ok()
        };
        assert!(nested("0::/init.scope\n", "0::/kubepods/x\n", "1\n"));
        assert!(nested("0::/init.scope\n", "0::/\n", ""));
        assert!(!nested("0::/\n", "0::/\n", "1\n"), "it is this container's");
        assert!(
            !nested("0::/../pause\n", "0::/\n", "1\n"),
            "it is this pod's"
        );
        assert!(
            !nested("0::/a\n", "0::/b\n", "0\n0\n1\n"),
            "others are outside"
        );
    }

    proptest! {
        /// Whatever can be seen: it is the host's, or it is not told.
        #[test]
        fn it_is_right_or_not_told(in_host: bool, may_look: bool, hosts_numbers: bool, kernel_tells: bool) {
            let own = if in_host { HOST } else { POD };
            let (first, numbers) = if hosts_numbers { (HOST, FIRST_NUMBERS) } else { (own, "pid:[4026532501]") };
            let seen = Seen::new(own, may_look.then_some(first), numbers);
            let kernel = if kernel_tells { Ok(HOST) } else { Err("no BTF") };
            if let Ok(found) = seen.host(kernel) {
                prop_assert_eq!(found.inode, HOST);
            } else {
                prop_assert!(!kernel_tells || !hosts_numbers && !in_host);
            }
        }
    }
}
