use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;

use super::*;

mod boxes;
mod layouts;
mod unusual;

const HOST: u32 = 4_026_531_840;
const CID: &str = "4be2c1d0a9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a3928170fedc";

/// A node made of files.
struct Node {
    folder: TempDir,
    now: Instant,
    scanner: Scanner,
}

fn uid(number: u32) -> String {
    format!("1f0c6f4e-2d0b-4a52-9c39-{number:012x}")
}

fn pod_folder(number: u32) -> String {
    format!("kubepods/burstable/pod{}", uid(number))
}

impl Node {
    /// One with version 2 alone.
    fn new() -> Self {
        let node = Self::bare();
        node.write("sys/fs/cgroup/cgroup.controllers", "");
        node
    }

    fn bare() -> Self {
        // In memory where there is such a folder: some nodes have many files.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let node = Self {
            now: Instant::now(),
            scanner: Scanner::new(Root::at(folder.path())),
            folder,
        };
        node.process(1, HOST, &["192.0.2.1", "fd00::1"]);
        fs::create_dir_all(node.path("var/log/pods")).unwrap();
        node
    }

    fn path(&self, file: &str) -> PathBuf {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    fn process(&self, number: u32, netns: u32, addresses: &[&str]) {
        let link = self.path(&format!("proc/{number}/ns/net"));
        drop(fs::remove_file(&link));
        symlink(format!("net:[{netns}]"), link).unwrap();
        let (mut trie, mut interfaces) = ("Local:\n".to_owned(), String::new());
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(v4) => writeln!(trie, "  |-- {v4}\n     /32 host LOCAL").unwrap(),
                IpAddr::V6(v6) => {
                    writeln!(interfaces, "{:032x} 02 40 00 80 eth0", v6.to_bits()).unwrap();
                }
            }
        }
        self.write(&format!("proc/{number}/net/fib_trie"), &trie);
        self.write(&format!("proc/{number}/net/if_inet6"), &interfaces);
    }

    fn end(&self, number: u32) {
        fs::remove_dir_all(self.folder.path().join(format!("proc/{number}"))).unwrap();
    }

    /// A control group with these processes; its ID.
    fn group(&self, path: &str, processes: &[u32]) -> u64 {
        let mut list = String::new();
        for process in processes {
            writeln!(list, "{process}").unwrap();
        }
        let file = format!("sys/fs/cgroup/{path}/cgroup.procs");
        self.write(&file, &list);
        let folder = self.path(&file);
        fs::metadata(folder.parent().unwrap()).unwrap().ino()
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(&format!("sys/fs/cgroup/{path}"))).unwrap();
    }

    /// A pod with one container; the IDs of its control groups.
    fn pod(&self, number: u32, process: u32) -> [u64; 2] {
        let container = self.group(&format!("{}/{CID}", pod_folder(number)), &[process]);
        [self.group(&pod_folder(number), &[]), container]
    }

    fn logs(&self, name: &str) {
        fs::create_dir_all(self.path(&format!("var/log/pods/{name}/x"))).unwrap();
    }

    /// Looks a second later.
    fn scan(&mut self) -> Discovery {
        self.scan_after(1)
    }

    fn scan_after(&mut self, seconds: u64) -> Discovery {
        self.now += Duration::from_secs(seconds);
        self.scanner.scan_at(self.now)
    }
}

fn names(found: &Discovery) -> Vec<String> {
    found.owners.iter().map(|one| one.owner.name()).collect()
}

fn one<'a>(found: &'a Discovery, name: &str) -> &'a FoundOwner {
    let is_it = |one: &&FoundOwner| one.owner.name() == name;
    found
        .owners
        .iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("{name} in {found:?}"))
}

fn addresses(found: &FoundOwner) -> Vec<String> {
    found.addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn a_node() {
    let mut node = Node::new();
    let ids = node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7", "fd00:42::7"]);
    node.logs(&format!("shop_cart-0_{}", uid(1)));
    // In the host's network, and with a second container.
    node.pod(2, 200);
    node.process(200, HOST, &[]);
    let helper = node.group(&format!("{}/crio-conmon-{CID}", pod_folder(1)), &[1]);
    let nested = node.group(&format!("{}/{CID}/init.scope", pod_folder(1)), &[]);
    let ssh = node.group("system.slice/sshd.service", &[300]);
    node.process(300, HOST, &[]);
    let inner = node.group("system.slice/sshd.service/inner", &[]);
    node.group("system.slice/tmp.mount", &[]);
    let docker = CID.replace('4', "5");
    node.group(&format!("system.slice/docker-{docker}.scope"), &[400]);
    node.process(400, 7002, &["172.17.0.2"]);
    node.group("lxc.payload.web/inside", &[501]);
    node.group("lxc.payload.web", &[500]);
    node.process(500, 7003, &["10.0.3.5"]);
    node.process(501, 7003, &["10.0.3.5"]);
    node.group("odd", &[600]);
    node.process(600, HOST, &[]);

    let found = node.scan();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert!(found.whole);
    assert_eq!(
        names(&found),
        [
            "shop/cart-0",
            &format!("pod {}", uid(2)),
            "web",
            &docker[..12],
            "sshd.service"
        ]
    );
    let cart = one(&found, "shop/cart-0");
    let mut expected = vec![ids[0], ids[1], helper, nested];
    expected.sort_unstable();
    assert_eq!((&cart.cgroups, cart.netns), (&expected, Some(7001)));
    assert_eq!(addresses(cart), ["10.42.0.7", "fd00:42::7"]);
    assert!(!cart.owner.host_network);
    let other = &found.owners[1];
    assert!(other.owner.host_network && other.netns.is_none() && other.addresses.is_empty());
    let mut expected = vec![ssh, inner];
    expected.sort_unstable();
    assert_eq!(one(&found, "sshd.service").cgroups, expected);
    assert_eq!(addresses(one(&found, &docker[..12])), ["172.17.0.2"]);
    let lxc = one(&found, "web");
    assert_eq!((lxc.netns, lxc.cgroups.len()), (Some(7003), 2));
    assert_eq!(found.host_netns, Some(HOST));
    assert_eq!(found.host_addresses.len(), 2);
    let watched: Vec<_> = found
        .folders
        .iter()
        .map(|path| {
            path.strip_prefix(node.folder.path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert!(
        watched.contains(&format!("sys/fs/cgroup/{}", pod_folder(1))),
        "{watched:?}"
    );
    for watched_too in [
        "sys/fs/cgroup",
        "sys/fs/cgroup/system.slice",
        "var/log/pods",
    ] {
        assert!(watched.contains(&watched_too.to_owned()), "{watched:?}");
    }
    assert!(
        !watched
            .iter()
            .any(|path| path.contains("sshd") || path.contains(CID)),
        "{watched:?}"
    );
}

#[test]
fn pods_come_and_go() {
    let mut node = Node::new();
    assert!(node.scan().owners.is_empty());
    // The runtime makes the folder first, then the process, Docker the addresses last.
    node.group(&pod_folder(1), &[]);
    let found = node.scan();
    assert!(found.owners.is_empty() && found.unsettled);
    node.pod(1, 100);
    node.process(100, 7001, &[]);
    let found = node.scan();
    assert!(found.owners[0].addresses.is_empty() && found.unsettled);
    node.process(100, 7001, &["10.42.0.7"]);
    let found = node.scan();
    assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
    assert!(!found.unsettled);

    // Restarted under the same number in another network.
    node.process(100, 7005, &["10.42.0.8"]);
    let found = node.scan_after(60);
    assert_eq!(
        (found.owners[0].netns, addresses(&found.owners[0])),
        (Some(7005), vec!["10.42.0.8".into()])
    );

    // Its processes end before its control group is removed.
    node.end(100);
    let found = node.scan_after(60);
    assert_eq!((found.owners.len(), found.owners[0].netns), (1, None));
    assert!(found.owners[0].addresses.is_empty());
    node.remove(&pod_folder(1));
    assert!(node.scan().owners.is_empty());
}

#[test]
fn addresses_are_read_again_now_and_then() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7"]);
    node.scan();
    node.scan_after(31);
    node.process(100, 7001, &["10.42.0.7", "10.42.1.7"]);
    assert_eq!(
        node.scan_after(5).owners[0].addresses.len(),
        1,
        "nothing says that it changed"
    );
    assert_eq!(node.scan_after(30).owners[0].addresses.len(), 2);
}

#[test]
fn a_process_that_goes_into_its_network_late() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, HOST, &["192.0.2.1", "fd00::1"]);
    let found = node.scan();
    assert!(found.unsettled && found.owners[0].netns.is_none());
    node.process(100, 7001, &["10.42.0.7"]);
    let found = node.scan();
    assert_eq!(found.owners[0].netns, Some(7001));
    assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
    assert!(!found.owners[0].owner.host_network && !found.unsettled);
    // One that has been in the host's network for long will stay there.
    node.pod(2, 200);
    node.process(200, HOST, &["192.0.2.1"]);
    node.scan();
    let found = node.scan_after(11);
    assert!(!found.unsettled && found.owners[1].owner.host_network);
}

#[test]
fn an_address_that_comes_after_the_first() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7"]);
    node.scan();
    node.process(100, 7001, &["10.42.0.7", "fd00:42::7"]);
    assert_eq!(node.scan().owners[0].addresses.len(), 2);
}

#[test]
fn an_address_that_went_to_the_next_pod() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7"]);
    node.scan();
    node.scan_after(31);
    // The first pod's process hangs, but its address was taken from it.
    node.process(100, 7001, &[]);
    node.pod(2, 200);
    node.process(200, 7002, &["10.42.0.7"]);
    let found = node.scan();
    assert!(found.owners[0].addresses.is_empty());
    assert_eq!(addresses(&found.owners[1]), ["10.42.0.7"]);
}

#[test]
fn an_address_of_two_is_told_of_both() {
    let mut node = Node::new();
    for number in [1, 2] {
        node.pod(number, number * 100);
        node.process(number * 100, 7000 + number, &["10.42.0.7"]);
    }
    let found = node.scan();
    let mut slots = super::super::Slots::new(super::super::SlotLimits::default());
    let changes = slots.apply(&found, |_| true, |_| false);
    assert!(changes.problems[0].contains("10.42.0.7 of pod "));
}

#[test]
fn one_network_has_one_owner() {
    let mut node = Node::new();
    node.group("docker/x", &[]);
    let other = CID.replace('4', "5");
    node.group(&format!("docker/{CID}"), &[100]);
    node.process(100, 7001, &["172.17.0.2"]);
    node.scan();
    node.group(&format!("docker/{other}"), &[101]);
    node.process(101, 7001, &["172.17.0.2"]);
    let found = node.scan();
    assert_eq!(found.owners.len(), 2);
    assert_eq!(
        one(&found, &CID[..12]).netns,
        Some(7001),
        "it was there before"
    );
    let second = one(&found, &other[..12]);
    assert!(second.netns.is_none() && second.addresses.is_empty() && second.cgroups.len() == 1);
}

#[test]
fn only_the_outer_network_of_a_pod_counts() {
    let mut node = Node::new();
    node.pod(1, 100);
    node.process(100, 7001, &["10.42.0.7"]);
    node.group(&format!("{}/{CID}/docker/{CID}", pod_folder(1)), &[90]);
    node.process(90, 7002, &["172.17.0.2"]);
    let found = node.scan();
    assert_eq!((found.owners.len(), found.owners[0].netns), (1, Some(7001)));
}
