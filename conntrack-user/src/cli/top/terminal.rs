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
