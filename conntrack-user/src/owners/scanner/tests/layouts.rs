//! The layouts of control groups that people have, with who they say is found: the tables of `docs/owners.md`.

use super::*;

const DOCUMENT: &str = include_str!("../../../../../docs/owners.md");
const UID: &str = "1f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b77";
const HASH: &str = "7b1a6a3e5d1c8b771f0c6f4e2d0b4a52";

/// What stands for a number in the tables.
fn path(pattern: &str) -> String {
    pattern
        .replace("ID2", &CID.replace('4', "5"))
        .replace("UID_", &UID.replace('-', "_"))
        .replace("UID", UID)
        .replace("HASH", HASH)
        .replace("ID", CID)
}

fn owner(pattern: &str) -> String {
    pattern
        .replace("UID", UID)
        .replace("HASH", HASH)
        .replace("ID", &CID[..12])
}

/// One row: path, version, network, owner.
fn rows() -> impl Iterator<Item = [&'static str; 4]> {
    DOCUMENT.lines().filter_map(|line| {
        let cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let cells: Vec<_> = cells.skip(1).collect();
        let &[path, version, network, owner, source, ""] = cells.as_slice() else {
            panic!("{line}");
        };
        let is_row = path.starts_with('`');
        assert!(
            !is_row || source.contains("](https://"),
            "no source: {line}"
        );
        is_row.then_some([path.trim_matches('`'), version, network, owner])
    })
}

/// The unit that this is inside of, if that has a main process of its own: such as the systemd of a user.
fn unit_above(path: &str) -> Option<(&str, &str)> {
    let is_unit = |segment: &&str| segment.ends_with(".service") || segment.starts_with("session-");
    let unit = path
        .split('/')
        .find(|segment| !segment.is_empty() && segment.strip_suffix(".slice").is_none())?;
    let is_machine = unit.starts_with("systemd-nspawn@") || unit.starts_with("container@");
    let unit = Some(unit).filter(is_unit).filter(|_| !is_machine)?;
    let end = path.find(unit)? + unit.len();
    (end < path.len()).then(|| (&path[..end], unit))
}

#[test]
fn who_is_found() {
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for [pattern, version, network, expected] in rows() {
        let mut node = Node::bare();
        let folders: &[&str] = match version {
            "1" => &["systemd/", "memory/"],
            "2" => &[""],
            _ => panic!("version {version}"),
        };
        for folder in folders {
            match version {
                "1" => node.write(&format!("sys/fs/cgroup/{folder}release_agent"), ""),
                _ => node.write("sys/fs/cgroup/cgroup.controllers", ""),
            }
            node.group(folder.trim_end_matches('/'), &[1]);
            node.group(&format!("{folder}{}", path(pattern)), &[100]);
            if let Some((above, _)) = unit_above(pattern) {
                node.group(&format!("{folder}{above}"), &[101]);
                node.process(101, HOST, &[]);
            }
        }
        let netns = match network {
            "own" => 7001,
            "host" => HOST,
            _ => panic!("network {network}"),
        };
        node.process(100, netns, &["10.42.0.7"]);
        let found = node.scan();
        let above = unit_above(pattern).map_or("", |(_, unit)| unit);
        let mut found = names(&found);
        found.retain(|name| name == expected || name != above);
        let right: Vec<_> = (expected != "host")
            .then(|| owner(expected))
            .into_iter()
            .collect();
        if found != right {
            wrong.push(format!("{pattern}: {found:?} instead of {expected}"));
        }
        looked_at += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 80, "only {looked_at} rows were found");
}
