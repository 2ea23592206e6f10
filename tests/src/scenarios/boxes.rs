//! Containers of many runtimes side by side, by the layouts that people pasted (the tables of `docs/owners.md` have
//! the sources): a system in a container has the same units as the host, and two nodes of kind the same pods.

use std::{fs, net::Ipv4Addr, process::Stdio};

use anyhow::{Context as _, Result};

use super::setting::Setting;
use crate::{
    containers::lookalike::Lookalike,
    guest::{
        agent::Mechanism,
        checks::Checks,
        command::{output, spawn},
        generator,
        owned::{ByOwner, Owner},
        unit::{Unit, in_group},
    },
};

/// A unit that the host has, and some of the boxes.
const UNIT: &str = "ctp-nginx.service";

/// What a user, or a box, runs inside: it has its own table, and no address in the host's. Whoever may make a network gives himself
/// what addresses he likes.
const INNER: [&str; 2] = ["user@1000.service/dddddddddddd", "web01/999999999999"];

/// IDs of containers.
fn id(letter: &str) -> String {
    letter.repeat(64)
}

/// The UID of a static pod: the same on every node with that manifest.
const HASH: &str = "7b1a6a3e5d1c8b771f0c6f4e2d0b4a52";

/// A pod on a node that is a container.
fn pod_on(node: &str) -> Owner {
    Owner {
        pod: HASH.to_owned(),
        unit: node.to_owned(),
        ..Owner::pod("", "")
    }
}

/// Control groups with a network of their own, and who that is.
fn boxes() -> Vec<(String, Owner)> {
    let named = |path: &str, name: &str| (path.replace("UNIT", UNIT), Owner::unit(name));
    let (kind, other) = (id("a"), id("b"));
    let pod = "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice";
    let pod = format!(
        "{pod}/kubelet-kubepods-burstable-pod{HASH}.slice/cri-containerd-{}.scope",
        id("c")
    );
    let user = "/user.slice/user-1000.slice/user@1000.service";
    vec![
        named("/lxc.payload.web01/system.slice/UNIT", "web01"),
        named("/lxc.payload.db01/system.slice/UNIT", "db01"),
        named("/lxc/101/ns/system.slice/UNIT", "101"),
        named("/lxc.payload/old/system.slice/UNIT", "old"),
        named(
            "/machine.slice/machine-mail.scope/payload/system.slice/UNIT",
            "mail",
        ),
        named(
            "/machine.slice/systemd-nspawn@shop.service/payload/system.slice/UNIT",
            "shop",
        ),
        named("/machine/lxc-1268-sl.libvirt-lxc", "sl"),
        named("/odd/runtime/system.slice/UNIT", "odd/runtime"),
        named(&format!("/docker/{kind}/system.slice/UNIT"), "kind-worker"),
        (format!("/docker/{kind}/{pod}"), pod_on("kind-worker")),
        named(
            &format!("/system.slice/docker-{other}.scope/system.slice/UNIT"),
            "bbbbbbbbbbbb",
        ),
        (
            format!("/system.slice/docker-{other}.scope/{pod}"),
            pod_on("bbbbbbbbbbbb"),
        ),
        named(
            &format!("/machine.slice/libpod-{}.scope/container", id("d")),
            "postfix",
        ),
        named(
            &format!(
                "/system.slice/ctp-quadlet.service/libpod-payload-{}",
                id("e")
            ),
            "eeeeeeeeeeee",
        ),
        named(
            &format!(
                "/ecstasks.slice/ecstasks-{HASH}.slice/docker-{}.scope",
                id("f")
            ),
            "ffffffffffff",
        ),
        named(
            &format!("/ecs/{HASH}/{HASH}-1234567890"),
            &format!("ecs/{HASH}/{HASH}-1234567890"),
        ),
        named(
            "/nomad.slice/share.slice/4744f0ea-7616-ab3a-a420-8e25056e3861.web.scope",
            "web-4744f0ea",
        ),
        named(
            "/nomad.slice/share.slice/5744f0ea-7616-ab3a-a420-8e25056e3861.web.scope",
            "web-5744f0ea",
        ),
        named(
            "/mesos/86cd56b7-0380-4fa3-82e0-8cd540fab7c2/leaf",
            "86cd56b7-0380-4fa3-82e0-8cd540fab7c2",
        ),
        named(
            "/system.slice/ctp-garden.service/garden/one",
            "ctp-garden.service/garden/one",
        ),
        named(
            "/system.slice/ctp-garden.service/garden/two",
            "ctp-garden.service/garden/two",
        ),
        named(
            &format!("{user}/user.slice/libpod-{}.scope/container", id("d")),
            "user@1000.service/dddddddddddd",
        ),
        named(
            &format!("/lxc.payload.web01/system.slice/docker-{}.scope", id("9")),
            "web01/999999999999",
        ),
    ]
}

/// A process of the host's network in a control group, until the scenario ends.
fn in_host_network(group: &str) -> Result<()> {
    let folder = format!("/sys/fs/cgroup{group}");
    fs::create_dir_all(&folder).with_context(|| format!("making {folder}"))?;
    let mut command = in_group(&folder, "sleep");
    command
        .arg("100000")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    spawn(&mut command).map(drop)
}

/// What Docker and podman know of names.
fn write_names() -> Result<()> {
    let docker = format!("/var/lib/docker/containers/{}", id("a"));
    fs::create_dir_all(&docker)?;
    let config = r#"{"StreamConfig":{},"ID":"a","Name":"/kind-worker","Config":{"Env":["A=B"]}}"#;
    fs::write(format!("{docker}/config.v2.json"), config)?;
    let podman = "/var/lib/containers/storage/overlay-containers";
    fs::create_dir_all(podman)?;
    let list = format!(
        r#"[{{"id":"{}","names":["postfix"],"layer":"x"}}]"#,
        id("d")
    );
    Ok(fs::write(format!("{podman}/containers.json"), list)?)
}

pub(super) fn apart(mechanism: Option<Mechanism>) -> Result<()> {
    write_names()?;
    let _unit = Unit::start(UNIT)?;
    for group in [
        // Begun before the container, in the host's network.
        format!("/machine.slice/libpod-conmon-{}.scope", id("d")),
        "/machine.slice/machine-mail.scope/supervisor".to_owned(),
        "/lxc.monitor.web01".to_owned(),
        "/system.slice/ctp-quadlet.service/runtime".to_owned(),
        "/system.slice/ctp-garden.service/server".to_owned(),
        "/user.slice/user-1000.slice/user@1000.service/init.scope".to_owned(),
        // A system in a container that uses the host's network.
        format!("/lxc.payload.hostnet/system.slice/{UNIT}"),
    ] {
        in_host_network(&group)?;
    }
    let boxes: Vec<(Lookalike, Owner)> = (0_u8..)
        .zip(boxes())
        .map(|(number, (group, owner))| {
            let address = Ipv4Addr::new(10, 91, 0, 10 + number);
            Ok((
                Lookalike::in_group(u32::from(number), &group, address)?,
                owner,
            ))
        })
        .collect::<Result<_>>()?;
    let setting = Setting::new(mechanism, 20_000, "")?;
    let before = setting.agent.settled()?;
    let mut expected = ByOwner::default();
    let mut first = 0;
    for (number, (one, owner)) in (0_u64..).zip(&boxes) {
        let flows = 21 + 3 * number;
        let arguments = format!(
            "--source {}/32 --flows {flows} --first {first}",
            one.address
        );
        let sent = generator::send(None, &arguments)?.accepted;
        let charged = if INNER.contains(&&*owner.unit) {
            Owner::unknown()
        } else {
            owner.clone()
        };
        expected.add(charged, "egress", sent);
        first += 1000;
    }
    for (group, owner, flows) in [
        (format!("/system.slice/{UNIT}"), UNIT, 200),
        (
            format!("/lxc.payload.hostnet/system.slice/{UNIT}"),
            "hostnet",
            203,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope".to_owned(),
            "user@1000.service",
            206,
        ),
    ] {
        let mut command = in_group(&format!("/sys/fs/cgroup{group}"), "ctgen");
        command.args([
            "send",
            "--source",
            "192.0.2.1/32",
            "--flows",
            &flows.to_string(),
            "--first",
            &first.to_string(),
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let sent = generator::counted(spawn(&mut command)?)?.accepted;
        expected.add(Owner::unit(owner), "egress", sent);
        first += 1000;
    }
    let inserts = |metrics| ByOwner::read(metrics, "inserts_total", "direction");
    let growth = inserts(&setting.agent.settled()?)?.since(&inserts(&before)?)?;
    let mut checks = Checks::new();
    checks.at_least("flows", expected.sum(), 1_000);
    growth.check(&mut checks, "inserts", &expected);
    // A command that looks for itself names the same boxes; whose sockets the host's entries are only the agent saw.
    let by_owner = ["table", "--by", "owner", "--top", "40"];
    let socket = setting.agent.socket();
    let socket = socket.to_str().context("a path that is not text")?;
    let with_agent = [&by_owner[..], &["--socket", socket]].concat();
    let of_agent = ["hostnet", UNIT, "user@1000.service"];
    let of_boxes = ["web01", "db01", "mail", "web-4744f0ea"];
    for (arguments, names) in [
        (&by_owner[..], of_boxes.to_vec()),
        (&with_agent[..], [&of_boxes[..], &of_agent[..]].concat()),
    ] {
        let listing = output("ctpressure", arguments)?;
        for name in names {
            let is_there = listing.split_whitespace().any(|word| word == name);
            checks.holds(is_there, || {
                format!(
                    "{arguments:?} lacks {name}:\n{}",
                    listing.chars().take(600).collect::<String>()
                )
            });
        }
    }
    checks.finish()?;
    setting.agent.stop()?;
    boxes.into_iter().try_for_each(|(one, _)| one.remove())
}
