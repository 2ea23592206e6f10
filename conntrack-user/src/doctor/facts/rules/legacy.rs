//! The rules of `iptables-legacy`, by its own program.

use std::{
    io::{self, Read as _},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{Backend, FORWARD, Forward, InvalidDrop};

/// How long the program may take.
const PATIENCE: Duration = Duration::from_millis(800);
/// Bytes of its output that are read.
const MOST_BYTES: u64 = 8 << 20;

/// What to do if neither the file that names the tables nor their rules can be read.
pub(super) const AS_ROOT: &str = "run as root";

/// The chain of kube-proxy, if there is one; why not, and what to do.
pub(super) fn read(ipv6: bool) -> Result<Option<Forward>, (String, &'static str)> {
    let (sure, perhaps) = if ipv6 {
        ("ip6tables-legacy-save", "ip6tables-save")
    } else {
        ("iptables-legacy-save", "iptables-save")
    };
    let text = match run(sure, &["-c", "-t", "filter"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A distribution without nf_tables has only one, under the short name.
            match run(perhaps, &["-V"]) {
                Ok(version) if !version.contains("nf_tables") => {
                    run(perhaps, &["-c", "-t", "filter"])
                }
                _ => Err(error),
            }
        }
        result => result,
    };
    let text = text.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "install iptables, or run where it is",
            _ => AS_ROOT,
        };
        (format!("{sure}: {error}"), help)
    })?;
    Ok(parse(&text, ipv6))
}

/// What `iptables-save -c` prints: `:CHAIN policy [packets:bytes]`, `[packets:bytes] -A CHAIN ...`.
fn parse(text: &str, ipv6: bool) -> Option<Forward> {
    let chain = format!(":{FORWARD} ");
    let rule = format!("-A {FORWARD} ");
    text.lines().find(|line| line.starts_with(&chain))?;
    let drop = text.lines().find_map(|line| {
        let (counters, line) = match line.strip_prefix('[') {
            Some(rest) => {
                let (counters, line) = rest.split_once("] ")?;
                (Some(counters), line)
            }
            None => (None, line),
        };
        let rest = line.strip_prefix(&rule)?;
        let mut words = rest.split_whitespace();
        let invalid = words
            .by_ref()
            .find(|word| matches!(*word, "--ctstate" | "--state"))
            .and_then(|_| words.next())
            .is_some_and(|states| states.split(',').any(|state| state == "INVALID"));
        (invalid && rest.ends_with("-j DROP")).then(|| InvalidDrop {
            packets: counters
                .and_then(|counters| counters.split_once(':'))
                .and_then(|(packets, _)| packets.parse().ok()),
        })
    });
    Some(Forward {
        ipv6,
        backend: Backend::Legacy,
        drop,
    })
}

/// What a program prints, if it ends well and in time.
fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take();
    let (send, receive) = mpsc::channel();
    thread::Builder::new()
        .name("iptables".to_owned())
        .spawn(move || {
            let mut text = String::new();
            let read = output.map_or(Ok(0), |output| {
                output.take(MOST_BYTES).read_to_string(&mut text)
            });
            // Nobody waits any more when it took too long.
            drop(send.send(read.map(|_| text)));
        })?;
    let text = receive
        .recv_timeout(PATIENCE)
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
    if text.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let text = text??;
    if status.success() {
        Ok(text)
    } else {
        Err(io::Error::other(format!("it ended with {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
*filter
:INPUT ACCEPT [10:500]
:KUBE-FORWARD - [0:0]
[3:180] -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
[7:420] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
[0:0] -A KUBE-FORWARD -m comment --comment \"x\" -m mark --mark 0x4000/0x4000 -j ACCEPT
[0:0] -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

    #[test]
    fn saved_rules() {
        let forward = parse(SAVED, false).expect("a chain");
        assert_eq!(forward.drop, Some(InvalidDrop { packets: Some(7) }));
        let nfacct = SAVED.replace(
            "INVALID -j",
            "INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j",
        );
        assert!(parse(&nfacct, false).expect("a chain").drop.is_some());
        let without: String = SAVED
            .lines()
            .filter(|line| !line.contains("INVALID"))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(parse(&without, true).expect("a chain").drop, None);
        let elsewhere = SAVED.replace(
            "-A KUBE-FORWARD -m conntrack --ctstate I",
            "-A INPUT -m conntrack --ctstate I",
        );
        assert_eq!(parse(&elsewhere, true).expect("a chain").drop, None);
        assert_eq!(parse("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", false), None);
    }

    #[test]
    fn programs_that_fail_hang_or_are_not_there() {
        assert_eq!(run("echo", &["a"]).expect("it prints"), "a\n");
        assert!(run("false", &[]).is_err());
        let error = run("sleep", &["60"]).expect_err("it hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = run("no-such-program", &[]).expect_err("it is not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
