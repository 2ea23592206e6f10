//! Commands that ask the agent, at a socket that lies, stalls or breaks off: a clear message in bounded time,
//! never a panic, never a byte of what the other side says that moves the cursor.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longer than the longest that a command waits for an answer (15 s), on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// As an agent of this version says it.
const HELLO: &str = "{\"hello\":\"ctpressure\",\"protocol\":1,\"version\":\"0.1.0\"}\n";
/// The commands that ask.
const ASKING: [&[&str]; 5] = [
    &["watch", "--count", "1"],
    &["top", "--once"],
    &["top", "-o", "json"],
    &["status"],
    &["health"],
];

/// What listens.
struct Liar {
    folder: TempDir,
}

impl Liar {
    /// Does the same to everybody who comes.
    fn new(act: impl Fn(&mut UnixStream) + Send + Sync + Copy + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                thread::spawn(move || act(&mut stream));
            }
        });
        Self { folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ctpressure"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CTPRESSURE_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let end = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child").is_none() {
            if Instant::now() > end {
                child.kill().expect("it can be killed");
                panic!("{arguments:?} waits for ever");
            }
            thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output().expect("it ended")
    }

    /// Each command ends with an error that has one of `words`.
    fn is_named(&self, words: &[&str]) {
        thread::scope(|scope| {
            for arguments in ASKING {
                scope.spawn(move || self.is_named_by(arguments, words));
            }
        });
    }

    fn is_named_by(&self, arguments: &[&str], words: &[&str]) {
        let said = self.ask(arguments);
        let errors = String::from_utf8(said.stderr).expect("UTF-8");
        let shown = format!("{arguments:?}: {errors}");
        assert_eq!(said.status.code(), Some(1), "{shown}");
        assert!(errors.starts_with("ctpressure: error: "), "{shown}");
        assert!(errors.contains("\nhelp: "), "{shown}");
        assert!(words.iter().any(|word| errors.contains(word)), "{shown}");
        let moves = |letter: char| letter.is_control() && letter != '\n';
        assert!(!errors.contains(moves), "{shown:?}");
        assert!(errors.len() < 1_000, "{} bytes", errors.len());
        assert!(said.stdout.is_empty(), "{shown}");
    }
}

/// Says something; the other side may have gone.
fn say(stream: &mut UnixStream, bytes: &[u8]) {
    drop(stream.write_all(bytes));
}

/// Says hello and waits for the question.
fn greet(stream: &mut UnixStream) {
    say(stream, HELLO.as_bytes());
    let mut request = [0; 1024];
    drop(stream.read(&mut request));
}

/// Keeps the connection until the other side has had enough.
fn keep(stream: &mut UnixStream) {
    let mut ignored = [0; 1024];
    while matches!(stream.read(&mut ignored), Ok(1..)) {}
}

/// The same byte for as long as somebody takes it.
fn flood(stream: &mut UnixStream) {
    let bytes = vec![b'a'; 1 << 16];
    while stream.write_all(&bytes).is_ok() {}
}

#[test]
fn one_that_says_nothing() {
    Liar::new(keep).is_named(&["says nothing"]);
}

#[test]
fn one_that_nobody_answers_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
    Liar { folder }.is_named(&["says nothing"]);
    drop(listener);
}

#[test]
fn one_that_says_hello_and_then_nothing() {
    let liar = Liar::new(|stream| {
        greet(stream);
        keep(stream);
    });
    thread::scope(|scope| {
        for arguments in [["top", "--once"].as_slice(), &["top", "-o", "json"]] {
            let liar = &liar;
            scope.spawn(move || liar.is_named_by(arguments, &["says nothing"]));
        }
    });
    // No drops are nothing to say.
    let said = liar.ask(&["watch", "--duration", "0.3"]);
    assert_eq!(
        (said.status.code(), said.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn garbage_instead_of_a_greeting() {
    Liar::new(|stream| say(stream, b"SSH-2.0-\x1b[2Jother\r\n\xff\xfe\n"))
        .is_named(&["does not speak this protocol"]);
}

#[test]
fn a_greeting_without_an_end() {
    Liar::new(flood).is_named(&["does not speak this protocol"]);
}

#[test]
fn another_version_and_another_program() {
    for hello in [
        "{\"hello\":\"ctpressure\",\"protocol\":2,\"version\":\"9.\\u001b[2J\u{9b}1m\"}\n",
        "{\"hello\":\"somebody\",\"protocol\":1,\"version\":\"9.0\"}\n",
    ] {
        Liar::new(move |stream| say(stream, hello.as_bytes())).is_named(&["this is 1"]);
    }
}

#[test]
fn one_that_breaks_off() {
    Liar::new(|stream| {
        greet(stream);
        say(stream, b"{\"kind\":\"drop\",\"ti");
    })
    .is_named(&["closed the connection"]);
}

#[test]
fn garbage_and_refusals_instead_of_an_answer() {
    for answer in [
        &b"\x1b]0;title\x07\xff\n"[..],
        b"{\"error\":\"not today\\u001b[2J\"}\n",
        b"[1,2,3]\n",
        b"\n",
        b"{\"kind\":\"drop\",\"time\":-1}\n",
    ] {
        Liar::new(move |stream| {
            greet(stream);
            say(stream, answer);
            keep(stream);
        })
        .is_named(&["does not speak this protocol"]);
    }
}

#[test]
fn an_answer_without_an_end() {
    Liar::new(|stream| {
        greet(stream);
        flood(stream);
    })
    .is_named(&["a line of more than "]);
}
