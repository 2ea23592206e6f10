//! Which network namespaces there are: those of processes, and those that are kept by a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::netns;
use super::{Inode, Problem, Root};
use crate::kernel::confinement::Confinement;
use crate::kernel::host::{self, HostUnseen, TO_SEE_PROCESSES};
use crate::kernel::namespace::namespace_of;

/// What the host's namespace is called, and no other.
pub(crate) const HOST_NAME: &str = "host";

/// The folders below `/run` where namespaces are kept by name: `ip netns` and CNI, then Docker.
const NAMED: [&str; 2] = ["netns", "docker/netns"];

/// A network namespace and the ways to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub inode: Inode,
    /// `host` ([`host::find`]), the name in `/run/netns`, else the number in digits.
    pub name: String,
    /// It is the reader's own.
    pub own: bool,
    /// A process in it.
    pub process: Option<u32>,
    /// That process may not be asked which one it is in: the kernel told.
    pub by_kernel: bool,
    /// A file that keeps it.
    pub file: Option<PathBuf>,
}

impl Namespace {
    /// The file to enter it by; `None` when there is none, or the state is a captured one.
    pub(crate) fn way_in(&self, root: &Root) -> Option<PathBuf> {
        let process = || {
            self.process
                .map(|process| root.proc(format!("{process}/ns/net")))
        };
        root.is_live()
            .then(|| self.file.clone().or_else(process))
            .flatten()
    }
}

/// What a look around found.
#[derive(Debug)]
pub(crate) struct FoundNamespaces {
    /// All that can be seen.
    pub namespaces: BTreeMap<Inode, Namespace>,
    /// Which of them is the host's; else why that can't be told.
    pub host: Result<Inode, HostUnseen>,
    /// What can't be seen, and what to do about it.
    pub problems: Vec<Problem>,
}

impl FoundNamespaces {
    fn entry(&mut self, inode: Inode) -> &mut Namespace {
        self.namespaces.entry(inode).or_insert_with(|| Namespace {
            inode,
            name: inode.to_string(),
            own: false,
            process: None,
            by_kernel: false,
            file: None,
        })
    }
}

/// Looks for all namespaces: those of processes, and those that are kept by a file.
pub(crate) fn discover(root: &Root) -> FoundNamespaces {
    let host = host::find(root);
    let mut found = FoundNamespaces {
        namespaces: BTreeMap::new(),
        host: host.clone().map(|host| host.inode),
        problems: Vec::new(),
    };
    let own = namespace_of(&root.proc("thread-self/ns/net")).ok();
    if let Some(own) = own {
        found.entry(own).own = true;
    }
    processes(root, &mut found);
    for kept in kept(root, &mut found.problems) {
        let namespace = found.entry(kept.inode);
        if namespace.file.is_none() {
            // One that is called like the host's is not taken for it.
            if kept.name != HOST_NAME {
                namespace.name = kept.name;
            }
            namespace.file = Some(kept.file);
        }
    }
    if let Ok(host) = host {
        let namespace = found.entry(host.inode);
        HOST_NAME.clone_into(&mut namespace.name);
        if host.by_kernel && !namespace.own && namespace.process.is_none() {
            namespace.process = Some(1);
            namespace.by_kernel = true;
        }
    }
    found
}

/// The namespaces of processes, each by the process with the lowest number.
fn processes(root: &Root, found: &mut FoundNamespaces) {
    let mut hidden = false;
    let processes = match process_numbers(root) {
        Ok(processes) => processes,
        Err(error) => {
            let proc = root.proc("");
            let problem = format!("{}: {error}; pods' tables can't be found", proc.display());
            found.problems.push(problem.into());
            return;
        }
    };
    for process in processes {
        match namespace_of(&root.proc(format!("{process}/ns/net"))) {
            Ok(inode) => {
                let lowest = &mut found.entry(inode).process;
                *lowest = Some(lowest.map_or(process, |before| before.min(process)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden = true,
            // It ended, or is a zombie that has no namespace any more.
            Err(_) => {}
        }
    }
    if hidden {
        let why = Confinement::of_this_thread(root, TO_SEE_PROCESSES);
        let problem = format!(
            "the network namespaces of some processes can't be seen ({why}), so tables may be missing"
        );
        found.problems.push(Problem::new(problem).help(why.help()));
    }
}

/// The numbers of all processes.
///
/// # Errors
/// When `/proc` can't be read.
pub(crate) fn process_numbers(root: &Root) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let entries = fs::read_dir(root.proc(""))?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// A network namespace that is kept by a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptNamespace {
    pub inode: Inode,
    /// What the file is called.
    pub name: String,
    pub file: PathBuf,
}

/// The namespaces that files keep. One may be there under several names.
pub(crate) fn kept(root: &Root, problems: &mut Vec<Problem>) -> Vec<KeptNamespace> {
    let mut found = Vec::new();
    for folder in NAMED {
        // Most machines have only one of these folders.
        let Ok(entries) = fs::read_dir(root.run(folder)) else {
            continue;
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let inode = if root.is_live() {
                netns::inode_of(&file)
            } else {
                namespace_of(&file).map(Some)
            };
            match (inode, file.file_name()) {
                (Ok(Some(inode)), Some(name)) => found.push(KeptNamespace {
                    inode,
                    name: name.to_string_lossy().into_owned(),
                    file,
                }),
                // Left of a namespace that is gone.
                (Ok(_), _) => {}
                (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {}
                (Err(error), _) => {
                    let problem = "some files that keep network namespaces can't be looked at";
                    Problem::new(problem)
                        .note(format_args!("{}: {error}", file.display()), problems);
                }
            }
        }
    }
    found
}
