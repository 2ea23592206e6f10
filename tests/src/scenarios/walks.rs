//! The walk over the kernel's hash table against ctnetlink's list, while the table is quiet and while it moves.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{census::table, of_kernel_only, setting::ALL_KINDS};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    generator, kernel, net,
    nfqueue::SilentQueue,
    prom::Metrics,
};

const POD: &str = "ctp-walked";
/// What it sends to a Service address goes to a real server.
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new,established accept; }
}
table ip ctp_nat {
  chain output {
    type nat hook output priority -100;
    ip daddr 198.18.0.80 udp dport 7000 dnat to 198.18.3.4:53
  }
}
";
const FLOWS: u64 = 9_000;
const FLOWS_OF_POD: u64 = 300;
/// Each way that entries can be grouped, but by their time: it goes on between the two.
const GROUPINGS: [(&str, &str); 5] = [
    ("all", "netns,protocol,state"),
    ("host", "source,destination,evictable"),
    ("all", "owner,direction,zone"),
    (POD, "service,nat"),
    (POD, "destination,service"),
];

/// The kernel refuses the program, or does not say where its table is.
fn has_no_walk(found: &Value) -> bool {
    found["source"]["kind"] == "ctnetlink"
}

pub(super) fn both_ways(_: Option<Mechanism>) -> Result<()> {
    kernel::never_expire()?;
    kernel::set_sysctl("nf_conntrack_sctp_timeout_closed", 3_600)?;
    kernel::set_limit(40_000)?;
    net::track_into_dead_end(None)?;
    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    let sent = generator::send(None, &format!("{ALL_KINDS} --flows {FLOWS}"))?;
    generator::send(
        Some(POD),
        &format!("--flows {FLOWS_OF_POD} --destination 198.18.0.80/32"),
    )?;
    kernel::nothing_expires(Some(POD))?;

    let first = table("--netns all --census auto")?;
    ensure!(
        !has_no_walk(&first),
        "the hash table was not walked over: {}",
        first["source"]
    );
    let mut checks = Checks::new();
    checks.equal(
        "entries",
        first["entries"].as_u64(),
        "sent",
        Some(sent.accepted + FLOWS_OF_POD),
    );
    for (netns, by) in GROUPINGS {
        let arguments = format!("--netns {netns} --by {by} --top 65536");
        let found = |source: &str| -> Result<Value> {
            let mut found = table(&format!("{arguments} --census {source}"))?;
            let object = found.as_object_mut().context("no object")?;
            object.remove("source");
            for table in object["tables"].as_array_mut().context("no tables")? {
                // Only the hash table tells.
                let table = table.as_object_mut().context("no table")?;
                table.retain(|key, _| key != "clashes" && key != "expired");
            }
            Ok(found)
        };
        let (walked, listed) = (found("hash")?, found("ctnetlink")?);
        checks.holds(walked == listed, || {
            format!("`table {arguments}`: {walked} by the hash table, {listed} by ctnetlink")
        });
    }
    waiting(&mut checks)?;
    checks.finish()
}

/// Packets that a program is given to judge, and does not.
const QUEUED: &str = "
table ip ctp_queue {
  chain out {
    type filter hook output priority 100;
    ip saddr 198.18.55.1 queue num 7
  }
}
";
const WAITING: u64 = 120;

/// Entries that are in no list of the table: kernels before 5.19 keep lists of those that are not confirmed.
fn waiting(checks: &mut Checks) -> Result<()> {
    kernel::load_module("nfnetlink_queue")?;
    let queue = SilentQueue::bind(7)?;
    net::nft(None, QUEUED)?;
    generator::send(None, &format!("--source 198.18.55.1/32 --flows {WAITING}"))?;
    let (major, minor) = kernel::release()?;
    let told = ((major, minor) < (5, 19)).then_some(WAITING);
    for source in ["hash", "ctnetlink"] {
        let found = table(&format!("--census {source} --by protocol"))?;
        let of_table = |name: &str| found["tables"][0][name].as_u64();
        checks.equal("held", of_table("held"), "waiting", Some(WAITING));
        checks.equal("unconfirmed", of_table("unconfirmed"), "waiting", told);
        checks.equal("dying", of_table("dying"), "none", told.map(|_| 0));
    }
    net::nft(None, "delete table ip ctp_queue")?;
    drop(queue);
    Ok(())
}

/// Entries of the table that is made anew.
const QUIET: u64 = 12_000;
/// Numbers of buckets in turn.
const BUCKETS: [u64; 2] = [131_072, 262_144];
/// How long each table stays, in turn, milliseconds: walks are over sooner than that, and later.
const STAYS: [u64; 4] = [50, 150, 500, 1_500];
/// How often the table is walked over meanwhile, at least.
const WALKS: usize = 20;
/// Until then one walk is to have begun anew.
const PATIENCE: Duration = Duration::from_mins(1);
/// Flows that come and go while it is walked over.
const MOVING: u64 = 30_000;

pub(super) fn moving(mechanism: Option<Mechanism>) -> Result<()> {
    kernel::never_expire()?;
    kernel::set_limit(100_000)?;
    net::track_into_dead_end(None)?;
    generator::send(None, &format!("--flows {QUIET}"))?;
    let mut checks = Checks::new();
    made_anew(&mut checks)?;
    come_and_go(&mut checks, mechanism)?;
    checks.finish()
}

/// How often walks over the hash table began anew.
fn restarts(walked: &[Value]) -> u64 {
    let of = |found: &Value| found["source"]["restarts"].as_u64();
    walked.iter().filter_map(of).sum()
}

/// The kernel moves all entries to another table, again and again.
fn made_anew(checks: &mut Checks) -> Result<()> {
    let done = AtomicBool::new(false);
    let walked = thread::scope(|scope| -> Result<Vec<Value>> {
        let resizing = scope.spawn(|| -> Result<u64> {
            let mut times = 0;
            for (buckets, stays) in BUCKETS.into_iter().cycle().zip(STAYS.into_iter().cycle()) {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                kernel::set_sysctl("nf_conntrack_buckets", buckets)?;
                times += 1;
                thread::sleep(Duration::from_millis(stays));
            }
            Ok(times)
        });
        let (mut walked, began) = (Vec::new(), Instant::now());
        while walked.len() < WALKS || restarts(&walked) == 0 && began.elapsed() < PATIENCE {
            match table("--census auto") {
                Ok(found) => walked.push(found),
                Err(error) => {
                    done.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        let times = resizing.join().expect("the thread ends")?;
        println!("the table was made anew {times} times");
        Ok(walked)
    })?;
    let by_hash = walked.iter().filter(|found| !has_no_walk(found)).count();
    let restarts = restarts(&walked);
    println!(
        "{by_hash} of {} walks over the hash table, {restarts} times begun anew",
        walked.len()
    );
    checks.holds(by_hash > 0 && restarts > 0, || {
        "no walk began anew, so nothing was shown".to_owned()
    });
    for found in &walked {
        if found["interrupted"] == true {
            continue;
        }
        checks.equal("entries", found["entries"].as_u64(), "sent", Some(QUIET));
    }
    Ok(())
}

/// Flows come, and go after a second.
fn come_and_go(checks: &mut Checks, mechanism: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_udp_timeout", 1)?;
    let agent = Agent::start(mechanism, "")?;
    let moved = |metrics: &Metrics| -> Result<u64> {
        let of = |name| metrics.count(name, &[]);
        Ok(of("ctpressure_inserts_total")? + of("ctpressure_deletes_total")?)
    };
    let flows = if of_kernel_only() { MOVING / 3 } else { MOVING };
    let sending = generator::start(
        None,
        &format!("--flows {flows} --source-ports 2000-2999 --rate 4000"),
    )?;
    let (mut walks, end) = (0, Instant::now() + Duration::from_secs(flows / 4_000 + 2));
    while Instant::now() < end {
        // The last sample before, and the next one after.
        let before = moved(&agent.scrape()?)?;
        let found = table("--census hash --by source --top 1")?;
        let moved = moved(&agent.sample()?)? - before;
        let entries = found["entries"].as_u64().context("no entries")?;
        let counts =
            ["count_before", "count_after"].map(|count| found["tables"][0][count].as_u64());
        for count in counts {
            let count = count.context("no count")?;
            checks.holds(entries.abs_diff(count) <= moved, || {
                format!("{entries} entries, {count} counted, {moved} came or went meanwhile")
            });
        }
        walks += 1;
    }
    println!("{walks} walks while flows came and went");
    sending.finish()?;
    agent.stop()
}
