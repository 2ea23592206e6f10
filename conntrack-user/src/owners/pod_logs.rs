//! Names of pods, from the folders that the kubelet makes for their logs before it begins them:
//! `/var/log/pods/NAMESPACE_NAME_UID`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use ctpressure_model::words::{NAME_BYTES, clean_within};

use super::cgroup_path;
use crate::kernel::{Problem, Root};

/// How many folders are looked at.
const MOST: usize = 1 << 16;

/// A change of a folder may have the same time as one that was seen, if that was as short ago as
/// this: the kernel's clock for files has ticks.
const TICK: Duration = Duration::from_secs(2);

/// Namespace and name of each pod, by UID.
#[derive(Debug)]
pub(super) struct PodLogs {
    root: Root,
    names: HashMap<String, (String, String)>,
    /// When the folder was last changed, if what is in it was read after that.
    changed: Option<SystemTime>,
}

impl PodLogs {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            names: HashMap::new(),
            changed: None,
        }
    }

    /// Looks again. Names of pods in `present` whose folder is gone are kept.
    pub(super) fn look(&mut self, present: &HashSet<&str>, problems: &mut Vec<Problem>) {
        let folder = self.root.var("log/pods");
        let changed = match fs::metadata(&folder).and_then(|found| found.modified()) {
            Ok(changed) => changed,
            Err(error) => {
                // Without a kubelet there is no such folder.
                if error.kind() != io::ErrorKind::NotFound || !present.is_empty() {
                    let problem = format!(
                        "{}: {error}; pods are called by their UID",
                        folder.display()
                    );
                    problems.push(Problem::new(problem).help("make the host's folder readable"));
                }
                return;
            }
        };
        if self.changed == Some(changed) {
            return;
        }
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                let problem = format!(
                    "{}: {error}; pods are called by their UID",
                    folder.display()
                );
                problems.push(problem.into());
                return;
            }
        };
        let mut names = HashMap::new();
        let skipped = format!("some folders in {} are no pod's: skipped", folder.display());
        let mut odd = Problem::new(skipped);
        for entry in entries.flatten().take(MOST) {
            let name = entry.file_name();
            match name.to_str().ok_or(Odd::Shape).and_then(parse) {
                Ok((namespace, pod, uid)) => {
                    names.insert(uid, (namespace.to_owned(), pod.to_owned()));
                }
                Err(why) => {
                    let name = clean_within(&name.to_string_lossy(), NAME_BYTES);
                    odd.add(format_args!("{name:?} {why}"));
                }
            }
        }
        problems.extend(odd.if_any());
        for (uid, name) in self.names.drain() {
            if present.contains(uid.as_str()) {
                names.entry(uid).or_insert(name);
            }
        }
        self.names = names;
        let settled = SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age > TICK);
        self.changed = settled.then_some(changed);
    }

    /// Namespace and name of a pod.
    pub(super) fn name(&self, uid: &str) -> Option<(&str, &str)> {
        self.names
            .get(uid)
            .map(|(namespace, pod)| (namespace.as_str(), pod.as_str()))
    }
}

/// Why a folder's name is not a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Odd {
    #[error("is not of the form NAMESPACE_NAME_UID")]
    Shape,
    #[error("has no UID at its end")]
    Uid,
    #[error("has a name that Kubernetes does not allow")]
    Name,
}

/// Namespace, name and UID. Neither of the names may contain `_`.
fn parse(folder: &str) -> Result<(&str, &str, String), Odd> {
    let mut parts = folder.split('_');
    let (Some(namespace), Some(pod), Some(uid), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Odd::Shape);
    };
    let uid = cgroup_path::uid(uid).ok_or(Odd::Uid)?;
    let allowed = |name: &str, longest: usize| {
        !name.is_empty()
            && name.len() <= longest
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    // RFC 1123: a label, and a subdomain.
    if !allowed(namespace, 63) || namespace.contains('.') || !allowed(pod, 253) {
        return Err(Odd::Name);
    }
    Ok((namespace, pod, uid))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt as _;

    use proptest::prelude::*;

    use super::*;

    const UID: &str = "1f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b77";
    const HASH: &str = "7b1a6a3e5d1c8b771f0c6f4e2d0b4a52";

    #[test]
    fn names() {
        let uid = format!("kube-system_etcd-node.example_{HASH}");
        assert_eq!(
            parse(&uid),
            Ok(("kube-system", "etcd-node.example", HASH.to_owned()))
        );
        for (name, why) in [
            (String::new(), Odd::Shape),
            ("lost+found".to_owned(), Odd::Shape),
            (format!("shop_cart-0_extra_{UID}"), Odd::Shape),
            ("shop_cart-0_1234".to_owned(), Odd::Uid),
            (format!("shop__{UID}"), Odd::Name),
            (format!("sh.op_cart_{UID}"), Odd::Name),
            (format!("shop_ca\"rt_{UID}"), Odd::Name),
            (format!("shop_{}_{UID}", "x".repeat(254)), Odd::Name),
        ] {
            assert_eq!(parse(&name), Err(why), "{name}");
        }
    }

    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path().join("var/log/pods");
        let mut logs = PodLogs::new(Root::at(folder.path()));
        let mut problems = Vec::new();
        logs.look(&HashSet::new(), &mut problems);
        assert!(problems.is_empty(), "no kubelet: {problems:?}");
        logs.look(&HashSet::from([UID]), &mut problems);
        assert!(problems[0].contains("log/pods"), "{problems:?}");
        problems.clear();

        fs::create_dir_all(pods.join(format!("shop_cart-0_{UID}"))).unwrap();
        logs.look(&HashSet::from([UID]), &mut problems);
        assert_eq!(logs.name(UID), Some(("shop", "cart-0")));
        assert_eq!((logs.name(HASH), problems.len()), (None, 0));

        // Odd ones are skipped, and one is named; what they contain can't hurt a terminal.
        fs::create_dir(pods.join(OsStr::from_bytes(b"\x1b[31m_\xff_\n"))).unwrap();
        fs::create_dir(pods.join(format!("shop_db-0_{HASH}"))).unwrap();
        logs.look(&HashSet::from([UID, HASH]), &mut problems);
        assert_eq!(logs.name(HASH), Some(("shop", "db-0")));
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].contains("skipped") && !problems[0].contains("\x1b"),
            "{problems:?}"
        );

        // A pod outlives its logs for a moment.
        for name in [format!("shop_cart-0_{UID}"), format!("shop_db-0_{HASH}")] {
            fs::remove_dir(pods.join(name)).unwrap();
        }
        logs.look(&HashSet::from([UID]), &mut problems);
        assert_eq!(
            (logs.name(UID), logs.name(HASH)),
            (Some(("shop", "cart-0")), None)
        );
    }

    #[test]
    fn a_folder_that_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path().join("var/log/pods");
        fs::create_dir_all(pods.join(format!("shop_cart-0_{UID}"))).unwrap();
        let hour = SystemTime::now() - Duration::from_hours(1);
        let mut logs = PodLogs::new(Root::at(folder.path()));
        File::open(&pods).unwrap().set_modified(hour).unwrap();
        logs.look(&HashSet::new(), &mut Vec::new());
        assert_eq!(logs.changed, Some(hour));
        fs::create_dir(pods.join(format!("shop_db-0_{HASH}"))).unwrap();
        File::open(&pods).unwrap().set_modified(hour).unwrap();
        logs.look(&HashSet::new(), &mut Vec::new());
        assert_eq!(logs.name(HASH), None);
    }

    proptest! {
        #[test]
        fn any_name_is_read(name in "\\PC{0,60}", parts in prop::collection::vec("[a-z.-]{0,9}", 0..5)) {
            drop(parse(&name));
            let folder = format!("{}_{UID}", parts.join("_"));
            if let Ok((namespace, pod, uid)) = parse(&folder) {
                prop_assert_eq!(format!("{namespace}_{pod}_{uid}"), folder);
            }
        }
    }
}
