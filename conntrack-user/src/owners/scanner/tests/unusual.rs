//! Nodes that are not as most are: other hierarchies, hidden or hostile processes, very many of them.

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;

#[test]
fn hybrid_and_version_1() {
    for unified in [true, false] {
        let mut node = Node::bare();
        if unified {
            node.write("sys/fs/cgroup/unified/cgroup.controllers", "");
        }
        for name in ["systemd", "memory"] {
            node.write(&format!("sys/fs/cgroup/{name}/release_agent"), "");
            node.group(name, &[]);
            node.group(&format!("{name}/{}/{CID}", pod_folder(1)), &[100]);
        }
        node.process(100, 7001, &["10.42.0.7"]);
        node.group("systemd/system.slice/sshd.service", &[300]);
        node.process(300, HOST, &[]);
        let id = unified.then(|| node.group("unified/system.slice/sshd.service", &[300]));
        let found = node.scan();
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        assert_eq!(
            names(&found),
            [format!("pod {}", uid(1)), "sshd.service".into()]
        );
        assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
        assert!(
            found.owners[0].cgroups.is_empty(),
            "numbers of version 1 are no IDs"
        );
        assert_eq!(found.owners[1].cgroups, Vec::from_iter(id));
    }
}

#[test]
fn without_a_hierarchy_proc_tells() {
    for inside_container in [true, false] {
        let mut node = Node::bare();
        if inside_container {
            node.write("sys/fs/cgroup/cgroup.controllers", "");
            node.write("sys/fs/cgroup/cgroup.events", "");
        }
        node.process(100, 7001, &["10.42.0.7"]);
        node.write(
            "proc/100/cgroup",
            &format!("0::/../../../{}/{CID}\n", pod_folder(1)),
        );
        node.process(101, 7002, &["10.42.0.8"]);
        node.write(
            "proc/101/cgroup",
            &format!("0::/../../../{}/{CID}/inner\n", pod_folder(1)),
        );
        node.process(300, HOST, &[]);
        node.write(
            "proc/300/cgroup",
            "0::/../../../system.slice/sshd.service\n",
        );
        node.write(
            "proc/400/cgroup",
            "0::/../../../system.slice/gone.service\n",
        );
        let found = node.scan();
        assert_eq!(
            names(&found),
            [format!("pod {}", uid(1)), "sshd.service".into()]
        );
        assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
        assert!(
            found.problems[0].contains("in /proc"),
            "{:?}",
            found.problems
        );
        assert!(node.scan().problems.is_empty(), "said once");
    }
}

#[test]
fn processes_that_are_hidden_or_outside() {
    let mut node = Node::new();
    node.pod(1, 0);
    let found = node.scan();
    assert!(found.owners.is_empty());
    assert!(
        found.problems[0].contains("hostPID"),
        "{:?}",
        found.problems
    );
}

#[test]
fn a_process_that_ends_while_it_is_looked_at() {
    let mut node = Node::new();
    // One is gone, of one there is no network any more, of one no address can be read; then two
    // that can.
    node.group(&format!("{}/{CID}", pod_folder(1)), &[99, 100, 101, 102]);
    node.write("proc/100/stat", "");
    node.process(101, 7001, &["10.42.0.7"]);
    node.process(102, 7001, &["10.42.0.7"]);
    assert_eq!(addresses(&node.scan().owners[0]), ["10.42.0.7"]);
    node.end(101);
    assert_eq!(
        addresses(&node.scan().owners[0]),
        ["10.42.0.7"],
        "another one is asked"
    );
    fs::remove_dir_all(node.folder.path().join("proc/102/net")).unwrap();
    let found = node.scan();
    assert!(found.owners[0].addresses.is_empty() && found.problems.is_empty());
    fs::remove_dir_all(node.folder.path().join("proc")).unwrap();
    let found = node.scan();
    assert!(!found.whole && found.host_netns.is_none());
    fs::remove_dir_all(node.folder.path().join("sys")).unwrap();
    assert!(!node.scan().whole, "the hierarchy is gone");
}

#[test]
fn hostile_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let mut node = Node::new();
    let kubepods = node.path("sys/fs/cgroup/kubepods/x");
    for (number, name) in [
        &b"pod\xff\xfe"[..],
        b"pod1f0c6f4e-2d0b-4a52-9c39-00000000000g",
        b"pod\n\x1b[31m",
        b"pod1f0c6f4e-2d0b-4a52-9c39-000000000001\n",
        b"..x",
        &[b'a'; 255],
    ]
    .into_iter()
    .enumerate()
    {
        let folder = kubepods.parent().unwrap().join(OsStr::from_bytes(name));
        fs::create_dir_all(folder.join("inner")).unwrap();
        let process = 100 + u32::try_from(number).unwrap();
        fs::write(folder.join("cgroup.procs"), format!("{process}\n")).unwrap();
        node.process(process, 7000 + process, &[&format!("10.42.0.{process}")]);
    }
    let found = node.scan();
    assert_eq!(found.owners.len(), 6);
    for one in &found.owners {
        assert_eq!(one.owner.kind, OwnerKind::Cgroup);
        assert!(!one.owner.name().chars().any(char::is_control), "{one:?}");
        assert_eq!((one.addresses.len(), one.cgroups.len()), (1, 2));
    }
}

#[test]
fn very_deep_and_very_many() {
    let mut node = Node::new();
    node.group(&"a/".repeat(200), &[]);
    let found = node.scan();
    assert!(
        !found.whole && found.problems[0].contains("very deep"),
        "{:?}",
        found.problems
    );
    let mut tree = CgroupTree::new(node.folder.path().join("sys/fs/cgroup"), "", true);
    tree.refresh(node.now, 10).unwrap();
    assert!(tree.cut);
}

#[test]
fn ten_thousand_containers() {
    let mut node = Node::new();
    for number in 0..2000 {
        for container in 0..5 {
            node.group(
                &format!("{}/{container:064x}", pod_folder(number)),
                &[10_000 + number],
            );
        }
        node.process(10_000 + number, 20_000 + number, &[]);
        let address = format!("10.42.{}.{}", number / 250, number % 250 + 1);
        let text = format!("Local:\n  |-- {address}\n     /32 host LOCAL\n");
        node.write(&format!("proc/{}/net/fib_trie", 10_000 + number), &text);
    }
    let found = node.scan();
    assert!(
        found.whole && found.problems.is_empty(),
        "{:?}",
        found.problems
    );
    assert_eq!(found.owners.len(), 2000);
    let has_all = |one: &FoundOwner| one.cgroups.len() == 6 && one.addresses.len() == 1;
    assert!(found.owners.iter().all(has_all));
    assert!(node.scan().took < Duration::from_secs(5));
}

/// A namespace by this number that a file below /run keeps.
fn keep(node: &Node, file: &str, netns: u32) {
    symlink(format!("net:[{netns}]"), node.path(&format!("run/{file}"))).unwrap();
}

/// The routing mesh of Docker Swarm has a namespace without a process, whose table fills as any
/// (<https://github.com/moby/moby/issues/35082>, <https://github.com/moby/moby/issues/36949>).
#[test]
fn a_namespace_that_only_a_name_keeps_is_an_owner_by_that_name() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7"]);
    keep(
        &node,
        "netns/cni-5c1d7e2a-1111-4222-8333-000000000001",
        7001,
    );
    keep(&node, "docker/netns/ingress_sbox", 7002);
    keep(&node, "docker/netns/1-abcdefghij", 7003);
    // What a container that is gone left behind (https://github.com/containers/podman/issues/23715).
    keep(
        &node,
        "netns/netns-839e5791-ef98-7fe1-ff60-d9e9a39fc06d",
        7004,
    );
    // The host's own, as `ip netns attach` makes it, and a name twice.
    keep(&node, "netns/default", HOST);
    keep(&node, "netns/also-ingress", 7005);
    keep(&node, "netns/zz-ingress", 7005);
    let found = node.scan();
    let kept: Vec<_> = found.owners[1..]
        .iter()
        .map(|one| (one.owner.name(), one.netns, one.addresses.len()))
        .collect();
    assert_eq!(
        kept,
        [
            ("also-ingress".to_owned(), Some(7005), 0),
            ("1-abcdefghij".to_owned(), Some(7003), 0),
            ("ingress_sbox".to_owned(), Some(7002), 0),
        ]
    );
    assert_eq!(found.owners[0].netns, Some(7001));
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

/// Runtimes have left behind thousands (<https://github.com/kata-containers/runtime/issues/2457> counts 3,084): owners of this node have room
/// first.
#[test]
fn namespaces_that_are_kept_take_no_more_than_their_share() {
    let mut node = Node::new();
    for number in 0..300 {
        keep(&node, &format!("netns/router-{number:03}"), 8000 + number);
        let sandbox = format!("netns/cni-5c1d7e2a-1111-4222-8333-{number:012}");
        keep(&node, &sandbox, 9000 + number);
    }
    let found = node.scan();
    assert_eq!(found.owners.len(), 128);
    assert_eq!(found.owners[0].owner.name(), "router-000");
    assert!(
        found.problems[0].contains("more than 128"),
        "{:?}",
        found.problems
    );
}

/// Where a runtime's files are somebody else's, a pipe without a writer would hold up every look.
#[test]
fn nobody_waits_for_what_stands_where_a_runtime_keeps_names() {
    let mut node = Node::new();
    node.group(&format!("docker/{CID}"), &[100]);
    node.process(100, 7001, &["172.17.0.2"]);
    let podman = "var/lib/containers/storage/overlay-containers";
    for (folder, file) in [
        (
            &*format!("var/lib/docker/containers/{CID}"),
            "config.v2.json",
        ),
        (podman, "containers.json"),
        (podman, "volatile-containers.json"),
        (
            &format!("run/containerd/io.containerd.runtime.v2.task/default/{CID}"),
            "config.json",
        ),
    ] {
        fs::create_dir_all(node.path(folder)).unwrap();
        mkfifo(&node.path(folder).join(file), Mode::S_IRWXU).unwrap();
    }
    assert_eq!(names(&node.scan()), [&CID[..12]]);
}
