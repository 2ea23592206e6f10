use proptest::prelude::*;

use super::segment::{ID, LONGEST_UNIT};
use super::*;

const UID: &str = "1f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b77";
const ESCAPED: &str = "1f0c6f4e_2d0b_4a52_9c39_6a3e5d1c8b77";
const HASH: &str = "7b1a6a3e5d1c8b771f0c6f4e2d0b4a52";
const CID: &str = "4be2c1d0a9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a3928170fedc";
const OTHER: &str = "ffe2c1d0a9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a3928170fedc";

/// `UID`, `ESC`, `HASH`, `CID` and `OTHER` in a path stand for the above.
fn path(pattern: &str) -> String {
    pattern
        .replace("UID", UID)
        .replace("ESC", ESCAPED)
        .replace("HASH", HASH)
        .replace("CID", CID)
        .replace("OTHER", OTHER)
}

fn place(pattern: &str) -> CgroupPlace {
    CgroupPlace::of(&path(pattern))
}

fn a_pod(uid: &str, qos: Qos, container: bool, below: usize) -> CgroupPlace {
    CgroupPlace {
        identity: Identity::Pod {
            uid: uid.into(),
            qos,
            container: container.then(|| CID.into()),
            node: None,
        },
        below,
        helper: false,
    }
}

fn at(identity: Identity, below: usize) -> CgroupPlace {
    CgroupPlace {
        identity,
        below,
        helper: false,
    }
}

fn a_container() -> Identity {
    Identity::Container(Container {
        key: CID.into(),
        name: String::new(),
    })
}

/// Path, UID (empty: none), level, whether a container is named, levels below the pod.
const PODS: &[(&str, &str, Qos, bool, usize)] = &[
    // The cgroupfs driver.
    ("/kubepods/burstable/podUID", UID, Qos::Burstable, false, 0),
    (
        "/kubepods/burstable/podUID/CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/kubepods/besteffort/podUID/CID",
        UID,
        Qos::BestEffort,
        true,
        1,
    ),
    ("/kubepods/podUID/CID", UID, Qos::Guaranteed, true, 1),
    (
        "/kubepods/burstable/podHASH/CID",
        HASH,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/kubepods/burstable/podUID/crio-CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/kubepods/burstable/podUID/CID/init.scope",
        UID,
        Qos::Burstable,
        true,
        2,
    ),
    (
        "/kubepods/burstable/podUID/CID/docker/OTHER",
        UID,
        Qos::Burstable,
        true,
        3,
    ),
    (
        "/custom/root/kubepods/burstable/podUID/CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    // The systemd driver.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podESC.slice",
        UID,
        Qos::Burstable,
        false,
        0,
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podESC.slice/cri-containerd-CID.scope",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podESC.slice/crio-CID.scope",
        UID,
        Qos::BestEffort,
        true,
        1,
    ),
    (
        "/kubepods.slice/kubepods-podESC.slice/docker-CID.scope",
        UID,
        Qos::Guaranteed,
        true,
        1,
    ),
    (
        "/kubepods.slice/kubepods-podESC.slice/cri-containerd-CID.scope/system.slice/nginx.service",
        UID,
        Qos::Guaranteed,
        true,
        3,
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podHASH.slice/cri-containerd-CID.scope",
        HASH,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/custom.slice/custom-kubepods.slice/custom-kubepods-burstable.slice/custom-kubepods-burstable-podESC.slice/crio-CID.scope",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    // The kubelet with this driver, the runtime with the other.
    (
        "/system.slice/containerd.service/kubepods-burstable-podESC.slice:cri-containerd:CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    // Kubernetes in a container.
    (
        "/docker/OTHER/kubelet/kubepods/burstable/podUID/CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/docker/OTHER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podESC.slice/cri-containerd-CID.scope",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podESC.slice/cri-containerd-CID.scope",
        UID,
        Qos::Guaranteed,
        true,
        1,
    ),
    (
        "/system.slice/docker-OTHER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podESC.slice/cri-containerd-CID.scope",
        UID,
        Qos::BestEffort,
        true,
        1,
    ),
    // As seen from inside another control group namespace.
    (
        "/../../../burstable/podUID/CID",
        "",
        Qos::Burstable,
        false,
        0,
    ),
    (
        "/../../kubepods/burstable/podUID/CID",
        UID,
        Qos::Burstable,
        true,
        1,
    ),
];

#[test]
fn pods() {
    for &(pattern, uid, qos, container, below) in PODS {
        let found = place(pattern);
        if uid.is_empty() {
            assert!(!matches!(found.identity, Identity::Pod { .. }), "{pattern}");
        } else {
            let mut found = found;
            let node = match &mut found.identity {
                Identity::Pod { node, .. } => node.take(),
                _ => None,
            };
            let other = Container {
                key: path("OTHER"),
                name: String::new(),
            };
            assert_eq!(
                node,
                pattern
                    .contains("OTHER/kubelet")
                    .then(|| other.clone())
                    .or_else(|| { pattern.contains("docker-OTHER").then_some(other) })
            );
            assert_eq!(found, a_pod(uid, qos, container, below), "{pattern}");
        }
    }
}

#[test]
fn the_outermost_pod_counts() {
    let inner = UID.replace('1', "2");
    let nested = format!("/kubepods/burstable/podUID/CID/kubelet/kubepods/pod{inner}/OTHER");
    assert_eq!(place(&nested), a_pod(UID, Qos::Burstable, true, 5));
}

#[test]
fn helpers_of_the_runtime() {
    for pattern in [
        "/kubepods/burstable/podUID/crio-conmon-CID",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podESC.slice/crio-conmon-CID.scope",
    ] {
        let found = place(pattern);
        let Identity::Pod { uid, .. } = found.identity else {
            panic!("{pattern}");
        };
        assert!(found.helper && uid == UID, "{pattern}");
    }
}

#[test]
fn containers_outside_kubernetes() {
    for (pattern, below) in [
        ("/docker/CID", 0),
        ("/docker/CID/init.scope", 1),
        ("/system.slice/docker-CID.scope", 0),
        (
            "/system.slice/docker-CID.scope/system.slice/nginx.service",
            2,
        ),
        ("/machine.slice/libpod-CID.scope/container", 1),
        ("/libpod_parent/libpod-CID", 0),
        ("/default/CID", 0),
        (
            "/system.slice/containerd.service/system.slice:docker:CID",
            0,
        ),
        ("/docker/CID/docker/OTHER", 2),
        ("/docker/CID/kubelet/kubepods", 2),
        ("/docker/CID/kubelet/kubepods/burstable/podnone", 4),
    ] {
        assert_eq!(place(pattern), at(a_container(), below), "{pattern}");
    }
}

#[test]
fn units() {
    for (pattern, name, below) in [
        ("/system.slice/sshd.service", "sshd.service", 0),
        ("/init.scope", "init.scope", 0),
        (
            "/user.slice/user-0.slice/session-3.scope",
            "session-3.scope",
            0,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-CID.scope",
            "user@1000.service",
            2,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/kubepods/podUID/CID",
            "user@1000.service",
            3,
        ),
        (
            "/user.slice/user-0.slice/user@0.service/app.slice/app-x.scope",
            "user@0.service",
            2,
        ),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            "getty@tty1.service",
            0,
        ),
        (
            "/system.slice/containerd.service/runtime/x",
            "containerd.service",
            2,
        ),
        ("/system.slice/_odd.service", "odd.service", 0),
        (
            "/system.slice/dev-hugepages.mount",
            "dev-hugepages.mount",
            0,
        ),
    ] {
        let identity = Identity::Unit(name.into());
        assert_eq!(place(pattern), at(identity, below), "{pattern}");
    }
    for (pattern, name) in [
        ("/system.slice", "system.slice"),
        (
            "/kubepods.slice/kubepods-burstable.slice",
            "kubepods-burstable.slice",
        ),
        ("/user.slice/user-0.slice", "user-0.slice"),
    ] {
        let identity = Identity::Slice(name.into());
        assert_eq!(place(pattern), at(identity, 0), "{pattern}");
    }
}

#[test]
fn what_says_nothing_is_not_guessed() {
    for pattern in [
        "/",
        "",
        "/kubepods",
        "/kubepods/burstable",
        "/process_api/7b1a6a3e5d1c8b771f0c6f4e2d0b4a52",
        // A UID, but nothing of Kubernetes.
        "/podUID",
        "/system/podUID/x",
        "/system.slice/system-podESC.slice.d",
        // Kubernetes, but no UID.
        "/kubepods/burstable/pod",
        "/kubepods/burstable/podUIDx",
        "/kubepods/burstable/pod1f0c6f4e-2d0b-4a52-9c39-6a3e5d1c8b7g",
        "/kubepods/burstable/pod1f0c6f4e-2d0b-4a52-9c39_6a3e5d1c8b77",
        "/kubepods/burstable/pod../../etc",
        "/system.slice/evil\"} 1\n.d",
        "/x/.service",
    ] {
        let identity = place(pattern).identity;
        assert!(matches!(identity, Identity::Other(_)), "{pattern}");
    }
    // A slice of another name.
    let slice = place("/kubepods.slice/evil-podESC.slice");
    assert!(matches!(slice.identity, Identity::Slice(_)), "{slice:?}");
    let long = format!("/system.slice/{}.service", "x".repeat(300));
    let identity = CgroupPlace::of(&long).identity;
    assert!(matches!(identity, Identity::Other(_)));
    let nameless = place("/kubepods/burstable/podUID/\u{202e}evil");
    assert_eq!(nameless, a_pod(UID, Qos::Burstable, false, 1));
}

#[test]
fn upper_case_is_the_same_uid() {
    let upper = format!("/kubepods/pod{}/x", UID.to_uppercase());
    assert_eq!(
        CgroupPlace::of(&upper),
        a_pod(UID, Qos::Guaranteed, false, 1)
    );
}

#[test]
fn processes_of_each_version() {
    let v2 = path("0::/kubepods/burstable/podUID/CID\n");
    let v1 = path(
        "12:pids:/kubepods/burstable/podUID/CID\n11:cpu,cpuacct:/kubepods/burstable/podUID/CID\n\
         1:name=systemd:/kubepods/burstable/podUID/CID\n",
    );
    let hybrid = path(
        "9:name=systemd:/kubepods/burstable/podUID/CID\n8:pids:/kubepods/burstable/podUID/CID\n\
         3:cpuset:/\n0::/system.slice/containerd.service\n",
    );
    let removed = path("0::/kubepods/burstable/podUID/CID (deleted)\n");
    for text in [v2, v1, hybrid, removed] {
        assert_eq!(
            of_process(&text, ""),
            a_pod(UID, Qos::Burstable, true, 1),
            "{text}"
        );
    }
    let unit = "9:name=systemd:/system.slice/sshd.service\n8:pids:/system.slice\n0::/system.slice/sshd.service\n";
    assert_eq!(
        of_process(unit, "").identity,
        Identity::Unit("sshd.service".into())
    );
    let nothing = Identity::Other(String::new());
    for text in [
        "9:name=systemd:/\n4:memory:/process_api/x\n0::/\n",
        "garbage\n1:2\n:::\nx:y:/a.service\n",
    ] {
        assert_eq!(of_process(text, "").identity, nothing);
    }
    // A path may have colons.
    let colons = path("0::/system.slice/containerd.service/a:b:CID\n");
    assert_eq!(of_process(&colons, "").identity, a_container());
}

#[test]
fn units_of_another_systemd_are_not_the_machine_s() {
    for (pattern, inside) in [
        ("/odd/box/system.slice/nginx.service", "/odd/box"),
        ("/odd/box/init.scope", "/odd/box"),
        ("/systemd/system.slice", "/systemd"),
        ("/kubelet/kubelet.service", "/kubelet"),
        ("/system.slice/x/y", "/system.slice/x/y"),
    ] {
        let identity = place(pattern).identity;
        assert_eq!(identity, Identity::Other(inside.into()), "{pattern}");
    }
    for (pattern, key, name) in [
        (
            "/lxc.payload.web/system.slice/nginx.service",
            "/lxc.payload.web",
            "web",
        ),
        ("/lxc/101/ns/system.slice/nginx.service", "/lxc/101", "101"),
        (
            "/machine.slice/machine-a\\x2db.scope/payload/init.scope",
            "/machine.slice/machine-a\\x2db.scope",
            "a-b",
        ),
    ] {
        let container = Container {
            key: key.into(),
            name: name.into(),
        };
        let identity = place(pattern).identity;
        assert_eq!(identity, Identity::Container(container), "{pattern}");
    }
}

#[test]
fn where_the_machine_s_own_groups_begin() {
    for (text, expected) in [
        ("0::/init.scope\n", ""),
        ("0::/../../../init.scope\n", ""),
        ("0::/\n", ""),
        ("", ""),
        (
            "0::/wsl-user/distro-1/systemd/init.scope\n",
            "/wsl-user/distro-1/systemd",
        ),
        (
            "8:memory:/docker/x/init.scope\n1:name=systemd:/docker/x/init.scope\n",
            "/docker/x",
        ),
    ] {
        assert_eq!(home(text), expected, "{text}");
    }
    assert_eq!(below("/docker/x", "/docker/x/kubelet"), "/kubelet");
    assert_eq!(below("/docker/x", "/docker/x"), "");
    assert_eq!(below("/docker/x", "/docker/xy"), "/docker/xy");
    assert_eq!(below("", "/docker"), "/docker");
}

/// Parts of which real paths are made, and what a hostile one could add.
fn segment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "kubepods",
        "kubepods.slice",
        "burstable",
        "kubepods-burstable.slice",
        "podUID",
        "podHASH",
        "kubepods-burstable-podESC.slice",
        "CID",
        "cri-containerd-CID.scope",
        "crio-conmon-CID",
        "pod",
        "docker",
        "..",
        ".",
        "system.slice",
        "a.service",
        "kubepods-podESC",
        "x-podESC.slice",
        "podESC",
    ]);
    prop_oneof![known.prop_map(path), "\\PC{0,80}", any::<String>()]
}

proptest! {
    #[test]
    fn nothing_but_uids_is_a_uid(segments in prop::collection::vec(segment(), 0..8)) {
        let text = segments.join("/");
        let CgroupPlace { identity, below, .. } = CgroupPlace::of(&text);
        prop_assert!(below <= text.split('/').count());
        match identity {
            Identity::Pod { uid: found, container, .. } => {
                prop_assert_eq!(uid(&found), Some(found.clone()));
                let plain = text.to_ascii_lowercase();
                prop_assert!(plain.contains(&found) || plain.contains(&found.replace('-', "_")));
                if let Some(id) = container {
                    prop_assert!(id.len() == ID && text.contains(&id));
                }
            }
            Identity::Container(Container { key, name }) => {
                let is_path = key.starts_with('/') && !name.is_empty();
                prop_assert!(is_path || (key.len() == ID && text.contains(&key)));
            }
            Identity::Unit(name) | Identity::Slice(name) => {
                prop_assert!(name.len() < LONGEST_UNIT && text.contains(&name));
                prop_assert!(name.is_ascii() && !name.bytes().any(|byte| byte.is_ascii_control()));
            }
            Identity::Other(inside) => prop_assert!(inside.is_empty() || inside.starts_with('/')),
        }
    }

    #[test]
    fn any_process_file_is_read(text in any::<String>(), segments in prop::collection::vec(segment(), 0..6)) {
        drop(of_process(&text, home(&text)));
        let line = format!("0::/{}\n", segments.join("/"));
        drop(of_process(&line, ""));
    }

    #[test]
    fn below_a_container_all_is_its(segments in prop::collection::vec(segment(), 0..6)) {
        let inside = format!("/kubepods/podUID/CID/{}", segments.join("/"));
        let found = place(&inside);
        prop_assert!(matches!(found.identity, Identity::Pod { uid, container, .. }
            if uid == UID && container.as_deref() == Some(CID)), "{}", inside);
    }
}
