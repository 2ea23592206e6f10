//! Containers with a system of their own in them, and what is inside other owners: nothing of one is another's.

use super::*;

fn netns_of(found: &Discovery, name: &str) -> Option<u32> {
    one(found, name).netns
}

#[test]
fn equal_units_of_two_boxes_and_the_host_are_apart() {
    let mut node = Node::new();
    node.process(10, HOST, &[]);
    node.group("system.slice/nginx.service", &[10]);
    let mut process = 20;
    for path in [
        "lxc.payload.web01",
        "lxc.payload.db01",
        "lxc/101/ns",
        "machine.slice/machine-mail.scope/payload",
        "odd/box",
    ] {
        for inner in ["init.scope", "system.slice/nginx.service"] {
            node.group(&format!("{path}/{inner}"), &[process]);
            node.process(process, 7000 + process / 10, &["10.0.3.5"]);
            process += 1;
        }
        process += 8;
    }
    // The monitors of LXC and of nspawn are in the host's network.
    node.group("lxc.monitor.web01", &[11]);
    node.process(11, HOST, &[]);
    node.group("machine.slice/machine-mail.scope/supervisor", &[12]);
    node.process(12, HOST, &[]);
    let found = node.scan();
    assert_eq!(
        names(&found),
        ["db01", "web01", "101", "mail", "odd/box", "nginx.service"]
    );
    assert_eq!(netns_of(&found, "web01"), Some(7002));
    assert_eq!(netns_of(&found, "mail"), Some(7005));
    let mail = one(&found, "mail");
    // The machine, its payload and supervisor, and three below the payload.
    assert_eq!((mail.cgroups.len(), mail.owner.host_network), (6, false));
    assert!(one(&found, "nginx.service").owner.host_network);
    assert_eq!(one(&found, "nginx.service").cgroups.len(), 1);
    assert_eq!(
        names(&node.scan_after(60)),
        names(&found),
        "the same, much later"
    );
}

#[test]
fn pods_of_two_nodes_that_are_containers_are_apart() {
    let mut node = Node::new();
    let ids = ["a", "b"].map(|letter| letter.repeat(64));
    // Static pods of two clusters may have the same UID, and the machine's own kubelet has one, too.
    let pod = |above: &str| format!("{above}kubepods/burstable/pod{}/{CID}", uid(1));
    node.group(&pod(""), &[100]);
    node.process(100, 7001, &["10.42.0.7"]);
    node.logs(&format!("shop_cart-0_{}", uid(1)));
    for (process, id) in [(200, &ids[0]), (300, &ids[1])] {
        node.group(
            &format!("docker/{id}/system.slice/kubelet.service"),
            &[process],
        );
        node.process(process, 8000 + process, &["172.18.0.2"]);
        node.group(&pod(&format!("docker/{id}/kubelet/")), &[process + 1]);
        node.process(process + 1, 9000 + process, &["10.244.0.5"]);
    }
    let file = format!("var/lib/docker/containers/{}/config.v2.json", ids[0]);
    node.write(
        &file,
        r#"{"State":{},"ID":"a","Name":"/kind-worker","Config":{"Env":["A=B"]}}"#,
    );
    let found = node.scan();
    let uid = uid(1);
    assert_eq!(
        names(&found),
        [
            "shop/cart-0",
            &format!("pod {uid} on kind-worker"),
            &format!("pod {uid} on bbbbbbbbbbbb"),
            "kind-worker",
            "bbbbbbbbbbbb",
        ]
    );
    let labels = found.owners[1].owner.labels();
    assert_eq!((labels.pod, labels.unit), (&*uid, "kind-worker"));
    let networks: Vec<_> = found.owners.iter().map(|one| one.netns).collect();
    assert_eq!(
        networks,
        [Some(7001), Some(9200), Some(9300), Some(8200), Some(8300)]
    );
}

#[test]
fn a_helper_in_the_host_s_network_is_not_asked_for_the_container_s() {
    let mut node = Node::new();
    // podman begins its conmon first, in the host's network.
    let conmon = node.group(&format!("machine.slice/libpod-conmon-{CID}.scope"), &[100]);
    node.process(100, HOST, &[]);
    node.group(
        &format!("machine.slice/libpod-{CID}.scope/container"),
        &[101],
    );
    node.process(101, 7001, &["10.88.0.2"]);
    let containers = format!(r#"[{{"id":"{CID}","names":["mail"],"image":"x"}}]"#);
    let file = "var/lib/containers/storage/overlay-containers/containers.json";
    node.write(file, &containers);
    let found = node.scan();
    assert_eq!(names(&found), ["mail"]);
    assert_eq!(found.owners[0].netns, Some(7001));
    assert!(found.owners[0].cgroups.contains(&conmon));
}

#[test]
fn what_a_runtime_keeps_elsewhere_for_a_pod_is_the_pod_s() {
    let mut node = Node::new();
    // Of Kata, only the pod's group knows which pod it is.
    node.group(&format!("kubepods/burstable/pod{}/kata_{CID}", uid(1)), &[]);
    let overhead = node.group(&format!("kata_overhead/{CID}"), &[100]);
    node.process(100, 7001, &["10.42.0.7"]);
    // CRI-O's conmon in `system.slice`.
    let other = CID.replace('4', "5");
    node.group(
        &format!("kubepods/burstable/pod{}/crio-{other}", uid(2)),
        &[200],
    );
    node.process(200, 7002, &["10.42.0.8"]);
    let conmon = node.group(&format!("system.slice/crio-conmon-{other}.scope"), &[201]);
    node.process(201, HOST, &[]);
    let found = node.scan();
    assert_eq!(
        names(&found),
        [format!("pod {}", uid(1)), format!("pod {}", uid(2))]
    );
    assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
    assert!(found.owners[0].cgroups.contains(&overhead));
    assert_eq!(found.owners[1].netns, Some(7002));
    assert!(found.owners[1].cgroups.contains(&conmon));
}

#[test]
fn a_pod_inside_a_box_takes_no_container_of_the_machine() {
    let mut node = Node::new();
    node.group(&format!("docker/{CID}"), &[100]);
    node.process(100, 7001, &["172.17.0.2"]);
    node.group("lxc.payload.evil/init.scope", &[200]);
    node.process(200, 7002, &["10.0.3.5"]);
    // Whose root writes the ID of another's container below a pod of his.
    let inside = format!("lxc.payload.evil/{}/{CID}", pod_folder(1));
    node.group(&inside, &[201]);
    node.process(201, 7003, &["10.244.0.5"]);
    let found = node.scan();
    let pod = format!("pod {} on evil", uid(1));
    assert_eq!(names(&found), [&*pod, "evil", &CID[..12]]);
    let container = one(&found, &CID[..12]);
    assert_eq!((container.netns, container.cgroups.len()), (Some(7001), 1));
    assert_eq!(netns_of(&found, &pod), Some(7003));
}

#[test]
fn networks_inside_an_owner_are_owners_of_their_own() {
    let mut node = Node::new();
    let user = "user.slice/user-1000.slice/user@1000.service";
    node.group(&format!("{user}/init.scope"), &[100]);
    node.process(100, HOST, &[]);
    let other = CID.replace('4', "5");
    node.group(
        &format!("{user}/user.slice/libpod-{CID}.scope/container"),
        &[101],
    );
    node.process(101, 7001, &["10.0.2.100"]);
    // In the same network: of the same pod of podman.
    let second = node.group(
        &format!("{user}/user.slice/libpod-{other}.scope/container"),
        &[102],
    );
    node.process(102, 7001, &["10.0.2.100"]);
    // rootlesskit stays in the host's network, what it begins does not.
    node.group(&format!("{user}/app.slice/docker.service"), &[103, 104]);
    node.process(103, HOST, &[]);
    node.process(104, 7002, &["172.17.0.1"]);
    // A service that runs many, and is itself in the host's network.
    node.group("system.slice/garden.service/garden/one", &[200]);
    node.process(200, 7003, &["10.255.0.2"]);
    node.group("system.slice/garden.service/garden/two", &[201]);
    node.process(201, 7004, &["10.255.0.6"]);
    node.group("system.slice/garden.service/server", &[202]);
    node.process(202, HOST, &[]);
    // Docker in LXC.
    node.group("lxc.payload.web/init.scope", &[300]);
    node.process(300, 7005, &["10.0.3.5"]);
    node.group(
        &format!("lxc.payload.web/system.slice/docker-{CID}.scope"),
        &[301],
    );
    node.process(301, 7006, &["172.17.0.2"]);
    let found = node.scan();
    let short = &CID[..12];
    assert_eq!(
        names(&found),
        [
            "web",
            &format!("web/{short}"),
            "garden.service",
            "garden.service/garden/one",
            "garden.service/garden/two",
            "user@1000.service",
            &format!("user@1000.service/{short}"),
            "user@1000.service/docker.service",
        ]
    );
    let container = one(&found, &format!("user@1000.service/{short}"));
    assert_eq!(container.netns, Some(7001));
    assert!(container.cgroups.contains(&second));
    assert!(one(&found, "user@1000.service").owner.host_network);
    assert_eq!(
        netns_of(&found, "user@1000.service/docker.service"),
        Some(7002)
    );
    assert_eq!(netns_of(&found, "garden.service/garden/two"), Some(7004));
    assert_eq!(netns_of(&found, "web"), Some(7005));
}

/// `unshare -Urn` takes no right, and gives one: any address of another's.
#[test]
fn what_anybody_may_have_made_has_no_addresses_in_the_host_s_table() {
    let mut node = Node::new();
    let user = "user.slice/user-1000.slice/user@1000.service";
    let session = "user.slice/user-1000.slice/session-3.scope";
    node.group(&format!("{user}/init.scope"), &[100]);
    node.process(100, HOST, &[]);
    for (process, group) in [
        (101, format!("{user}/app.slice/evil.scope")),
        (102, format!("{session}/evil")),
        // The session's own group, of which nothing but this is left.
        (103, "user.slice/user-1000.slice/session-4.scope".to_owned()),
        // Docker in LXC goes by an address of the container.
        (
            301,
            format!("lxc.payload.web/system.slice/docker-{CID}.scope"),
        ),
    ] {
        node.group(&group, &[process]);
        node.process(process, 7000 + process, &["10.42.0.7"]);
    }
    node.group(session, &[104]);
    node.process(104, HOST, &[]);
    node.group("lxc.payload.web/init.scope", &[300]);
    node.process(300, 7300, &["10.0.3.5"]);
    // Garden is a service of the host, and so are the bridges of what it runs.
    node.group("system.slice/garden.service/garden/one", &[200]);
    node.process(200, 7200, &["10.255.0.2"]);
    node.group("system.slice/garden.service/server", &[202]);
    node.process(202, HOST, &[]);
    let found = node.scan();
    for (name, netns) in [
        ("user@1000.service/evil.scope", 7101),
        ("session-3.scope/evil", 7102),
        ("session-4.scope", 7103),
        (&*format!("web/{}", &CID[..12]), 7301),
    ] {
        let one = one(&found, name);
        assert_eq!(
            (one.netns, addresses(one)),
            (Some(netns), Vec::new()),
            "{name}"
        );
    }
    assert_eq!(addresses(one(&found, "web")), ["10.0.3.5"]);
    let garden = one(&found, "garden.service/garden/one");
    assert_eq!(addresses(garden), ["10.255.0.2"]);
    // The pod that comes later has its address for itself.
    node.pod(1, 400);
    node.process(400, 7400, &["10.42.0.7"]);
    let found = node.scan();
    let mut slots = super::super::super::Slots::new(super::super::super::SlotLimits::default());
    let changes = slots.apply(&found, |_| true, |_| false);
    assert_eq!(addresses(&found.owners[0]), ["10.42.0.7"]);
    assert!(changes.problems.is_empty(), "{:?}", changes.problems);
}

#[test]
fn nobody_takes_all_slots_with_networks_of_his_own() {
    let mut node = Node::new();
    let user = "user.slice/user-1000.slice/user@1000.service";
    for number in 0..200 {
        node.group(&format!("{user}/{number}.scope"), &[1000 + number]);
        node.process(1000 + number, 20_000 + number, &[]);
    }
    node.group(&format!("{user}/init.scope"), &[100]);
    node.process(100, HOST, &[]);
    let found = node.scan();
    assert_eq!(found.owners.len(), 65);
    assert!(one(&found, "user@1000.service").cgroups.len() > 130);
}

#[test]
fn nobody_takes_all_slots_with_pods_of_a_node_of_his_own() {
    let mut node = Node::new();
    let id = "a".repeat(64);
    let own = |number: u32| format!("docker/{id}/kubelet/kubepods/pod{}", uid(number));
    let add = |node: &mut Node, numbers: std::ops::Range<u32>| {
        for number in numbers {
            node.group(&own(number), &[1000 + number]);
            node.process(1000 + number, 20_000 + number, &[]);
        }
    };
    node.group(&format!("docker/{id}/init.scope"), &[100]);
    node.process(100, 7001, &["172.18.0.2"]);
    node.pod(7, 200);
    node.process(200, 7002, &["10.42.0.7"]);
    add(&mut node, 100..356);
    let found = node.scan();
    assert_eq!((found.owners.len(), found.problems.len()), (258, 0));
    // Those that are there stay, whatever those are called that come later.
    add(&mut node, 10..60);
    let found = node.scan_after(60);
    assert_eq!((found.owners.len(), found.problems.len()), (258, 1));
    assert!(
        found.problems[0].contains(&id[..12]),
        "{:?}",
        found.problems
    );
    let name = |number| format!("pod {} on {}", uid(number), &id[..12]);
    let names = names(&found);
    for (number, is_there) in [(10, false), (59, false), (100, true), (355, true)] {
        assert_eq!(names.contains(&name(number)), is_there, "{number}");
    }
    let rest = one(&found, &id[..12]);
    // Its own, the kubelet's two, `init.scope`, and the pods that came later.
    assert_eq!((rest.netns, rest.cgroups.len()), (Some(7001), 4 + 50));
    assert_eq!(addresses(rest), ["172.18.0.2"]);
}

#[test]
fn equal_names_are_told_apart() {
    let mut node = Node::new();
    node.group("lxc.payload.web", &[100]);
    node.process(100, 7001, &["10.0.3.5"]);
    node.group(&format!("docker/{CID}"), &[101]);
    node.process(101, 7002, &["172.17.0.2"]);
    node.group("lxc.payload.sshd.service", &[102]);
    node.process(102, 7003, &["10.0.3.6"]);
    node.group("system.slice/sshd.service", &[103]);
    node.process(103, HOST, &[]);
    let annotations = r#"{"ociVersion":"1.0","annotations":{"nerdctl/name":"web"}}"#;
    let file = format!("run/containerd/io.containerd.runtime.v2.task/default/{CID}/config.json");
    node.write(&file, annotations);
    let found = node.scan();
    assert_eq!(
        names(&found),
        [
            "sshd.service (lxc.payload.sshd.service)",
            "web (lxc.payload.web)",
            &format!("web ({})", &CID[..12]),
            "sshd.service",
        ]
    );
}

#[test]
fn the_machine_s_own_groups_may_begin_below_the_root() {
    let mut node = Node::new();
    // WSL 2.9.8: https://github.com/moby/moby/issues/53531
    let home = "wsl-user/distro-1/systemd";
    node.write("proc/1/cgroup", &format!("0::/{home}/init.scope\n"));
    node.group(&format!("{home}/system.slice/sshd.service"), &[100]);
    node.process(100, HOST, &[]);
    node.group(&format!("{home}/system.slice/docker-{CID}.scope"), &[101]);
    node.process(101, 7001, &["172.17.0.2"]);
    let found = node.scan();
    assert_eq!(names(&found), [&CID[..12], "sshd.service"]);
}

#[test]
fn names_that_no_runtime_would_give_are_not_shown() {
    let mut node = Node::new();
    node.group(&format!("docker/{CID}"), &[100]);
    node.process(100, 7001, &["172.17.0.2"]);
    let file = format!("var/lib/docker/containers/{CID}/config.v2.json");
    for text in [
        r#"{"Name":"/a b"}"#,
        r#"{"Name":"/"}"#,
        r#"{"Name":"/\u001b[31m"}"#,
        r#"{"Name":7}"#,
        "{",
        "",
    ] {
        node.write(&file, text);
        assert_eq!(names(&node.scan()), [&CID[..12]], "{text}");
    }
    node.write(&file, r#"{"Name":"/web"}"#);
    assert_eq!(names(&node.scan()), ["web"], "found while it is young");
    node.write(&file, r#"{"Name":"/shop"}"#);
    assert_eq!(names(&node.scan()), ["web"], "not looked for at once");
    assert_eq!(names(&node.scan_after(60)), ["shop"], "renamed");
}
