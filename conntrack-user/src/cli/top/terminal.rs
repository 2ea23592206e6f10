//! The terminal while it is ours: put back however the program ends, but by SIGKILL.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use tokio::sync::mpsc;

use super::{draw::draw, model::Model};

/// How often the thread that waits for keys looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that wait at most.
const KEYS: usize = 64;

/// The terminal in raw mode, on its alternate screen, and a thread that waits for keys.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    keys: mpsc::Receiver<io::Result<Event>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    colour: bool,
}

impl Screen {
    /// Takes the terminal. A panic puts it back before it is printed.
    pub(super) fn take(colour: bool) -> io::Result<Self> {
        let (sender, keys) = mpsc::channel(KEYS);
        let end = Arc::new(AtomicBool::new(false));
        let mut screen = Self {
            terminal: ratatui::try_init()?,
            keys,
            end: Arc::clone(&end),
            thread: None,
            colour,
        };
        screen.thread = Some(
            thread::Builder::new()
                .name("keys".to_owned())
                .spawn(move || wait_for_keys(&sender, &end))?,
        );
        Ok(screen)
    }

    pub(super) fn draw(&mut self, model: &Model) -> io::Result<()> {
        self.terminal
            .draw(|frame| draw(frame, model, self.colour))
            .map(drop)
    }

    /// Waits for a key or another size; `None` when the terminal is gone. May be cancelled.
    pub(super) async fn next(&mut self) -> Option<io::Result<Event>> {
        self.keys.recv().await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.keys.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed.
            drop(thread.join());
        }
        // The terminal may be gone.
        drop(ratatui::try_restore());
    }
}

fn wait_for_keys(keys: &mpsc::Sender<io::Result<Event>>, end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        let event = match event::poll(LOOK) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let failed = event.is_err();
        if keys.blocking_send(event).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        fs::File,
        io::Read as _,
        os::fd::AsFd as _,
        process::{Command, Stdio},
    };

    use nix::{
        pty::{Winsize, openpty},
        sys::termios::{LocalFlags, tcgetattr},
    };

    use super::*;

    const TAKE: &str = "CTPRESSURE_TEST_TAKE_TERMINAL";
    /// What leaves the alternate screen.
    const LEAVE: &str = "\u{1b}[?1049l";

    #[test]
    fn a_panic_puts_the_terminal_back_before_it_is_printed() {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let before = tcgetattr(pair.slave.as_fd()).expect("a terminal");
        let end = || Stdio::from(pair.slave.try_clone().expect("a descriptor"));
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("cli::top::terminal::tests::takes_the_terminal_and_panics")
            .env(TAKE, "1")
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("this test again");
        let mut master = File::from(pair.master);
        let reader = thread::spawn(move || {
            let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
            // A terminal whose other end is closed is an error.
            while let Ok(length @ 1..) = master.read(&mut bytes) {
                said.extend_from_slice(&bytes[..length]);
            }
            String::from_utf8_lossy(&said).into_owned()
        });
        assert!(!child.wait().expect("a child").success());
        let after = tcgetattr(pair.slave.as_fd()).expect("a terminal");
        drop(pair.slave);
        let said = reader.join().expect("what it said");
        let left = said.find(LEAVE).expect("it left its screen");
        let printed = said.find("of no use").expect("the panic is printed");
        assert!(said.contains("it was raw: true"), "{said:?}");
        assert!(left < printed, "{said:?}");
        assert_eq!(before, after);
    }

    /// Not a test: the program that panics, on a terminal of its own.
    #[test]
    #[ignore = "it is what the test above starts"]
    fn takes_the_terminal_and_panics() {
        if env::var_os(TAKE).is_none() {
            return;
        }
        let _screen = Screen::take(false).expect("a terminal");
        let now = tcgetattr(io::stdin().as_fd()).expect("a terminal");
        let raw = !now.local_flags.contains(LocalFlags::ICANON);
        panic!("of no use, but it was raw: {raw}");
    }
}
