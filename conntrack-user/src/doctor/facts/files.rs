//! What files set at the next boot: `sysctl.d` and `modprobe.d`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Facts, place};
use crate::kernel::Root;

/// Folders in which a file hides one of the same name in a later folder (sysctl.d(5)), and the kinds of
/// files in them.
const SYSCTL: [&str; 5] = [
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
];
const MODPROBE: [&str; 5] = [
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
];
/// Read last by procps; systemd has a link to it in `/etc/sysctl.d`.
const SYSCTL_CONF: &str = "etc/sysctl.conf";
/// No such file is longer.
const MOST_BYTES: u64 = 1 << 20;

/// A setting in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSetting {
    pub file: PathBuf,
    /// `nf_conntrack_max` and so on; `hashsize`: the parameter of the module.
    pub name: String,
    pub value: u64,
}

impl Facts {
    /// The setting that wins at boot: the last one.
    pub(crate) fn set_by_file(&self, name: &str) -> Option<&FileSetting> {
        self.files.iter().rev().find(|setting| setting.name == name)
    }
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let Some(base) = place::files_of_node(root) else {
        facts.could_not(
            "sysctl.d and modprobe.d of the node",
            &"from this container they are not seen",
            "run it with the host's process numbers: of a pod, `hostPID: true`",
        );
        return;
    };
    let shown = |path: &Path| {
        path.strip_prefix(&base)
            .map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest))
    };
    for (folders, parse) in [
        (SYSCTL, parse_sysctl as fn(&str) -> Option<(String, u64)>),
        (MODPROBE, parse_modprobe),
    ] {
        for path in in_order(&base, &folders) {
            read(&path, &shown(&path), parse, facts);
        }
    }
    let path = base.join(SYSCTL_CONF);
    if path.is_file() {
        read(&path, &shown(&path), parse_sysctl, facts);
    }
    facts.looked.push("sysctl.d and modprobe.d");
}

/// The files of several folders in the order in which they are applied: by name.
fn in_order(base: &Path, folders: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<(std::ffi::OsString, usize, PathBuf)> = Vec::new();
    for (rank, folder) in folders.iter().enumerate() {
        let Ok(entries) = fs::read_dir(base.join(folder)) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "conf") {
                files.push((entry.file_name(), rank, path));
            }
        }
    }
    files.sort();
    files.dedup_by(|later, earlier| later.0 == earlier.0);
    files.into_iter().map(|(_, _, path)| path).collect()
}

fn read(path: &Path, shown: &Path, parse: fn(&str) -> Option<(String, u64)>, facts: &mut Facts) {
    let text = fs::metadata(path).and_then(|about| {
        if about.is_file() && about.len() <= MOST_BYTES {
            fs::read_to_string(path)
        } else {
            Ok(String::new())
        }
    });
    match text {
        Ok(text) => {
            facts.files.extend(
                text.lines()
                    .filter_map(parse)
                    .map(|(name, value)| FileSetting {
                        file: shown.to_owned(),
                        name,
                        value,
                    }),
            );
        }
        Err(error) => facts.could_not(
            "a file that may set the limit",
            &format!("{}: {error}", shown.display()),
            "run as root",
        ),
    }
}

/// A line of `sysctl.d`: `net.netfilter.nf_conntrack_max = 1`, with `/` or `.`, perhaps with `-` before it.
fn parse_sysctl(line: &str) -> Option<(String, u64)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim().trim_start_matches('-').replace('/', ".");
    let name = name
        .strip_prefix("net.netfilter.")
        .or_else(|| name.strip_prefix("net."))?;
    if !name.starts_with("nf_conntrack_") {
        return None;
    }
    Some((name.to_owned(), value.trim().parse().ok()?))
}

/// A line of `modprobe.d`: `options nf_conntrack hashsize=1 ...`.
fn parse_modprobe(line: &str) -> Option<(String, u64)> {
    let mut words = line.split_whitespace();
    if words.next()? != "options" || words.next()?.replace('-', "_") != "nf_conntrack" {
        return None;
    }
    let value = words.find_map(|word| word.strip_prefix("hashsize="))?;
    Some(("hashsize".to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (line, expected) in [
            (
                "net.netfilter.nf_conntrack_max = 1000",
                Some(("nf_conntrack_max", 1000)),
            ),
            ("-net/nf_conntrack_max=5", Some(("nf_conntrack_max", 5))),
            ("# net.netfilter.nf_conntrack_max = 1000", None),
            ("net.core.somaxconn = 1", None),
            ("net.netfilter.nf_conntrack_max = many", None),
        ] {
            let expected = expected.map(|(name, value)| (name.to_owned(), value));
            assert_eq!(parse_sysctl(line), expected, "{line}");
        }
        let size = parse_modprobe("options nf_conntrack expect_hashsize=1 hashsize=4096");
        assert_eq!(size, Some(("hashsize".to_owned(), 4096)));
        assert_eq!(parse_modprobe("options nf_conntrack_ftp ports=2121"), None);
    }

    #[test]
    fn the_last_file_wins_and_one_of_the_same_name_hides_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        for (path, value) in [
            ("etc/sysctl.d/90-ours.conf", 3),
            ("usr/lib/sysctl.d/90-ours.conf", 2),
            ("usr/lib/sysctl.d/10-first.conf", 1),
            ("etc/sysctl.d/99-other.txt", 4),
        ] {
            let path = root.file(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, format!("net.netfilter.nf_conntrack_max={value}\n")).expect("a file");
        }
        let mut facts = Facts::default();
        look(&root, &mut facts);
        let values: Vec<u64> = facts.files.iter().map(|setting| setting.value).collect();
        assert_eq!(values, [1, 3]);
        let winner = facts.set_by_file("nf_conntrack_max").expect("a setting");
        assert_eq!(winner.file, Path::new("/etc/sysctl.d/90-ours.conf"));
        assert_eq!(facts.set_by_file("hashsize"), None);

        fs::write(
            root.file("etc/sysctl.conf"),
            "net.netfilter.nf_conntrack_max=9\n",
        )
        .expect("a file");
        let mut facts = Facts::default();
        look(&root, &mut facts);
        let winner = facts.set_by_file("nf_conntrack_max").expect("a setting");
        assert_eq!(winner.value, 9);
    }
}
