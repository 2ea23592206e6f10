//! The program itself: what it says about wrong usage and missing things, and `watch` at an
//! agent's socket. What needs a kernel's conntrack is tested in guests.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use conntrack_ebpf::record::{
    DropReason, DropRecord, FLAG_CAUSE_KNOWN, Header, Kind, Origin, Tuple, VERSION, View,
};
use conntrack_user::{
    agent::{self, Snapshot, State, Table},
    pressure::state::Pressure,
    serve::socket::Socket,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{task::LocalSet, time::sleep};

/// Longer than anything here takes, shorter than a test runner's patience.
const PATIENCE: Duration = Duration::from_secs(20);

fn ctpressure() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctpressure"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CTPRESSURE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    ctpressure().args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
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
    assert_eq!(commands, ["run", "top", "watch", "table", "report"]);
    for command in commands {
        let said = output(&[command, "--help"]);
        assert!(said.status.success());
        let help = text(&said.stdout);
        assert!(help.contains("[env: CTPRESSURE_LOG="), "{help}");
        let asks_the_agent = !["table", "report"].contains(&command);
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
        (vec!["watch", "--protocol", "tpc"], "tpc"),
        (vec!["watch", "--address", "10.0.0.0/40"], "10.0.0.0/40"),
        (vec!["watch", "--duration", "soon"], "soon"),
        (vec!["watch", "--duration", "-1"], "-1"),
        (vec!["top", "--sort", "colour"], "colour"),
        (vec!["top", "--top", "0"], "0"),
        (vec!["top", "--top", "many"], "many"),
        (vec!["top", "--once", "-o", "xml"], "xml"),
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

/// An agent's socket without a kernel behind it: drops come at a steady rate, numbered by
/// their source port.
struct Agent {
    folder: TempDir,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let (end, ended) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                let socket = Socket::bind(&path).await.expect("a socket");
                let (publisher, handle) = agent::channel();
                publisher.publish(snapshot());
                ready.send(()).expect("the test waits");
                let drops = async {
                    let mut sink = publisher.sink();
                    let mut number = 0_u16;
                    loop {
                        number = number.wrapping_add(1);
                        sink(&drop_of(number));
                        sleep(Duration::from_millis(2)).await;
                    }
                };
                tokio::select! {
                    never = socket.serve(handle) => match never {},
                    () = drops => {}
                    _ = ended => {}
                }
            });
        });
        is_ready.recv().expect("the agent starts");
        Self {
            folder,
            end: Some(end),
            thread: Some(thread),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn watch(&self, arguments: &[&str]) -> Child {
        ctpressure()
            .args(["watch", "--socket"])
            .arg(self.socket())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the agent ends");
        }
    }
}

fn drop_of(source_port: u16) -> View {
    let tuple = Tuple {
        src: [u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0],
        src_port: source_port.to_be(),
        l3num: 2,
        dst: [u32::from_ne_bytes([10, 0, 0, 2]), 0, 0, 0],
        dst_port: 53_u16.to_be(),
        protonum: if source_port.is_multiple_of(2) { 17 } else { 6 },
        dir: 0,
    };
    let header = Header {
        version: VERSION,
        kind: Kind::Drop as u8,
        reason: DropReason::TableFull as u8,
        flags: FLAG_CAUSE_KNOWN,
        netns: 4_026_531_840,
        time_ns: 1,
        weight: 1,
        cpu: 0,
    };
    View::Drop(DropRecord {
        header,
        original: tuple,
        reply: Tuple::default(),
        origin: Origin::default(),
    })
}

/// A table that is half full, and nothing else.
fn snapshot() -> Snapshot {
    Snapshot {
        uptime_seconds: 1.0,
        state: State::Attached,
        reason: None,
        limit: Some(2_000),
        tables: vec![Table {
            netns: 4_026_531_840,
            name: "host".to_owned(),
            entries: 1_000,
            pressure: Pressure::Rising,
            seconds_to_full: Some(20.0),
            stats: None,
        }],
        ..Snapshot::default()
    }
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
    let said = agent
        .watch(&["-o", "json", "--count", "5"])
        .wait_with_output()
        .expect("it ends");
    assert!(said.status.success(), "{}", text(&said.stderr));
    let lines = text(&said.stdout);
    let ports: Vec<u64> = lines
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
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

#[test]
fn the_filter_is_applied() {
    let agent = Agent::start();
    let said = agent
        .watch(&[
            "--protocol",
            "tcp",
            "--port",
            "53",
            "--address",
            "10.0.0.0/24",
            "--count",
            "4",
        ])
        .wait_with_output()
        .expect("it ends");
    let lines = text(&said.stdout);
    assert_eq!(lines.lines().count(), 4);
    assert!(lines.lines().all(|line| line.contains(" tcp ")), "{lines}");
    assert!(!lines.contains('\u{1b}'), "no colour into a pipe");
    let said = agent
        .watch(&["--address", "10.9.9.9", "--duration", "0.5"])
        .wait_with_output()
        .expect("it ends");
    assert!(said.status.success());
    assert!(said.stdout.is_empty(), "{}", text(&said.stdout));
}

#[test]
fn a_line_comes_when_it_happens_and_a_closed_pipe_is_no_error() {
    let agent = Agent::start();
    let mut child = agent.watch(&[]);
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
        let mut child = agent.watch(&["-o", "json"]);
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
    let mut child = agent.watch(&[]);
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
