//! The program itself: what it says about wrong usage and missing things, and `watch` at an
//! agent's socket. What needs a kernel's conntrack is tested in guests.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use ctpressure_tests::schemas;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

mod common;

use common::{Agent, ctpressure};

/// Longer than anything here takes, shorter than a test runner's patience.
const PATIENCE: Duration = Duration::from_secs(20);

fn output(arguments: &[&str]) -> Output {
    ctpressure().args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[cfg(not(feature = "kube"))]
#[test]
fn what_was_left_out_of_the_build_is_said() {
    for arguments in [&["run", "--kube"][..], &["cluster", "top", "-o", "json"]] {
        let said = output(arguments);
        let error = text(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{error}");
        assert!(error.contains("--features kube"), "{error}");
    }
}

#[test]
fn help_lists_what_works() {
    let said = output(&["--help"]);
    assert!(said.status.success());
    let help = text(&said.stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let of_the_node = [
        "run", "top", "watch", "table", "report", "doctor", "limit", "contain", "status", "health",
    ];
    let of_the_cluster: &[&str] = if cfg!(feature = "kube") {
        &["cluster"]
    } else {
        &[]
    };
    assert_eq!(commands, [&of_the_node[..], of_the_cluster].concat());
    for command in of_the_node {
        let said = output(&[command, "--help"]);
        assert!(said.status.success());
        let help = text(&said.stdout);
        assert!(help.contains("[env: CTPRESSURE_LOG="), "{help}");
        let asks_the_agent = command != "report";
        assert_eq!(help.contains("[env: CTPRESSURE_SOCKET="), asks_the_agent);
        assert!(
            !help.contains("--without-function"),
            "hidden flags are shown:\n{help}"
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "too wide:\n{help}"
        );
    }
}

#[test]
fn wrong_usage_is_exit_status_2_with_help() {
    for (arguments, word) in [
        (vec![], "subcommand"),
        (vec!["fly"], "fly"),
        (vec!["run", "--mechanism", "magic"], "magic"),
        (vec!["run", "--listen", "nowhere"], "nowhere"),
        (vec!["run", "--limit-controller", "perhaps"], "perhaps"),
        (vec!["run", "--tls-cert", "cert.pem"], "--tls-key"),
        (vec!["run", "--tls-client-ca", "ca.pem"], "--tls-cert"),
        (vec!["watch", "--protocol", "tpc"], "tpc"),
        (vec!["watch", "--address", "10.0.0.0/40"], "10.0.0.0/40"),
        (vec!["watch", "--duration", "soon"], "soon"),
        (vec!["watch", "--duration", "-1"], "-1"),
        (vec!["top", "--sort", "colour"], "colour"),
        (vec!["top", "--top", "0"], "0"),
        (vec!["top", "--top", "many"], "many"),
        (vec!["top", "--once", "-o", "xml"], "xml"),
        (vec!["doctor", "-o", "xml"], "xml"),
        (vec!["table", "--by", "colour"], "colour"),
        (vec!["table", "--state", "asleep"], "asleep"),
        (vec!["table", "--top", "0"], "0"),
        (vec!["table", "--list", "--by", "source"], "--by"),
        (vec!["table", "--assured", "--evictable"], "--assured"),
    ] {
        let said = output(&arguments);
        let errors = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with("ctpressure: error: "),
            "{arguments:?}: {errors}"
        );
        assert!(
            errors.lines().any(|line| line.starts_with("help: ")),
            "{arguments:?}: {errors}"
        );
        assert!(errors.contains(word), "{arguments:?}: {errors}");
        assert!(said.stdout.is_empty());
    }
}

#[test]
fn limits_that_make_no_sense_are_refused_before_anything_is_loaded() {
    for (arguments, word) in [
        (
            vec!["--min-limit", "2000", "--max-limit", "1000"],
            "is above --max-limit",
        ),
        (vec!["--max-limit", "0"], "--max-limit 0"),
        (vec!["--min-limit", "0"], "--min-limit 0"),
        (vec!["--max-limit", "-5"], "-5"),
        (vec!["--max-limit", "2147483648"], "2147483647"),
        (vec!["--raise-at", "1.2"], "--raise-at 1.2"),
        (vec!["--raise-at", "much"], "80%"),
        (vec!["--max-memory-share", "120%"], "--max-memory-share 1.2"),
        (
            vec!["--max-memory-share-all", "1%"],
            "--max-memory-share-all 0.01",
        ),
        (vec!["--raise-netns", ""], "--raise-netns"),
        (vec!["--raise-for", "0s"], "--raise-for 0s"),
        (vec!["--raise-cooldown", "1s"], "--raise-cooldown 1s"),
        (vec!["--max-memory-share=-0.1"], "--max-memory-share -0.1"),
        (vec!["--raise-at", "0"], "--raise-at 0"),
        (vec!["--min-limit", "99999999999999999999"], "--min-limit"),
        (vec!["--give-back", "5m"], "--give-back 5m"),
    ] {
        for mode in ["on", "dry-run", "off"] {
            let folder = TempDir::new().expect("a folder");
            let socket = folder.path().join("socket");
            let said = ctpressure()
                .args(["run", "--listen", "127.0.0.1:0", "--socket"])
                .arg(&socket)
                .args(["--limit-controller", mode])
                .args(&arguments)
                .output()
                .expect("it starts");
            let errors = text(&said.stderr);
            assert_eq!(said.status.code(), Some(2), "{arguments:?}: {errors}");
            assert!(errors.contains(word), "{arguments:?}: {errors}");
            assert!(
                errors.lines().any(|line| line.starts_with("help: ")),
                "{errors}"
            );
            assert!(!errors.contains("ctpressure begins"), "{errors}");
        }
    }
    let said = output(&["limit", "set", "many"]);
    assert_eq!(said.status.code(), Some(2));
    // It takes a controller.
    let said = output(&["run", "--listen", "127.0.0.1:0", "--shorten-timeouts"]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("--limit-controller on"));
}

#[test]
fn a_wrong_environment_is_wrong_usage_too() {
    let said = ctpressure()
        .arg("run")
        .env("CTPRESSURE_RING_SIZE", "big")
        .output()
        .expect("it starts");
    assert_eq!(said.status.code(), Some(2));
    let errors = text(&said.stderr);
    assert!(
        errors.contains("--ring-size") && errors.contains("big"),
        "{errors}"
    );
}

/// `run` that has to fail before it touches the kernel.
fn fails(socket: &Path, listen: &str) -> String {
    let said = ctpressure()
        .args(["run", "--listen", listen, "--socket"])
        .arg(socket)
        .output()
        .expect("it starts");
    let errors = text(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("ctpressure: error: ") && errors.contains("\nhelp: "),
        "{errors}"
    );
    errors
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let errors = fails(&folder.path().join("socket"), &address);
    assert!(
        errors.contains(&address) && errors.contains("--listen"),
        "{errors}"
    );
}

#[test]
fn a_file_where_the_socket_should_be_is_named_and_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    std::fs::write(&path, "precious").expect("a file");
    let errors = fails(&path, "127.0.0.1:0");
    assert!(
        errors.contains("not a socket") && errors.contains("--socket"),
        "{errors}"
    );
    assert_eq!(
        std::fs::read_to_string(&path).expect("still there"),
        "precious"
    );
}

/// `watch` at the agent.
fn watch(agent: &Agent, arguments: &[&str]) -> Child {
    ctpressure()
        .args(["watch", "--socket"])
        .arg(agent.socket())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Waits for the end; the exit status and what came on stderr.
fn end_of(mut child: Child) -> (Option<i32>, String) {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            let errors = child
                .stderr
                .take()
                .map(BufReader::new)
                .map_or_else(String::new, |all| {
                    all.lines()
                        .map_while(Result::ok)
                        .collect::<Vec<_>>()
                        .join("\n")
                });
            return (status.code(), errors);
        }
        if begin.elapsed() > PATIENCE {
            child.kill().expect("it can be killed");
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn watch_prints_json_lines_and_ends_after_count() {
    let agent = Agent::start();
    let said = watch(&agent, &["-o", "json", "--count", "5"])
        .wait_with_output()
        .expect("it ends");
    assert!(said.status.success(), "{}", text(&said.stderr));
    let lines = text(&said.stdout);
    let ports: Vec<u64> = lines
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            schemas::assert_passes("watch", &event);
            assert_eq!(event["kind"], "drop");
            assert_eq!(event["reason"], "table_full");
            event["original"]["source_port"].as_u64().expect("a port")
        })
        .collect();
    assert_eq!(ports.len(), 5);
    assert!(
        ports.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "out of order: {ports:?}"
    );
}

/// A client that has been answered, and stays.
fn follow(agent: &Agent) -> UnixStream {
    let stream = UnixStream::connect(agent.socket()).expect("it listens");
    let mut lines = BufReader::new(&stream).lines();
    lines.next().expect("a hello").expect("a line");
    (&stream).write_all(b"{\"top\":{}}\n").expect("it reads");
    lines.next().expect("an answer").expect("a line");
    drop(lines);
    stream
}

#[test]
fn health_is_told_however_many_others_ask() {
    let agent = Agent::start();
    let health = |arguments: &[&str]| {
        let mut command = ctpressure();
        command.arg("health").args(arguments).arg("--socket");
        let said = command.arg(agent.socket()).output().expect("it ends");
        (said.status.code(), text(&said.stdout), text(&said.stderr))
    };
    let others: Vec<UnixStream> = (0..16).map(|_| follow(&agent)).collect();
    let (status, errors) = end_of(watch(&agent, &[]));
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains("too many clients"), "{errors}");
    assert_eq!(health(&[]), (Some(0), "alive\n".to_owned(), String::new()));
    let (status, said, errors) = health(&["--ready"]);
    assert_eq!((status, said.as_str()), (Some(1), ""), "{errors}");
    assert!(
        errors.contains("not ready: no sample yet\nhelp: "),
        "{errors}"
    );
    drop(others);
}

#[test]
fn who_asks_an_agent_that_is_not_there_is_told_so() {
    for command in ["health", "status"] {
        let said = output(&[command, "--socket", "/nonexistent/socket"]);
        let errors = text(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("no agent listens on /nonexistent/socket\nhelp: "),
            "{errors}"
        );
    }
}

#[test]
fn the_status_is_one_object() {
    let agent = Agent::start();
    let mut command = ctpressure();
    command.arg("status").arg("--socket").arg(agent.socket());
    let said = command.output().expect("it ends");
    assert!(said.status.success(), "{}", text(&said.stderr));
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
    for pointer in [
        "/version",
        "/state",
        "/reason",
        "/kernel/release",
        "/uptime_seconds",
        "/hooks",
        "/fields",
        "/limit",
        "/buckets",
        "/tables/0/netns",
        "/tables/0/name",
        "/tables/0/entries",
        "/totals/inserts",
        "/totals/drops/table_full",
        "/totals/lost/missed_runs",
        "/drift",
        "/own/rss_bytes",
        "/own/cpu_seconds",
        "/capabilities/kept",
        "/http/closed_slow",
        "/problems",
    ] {
        assert!(
            status.pointer(pointer).is_some(),
            "no {pointer} in {status}"
        );
    }
    assert_eq!(status["tables"][0]["pressure"], "rising");
}

#[test]
fn the_filter_is_applied() {
    let agent = Agent::start();
    let said = watch(
        &agent,
        &[
            "--protocol",
            "tcp",
            "--port",
            "53",
            "--address",
            "10.0.0.0/24",
            "--count",
            "4",
        ],
    )
    .wait_with_output()
    .expect("it ends");
    let lines = text(&said.stdout);
    assert_eq!(lines.lines().count(), 4);
    assert!(lines.lines().all(|line| line.contains(" tcp ")), "{lines}");
    assert!(!lines.contains('\u{1b}'), "no colour into a pipe");
    let said = watch(&agent, &["--address", "10.9.9.9", "--duration", "0.5"])
        .wait_with_output()
        .expect("it ends");
    assert!(said.status.success());
    assert!(said.stdout.is_empty(), "{}", text(&said.stdout));
}

#[test]
fn a_line_comes_when_it_happens_and_a_closed_pipe_is_no_error() {
    let agent = Agent::start();
    let mut child = watch(&agent, &[]);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next().expect("a line").expect("a line");
    drop(lines);
    let (status, errors) = end_of(child);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

#[test]
fn a_signal_ends_it_even_while_nobody_reads() {
    let agent = Agent::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut child = watch(&agent, &["-o", "json"]);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        // 64 KiB fit into the pipe: 2 s of these lines are about twice that.
        thread::sleep(Duration::from_secs(2));
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        let begin = Instant::now();
        kill(pid, signal).expect("it runs");
        let (status, errors) = end_of(child);
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{signal:?}");
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "{signal:?}: {:?}",
            begin.elapsed()
        );
        drop(lines);
    }
}

#[test]
fn the_end_of_the_agent_is_told() {
    let agent = Agent::start();
    let mut child = watch(&agent, &[]);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next().expect("a line").expect("a line");
    drop(agent);
    while let Some(Ok(_)) = lines.next() {}
    let (status, errors) = end_of(child);
    assert_eq!(status, Some(1), "{errors}");
    assert!(
        errors.starts_with("ctpressure: error: the agent has ended"),
        "{errors}"
    );
    assert!(errors.contains("help: "), "{errors}");
}

#[test]
fn top_prints_what_the_agent_knows() {
    let agent = Agent::start();
    let top = |arguments: &[&str]| {
        let said = ctpressure()
            .args(["top", "--socket"])
            .arg(agent.socket())
            .args(arguments)
            .output()
            .expect("it starts");
        assert!(said.status.success(), "{}", text(&said.stderr));
        text(&said.stdout)
    };
    let json = top(&["--once", "-o", "json"]);
    assert_eq!(json.lines().count(), 1, "{json}");
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    schemas::assert_passes("top", &value);
    assert_eq!(value["limit"], 2_000);
    assert_eq!(value["tables"][0]["name"], "host");
    assert_eq!(value["tables"][0]["occupancy"], 0.5);
    // Nobody can press keys here: it prints.
    let printed = top(&[]);
    assert!(
        printed.contains("table host") && printed.contains("rising full in 20s"),
        "{printed}"
    );
    assert!(!printed.contains('\u{1b}'), "no colour into a pipe");
}

#[test]
fn top_says_when_the_agent_ends() {
    let agent = Agent::start();
    let mut child = ctpressure()
        .args(["top", "-o", "json", "--socket"])
        .arg(agent.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next().expect("a line").expect("a line");
    drop(agent);
    assert!(lines.next().is_none());
    let (status, errors) = end_of(child);
    assert_eq!(status, Some(1), "{errors}");
    assert!(
        errors.starts_with("ctpressure: error: the agent has ended\nhelp: "),
        "{errors}"
    );
}
