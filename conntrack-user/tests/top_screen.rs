//! The screen of `ctpressure top` on a terminal: sizes, keys, and that the terminal is put back.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::{Pid, ttyname},
};

mod common;

use common::{Agent, ctpressure};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What puts the ordinary screen back.
const LEAVE: &str = "\u{1b}[?1049l";

/// `top` on a terminal of its own.
struct Screen {
    child: Child,
    keys: File,
    said: Arc<Mutex<Vec<u8>>>,
    terminal: PathBuf,
    before: String,
    // Kept open, so that its state can be looked at after the end.
    _slave: OwnedFd,
    _agent: Agent,
}

impl Screen {
    fn new(columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let agent = Agent::start();
        let pair = openpty(Some(&size), None).expect("a terminal");
        let terminal = ttyname(&pair.slave).expect("its name");
        let before = state(&terminal);
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let child = ctpressure()
            .args(["top", "--socket"])
            .arg(agent.socket())
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("it starts");
        let keys = File::from(pair.master);
        let mut reader = keys.try_clone().expect("a descriptor");
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                let mut all = heard.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend_from_slice(&bytes[..length]);
            }
        });
        Self {
            child,
            keys,
            said,
            terminal,
            before,
            _slave: pair.slave,
            _agent: agent,
        }
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until these words were drawn since the last call that found some.
    fn shows(&self, words: &str) {
        let end = Instant::now() + PATIENCE;
        // The cursor is moved between words that were there before, so they are looked for one by one.
        while !words.split(' ').all(|word| self.said().contains(word)) {
            assert!(Instant::now() < end, "no `{words}` in {:?}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clear();
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a key");
    }

    fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(self.child.id().try_into().expect("a process"));
        kill(process, signal).expect("it runs");
    }

    fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let done = Command::new("stty")
            .arg("-F")
            .arg(&self.terminal)
            .args(["cols", &columns, "rows", &rows])
            .status()
            .expect("stty");
        assert!(done.success());
        // It is not the terminal's controlling process, so the kernel doesn't tell it.
        self.signal(Signal::SIGWINCH);
    }

    /// It ends well, and the terminal is as it was.
    fn ends(mut self) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if Instant::now() > end {
                self.child.kill().expect("it can be killed");
                panic!("it does not end: {:?}", self.said());
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0), "{:?}", self.said());
        self.shows(LEAVE);
        let rest = |state: &str| {
            // Rows and columns may be others.
            let words = state.split(';').filter(|part| !part.contains("rows"));
            words
                .filter(|part| !part.contains("columns"))
                .collect::<Vec<_>>()
                .join(";")
        };
        assert_eq!(rest(&state(&self.terminal)), rest(&self.before));
    }
}

/// All that a terminal is set to.
fn state(terminal: &std::path::Path) -> String {
    let said = Command::new("stty")
        .arg("-F")
        .arg(terminal)
        .arg("-a")
        .output()
        .expect("stty");
    assert!(said.status.success());
    String::from_utf8(said.stdout).expect("UTF-8")
}

#[test]
fn a_terminal_of_20x5_is_told_what_is_needed() {
    let mut screen = Screen::new(20, 5);
    screen.shows("too small: 20x5");
    screen.press("?ejs/\u{1b}");
    screen.resize(80, 24);
    screen.shows("ctpressure");
    screen.resize(1, 1);
    screen.resize(20, 5);
    screen.shows("small:");
    screen.press("q");
    screen.ends();
}

#[test]
fn keys_and_sizes() {
    let mut screen = Screen::new(80, 24);
    screen.shows("1,000");
    screen.press("?");
    screen.shows("PageUp,");
    screen.press("\u{1b}");
    screen.press("e");
    screen.shows("table_full");
    screen.resize(200, 60);
    screen.shows("table_full");
    screen.press("\u{3}");
    screen.ends();
}

/// crossterm's source of events without `use-dev-tty` forgets a key that comes with a signal, until the next key.
#[test]
fn a_key_is_heard_that_comes_with_another_size() {
    let mut screen = Screen::new(80, 24);
    screen.shows("1,000");
    for _ in 0..40 {
        for (key, words) in [("?", "PageUp,"), ("\u{1b}", "1,000")] {
            screen.signal(Signal::SIGWINCH);
            screen.press(key);
            screen.shows(words);
        }
    }
    screen.signal(Signal::SIGWINCH);
    screen.press("q");
    screen.ends();
}

#[test]
fn a_signal_puts_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let screen = Screen::new(200, 60);
        screen.shows("1,000");
        screen.signal(signal);
        screen.ends();
    }
}
