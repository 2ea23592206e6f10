//! `ctpressure watch`: what its filters give, and watching without an agent.

use std::{thread, time::Duration};

use anyhow::Result;

use super::setting::{MANY_BUCKETS, Setting};
use crate::guest::{
    agent::{Mechanism, free_address},
    bpf::Inventory,
    checks::Checks,
    command::{HANG, wait_for},
    generator, kernel,
    net::{self, namespace_inode},
    watch::{Line, Watch},
};

const POD: &str = "ctp-pod";
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new accept; }
}
";

pub(super) fn filters(mechanism: Option<Mechanism>) -> Result<()> {
    let everything = "--insert-budget 4000000000 --drop-budget 4000000000 \
                      --eviction-budget 4000000000";
    let setting = Setting::new(mechanism, 10_000, everything)?;
    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    let inode = namespace_inode(POD)?;
    setting.agent.wait_for_table(POD)?;

    let (udp, tcp6, icmp, pod, sctp) = (20, 30, 10, 15, 7);
    let all = udp + tcp6 + icmp + pod + sctp;
    let expected: Vec<(String, usize)> = [
        ("--kind insert", all),
        ("--inserts", all),
        ("", 0),
        ("--kind insert --protocol udp", udp + pod),
        ("--kind insert --protocol tcp --protocol icmp", tcp6 + icmp),
        ("--kind insert --protocol 132", sctp),
        ("--kind insert --address 198.19.5.0/24", udp),
        ("--kind insert --address 198.18.1.255", 1),
        ("--kind insert --address fd00:c7::/32", tcp6),
        ("--kind insert --port 53", udp + pod),
        ("--kind insert --port 53 --netns host", udp),
        ("--kind insert --netns ctp-pod", pod),
        ("--kind insert --protocol tcp --port 53", 0),
    ]
    .map(|(arguments, lines)| (arguments.to_owned(), lines))
    .into_iter()
    .chain([(format!("--kind insert --netns {inode}"), pod)])
    .collect();
    let arguments: Vec<&str> = expected
        .iter()
        .map(|(arguments, _)| arguments.as_str())
        .collect();
    let watches = Watch::start_all(&setting.agent, &arguments)?;

    let one_each = "--source 198.18.1.236/32 --source-ports 2000-2999";
    for (namespace, arguments) in [
        (
            None,
            format!(
                "--flows {} --destination 198.19.5.0/24 --destination-ports 53 {one_each}",
                udp - 1
            ),
        ),
        (
            None,
            "--flows 1 --destination 198.19.5.7/32 --destination-ports 53 --source 198.18.1.255/32"
                .to_owned(),
        ),
        (
            None,
            format!("--flows {tcp6} --protocol tcp --family 6 --destination-ports 443"),
        ),
        (None, format!("--flows {icmp} --protocol icmp")),
        (
            Some(POD),
            format!("--flows {pod} --destination-ports 53 --source 198.18.77.0/24"),
        ),
        (None, format!("--flows {sctp} --protocol sctp")),
    ] {
        generator::send(namespace, &arguments)?;
    }
    wait_for("all inserts to be printed", HANG, || {
        Ok((watches[0].len() >= all).then_some(()))
    })?;
    thread::sleep(Duration::from_secs(1));

    let mut checks = Checks::new();
    for (watch, (arguments, lines)) in watches.into_iter().zip(&expected) {
        let seen = watch.stop()?;
        checks.equal(
            format!("lines of `watch {arguments}`"),
            seen.len(),
            "sent",
            *lines,
        );
        let strange = seen.iter().find(|line| line.kind() != "insert");
        checks.holds(strange.is_none(), || {
            format!("`watch {arguments}` printed {strange:?}")
        });
    }
    checks.finish()?;
    filters_of_drops(&setting)?;
    setting.agent.stop()
}

/// Drops and evictions, told apart by kind and by protocol.
fn filters_of_drops(setting: &Setting) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    let before = setting
        .growth()?
        .counter("evictions_total", &[("role", "victim")])?;
    let arguments = [
        "--kind drop",
        "--kind drop --protocol udp",
        "--kind drop --protocol tcp",
        "--kind eviction",
        "",
    ];
    let watches = Watch::start_all(&setting.agent, &arguments)?;
    kernel::set_limit(100)?;
    let udp = generator::send(None, "--first 100000 --flows 1500")?.error("EPERM");
    let tcp = generator::send(None, "--protocol tcp --flows 500")?.error("EPERM");
    let evictions = setting
        .growth()?
        .counter("evictions_total", &[("role", "victim")])?
        - before;
    let expected = [udp + tcp, udp, tcp, evictions, udp + tcp + evictions].map(usize::try_from);
    let all = usize::try_from(udp + tcp + evictions)?;
    wait_for("all lines to be printed", HANG, || {
        Ok((watches[4].len() >= all).then_some(()))
    })?;
    // The others print the same events, and nothing else.
    thread::sleep(Duration::from_secs(1));
    let mut checks = Checks::new();
    checks.at_least("udp drops", udp, 100);
    checks.at_least("tcp drops", tcp, 100);
    for (index, (watch, expected)) in watches.into_iter().zip(expected).enumerate() {
        checks.equal(
            format!("lines of drop watch {index}"),
            watch.stop()?.len(),
            "sent",
            expected?,
        );
    }
    checks.finish()
}

pub(super) fn alone(mechanism: Option<Mechanism>) -> Result<()> {
    const FLOWS: usize = 50;
    kernel::set_limit(10_000)?;
    kernel::never_expire()?;
    net::track_into_dead_end(None)?;
    let before = Inventory::take()?;
    let nobody = std::env::temp_dir().join(format!("ctp-nobody-{}", free_address()?.port()));
    let mechanism = mechanism.map_or_else(String::new, |mechanism| {
        format!("--mechanism {}", mechanism.name())
    });
    // All details: by default one CPU makes 50 records of inserts in 100 ms, and the warm-up has some.
    let everything = "--inserts --insert-budget 4000000000";
    let watch = Watch::start(&nobody, &format!("{everything} {mechanism}"))?;
    let warm_up = generator::start(None, "--first 1000000 --flows 9000 --rate 100 --seconds 60")?;
    watch.wait_for("the first insert", |line| line.kind() == "insert")?;
    drop(warm_up);
    let during = Inventory::take()?;
    let tally = generator::send(None, &format!("--flows {FLOWS} --destination-ports 4242"))?;
    let marked =
        |line: &Line| line.event.pointer("/original/destination_port") == Some(&4242.into());
    let count = |lines: &[Line]| lines.iter().filter(|line| marked(line)).count();
    // Whether all come is checked below; the limit only ends the waiting.
    let all = wait_for("all inserts to be printed", Duration::from_secs(30), || {
        Ok((count(&watch.lines()) >= FLOWS).then_some(()))
    });
    let lines = watch.stop()?;
    let seen = count(&lines);
    if all.is_err() {
        let lost: Vec<_> = lines.iter().filter(|line| line.kind() == "lost").collect();
        println!("{seen} of {FLOWS} inserts; lost: {lost:?}");
    }
    let mut checks = Checks::new();
    checks.equal("accepted", tally.accepted, "flows", FLOWS as u64);
    checks.equal("insert lines", seen, "flows", FLOWS);
    checks.at_least("programs of the watch", during.beyond(&before).0, 1);
    checks.finish()?;
    wait_for("programs, maps and links of the watch to go", HANG, || {
        Ok((Inventory::take()?.beyond(&before) == (0, 0, 0)).then_some(()))
    })
}
