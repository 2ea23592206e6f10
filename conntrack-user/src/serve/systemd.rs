//! What systemd is told of an agent that is its service (`sd_notify(3)`): that it has begun, that it lives, and a line of status.

use std::{
    convert::Infallible,
    fmt::Write as _,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ctpressure_model::{
    pressure::state::Pressure,
    words::{clean_within, grouped, plural, share},
};
use sd_notify::NotifyState;

use crate::agent::{AgentState, Closed, Handle, Snapshot, Table};

/// How often a line of status is replaced at most, unless a table or the agent comes to another state: each one wakes systemd.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a line of status at most.
const STATUS_BYTES: usize = 400;

/// systemd, where it wants to be told.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    /// How often it has to hear that the agent lives.
    alive_every: Option<Duration>,
    told: Option<Told>,
}

/// What was told last.
#[derive(Debug)]
struct Told {
    alive: Instant,
    status: Instant,
    line: String,
    states: States,
}

/// What a person wants to know at once when it changes.
type States = (AgentState, Option<&'static str>);

/// What there is to tell.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    begun: bool,
    alive: bool,
    status: Option<String>,
}

impl ServiceManager {
    /// `None`: nobody wants to be told, as `NOTIFY_SOCKET` is not set.
    pub(crate) fn of_this_process() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        // Some times within the time after which the agent is ended.
        let watchdog = sd_notify::watchdog_enabled();
        Some(Self::new(watchdog.map(|time| time / 4)))
    }

    fn new(alive_every: Option<Duration>) -> Self {
        Self {
            alive_every,
            told: None,
        }
    }

    /// Tells each second what is new, until the agent ends. An agent that samples no more is told to live no more.
    ///
    /// # Errors
    /// [`Closed`] after the agent has ended.
    pub(crate) async fn follow(mut self, handle: &Handle) -> Result<Infallible, Closed> {
        let mut snapshots = handle.snapshots();
        let mut is_heard = true;
        loop {
            snapshots.changed().await.map_err(|_| Closed)?;
            let latest = Arc::clone(&snapshots.borrow_and_update());
            let told = self.news(&latest, Instant::now()).tell();
            if let Err(error) = &told
                && is_heard
            {
                tracing::warn!(%error, "systemd can't be told how the agent is");
            }
            is_heard = told.is_ok();
        }
    }

    /// Tells that the agent is about to end, where somebody wants to know.
    pub(crate) fn ending() {
        // Whoever doesn't hear it sees the process end.
        drop(sd_notify::notify(&[NotifyState::Stopping]));
    }

    fn news(&mut self, snapshot: &Snapshot, now: Instant) -> News {
        let line = line(snapshot);
        let worst = snapshot.tables.list.iter().map(|table| table.pressure);
        let states = (snapshot.state, worst.max().map(Pressure::name));
        let Some(told) = &mut self.told else {
            self.told = Some(Told {
                alive: now,
                status: now,
                line: line.clone(),
                states,
            });
            return News {
                begun: true,
                alive: self.alive_every.is_some(),
                status: Some(line),
            };
        };
        let alive = self
            .alive_every
            .is_some_and(|every| now.duration_since(told.alive) >= every);
        if alive {
            told.alive = now;
        }
        let is_due = states != told.states || now.duration_since(told.status) >= STATUS_EVERY;
        let is_new = is_due && line != told.line;
        if is_new {
            told.status = now;
            told.states = states;
            told.line.clone_from(&line);
        }
        News {
            begun: false,
            alive,
            status: is_new.then_some(line),
        }
    }
}

impl News {
    fn tell(&self) -> io::Result<()> {
        let mut states = Vec::new();
        if self.begun {
            states.push(NotifyState::Ready);
        }
        if self.alive {
            states.push(NotifyState::Watchdog);
        }
        if let Some(line) = &self.status {
            states.push(NotifyState::Status(line));
        }
        if states.is_empty() {
            return Ok(());
        }
        sd_notify::notify(&states)
    }
}

/// Tables, and what keeps the agent from seeing all: one line.
fn line(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let limit = snapshot.tables.limit;
    let others = || snapshot.tables.list.iter().filter(|table| !table.is_host());
    if let Some(host) = snapshot.tables.list.iter().find(|table| table.is_host()) {
        text += &of_table(host, limit);
    }
    if let Some(fullest) = others().max_by_key(|table| table.entries) {
        let number = plural(others().count() as u64, "other table", "other tables");
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(
            text,
            "{separator}{number}, the fullest {}",
            of_table(fullest, limit)
        );
    }
    let word = match snapshot.state {
        AgentState::Waiting => Some("waits"),
        AgentState::Degraded => Some("not all is seen"),
        AgentState::Attached => None,
    };
    if let Some(word) = word {
        let separator = if text.is_empty() { "" } else { "; " };
        let reason = snapshot.reason.as_deref().unwrap_or("no reason is known");
        let _ = write!(text, "{separator}{word}: {reason}");
    }
    clean_within(&text, STATUS_BYTES)
}

fn of_table(table: &Table, limit: Option<u64>) -> String {
    let Table {
        name,
        entries,
        pressure,
        ..
    } = table;
    let held = grouped(*entries);
    match limit {
        Some(limit) if limit > 0 => format!(
            "{name} {held} of {} entries ({}), {}",
            grouped(limit),
            share(*entries, limit),
            pressure.name()
        ),
        _ => format!("{name} {held} entries, {}", pressure.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::Tables, serve::metrics::tests::full};

    fn host(entries: u64, pressure: Pressure) -> Snapshot {
        let host = Table {
            name: "host".to_owned(),
            entries,
            pressure,
            ..Table::default()
        };
        Snapshot {
            state: AgentState::Attached,
            reason: None,
            tables: Tables {
                limit: Some(2_000),
                list: vec![host],
                ..Tables::default()
            },
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_line_says_how_full_the_tables_are_and_what_is_not_seen() {
        let mut snapshot = host(1_962, Pressure::Full);
        assert_eq!(line(&snapshot), "host 1,962 of 2,000 entries (98 %), full");
        snapshot.tables.list.push(Table {
            name: "shop/web".to_owned(),
            entries: 20,
            ..Table::default()
        });
        snapshot.state = AgentState::Degraded;
        snapshot.reason = Some("eviction: no hook\nat all".to_owned());
        assert_eq!(
            line(&snapshot),
            "host 1,962 of 2,000 entries (98 %), full; 1 other table, the fullest shop/web 20 of 2,000 entries (1 %), calm; \
             not all is seen: eviction: no hook\u{fffd}at all"
        );
        let waits = Snapshot {
            reason: Some("nf_conntrack is not loaded".to_owned()),
            ..Snapshot::default()
        };
        assert_eq!(line(&waits), "waits: nf_conntrack is not loaded");
        assert!(line(&full()).len() <= STATUS_BYTES);
    }

    #[test]
    fn who_begins_says_so_once_and_that_it_lives_in_time() {
        let begin = Instant::now();
        let mut manager = ServiceManager::new(Some(Duration::from_secs(5)));
        let snapshot = host(10, Pressure::Calm);
        let first = manager.news(&snapshot, begin);
        assert!(first.begun && first.alive && first.status.is_some());
        let mut last = begin;
        for second in 1..60 {
            let now = begin + Duration::from_secs(second);
            let news = manager.news(&snapshot, now);
            assert!(!news.begun && news.status.is_none(), "nothing is new");
            if news.alive {
                last = now;
            }
            assert!(now.duration_since(last) <= Duration::from_secs(5));
        }
        let mut unwatched = ServiceManager::new(None);
        assert!(!unwatched.news(&snapshot, begin).alive);
    }

    #[test]
    fn a_new_state_is_told_at_once_and_a_new_number_now_and_then() {
        let begin = Instant::now();
        let mut manager = ServiceManager::new(None);
        manager.news(&host(10, Pressure::Calm), begin);
        let mut at = |second, entries, pressure| {
            manager
                .news(
                    &host(entries, pressure),
                    begin + Duration::from_secs(second),
                )
                .status
        };
        assert_eq!(at(1, 11, Pressure::Calm), None);
        assert!(at(2, 1_999, Pressure::Full).is_some());
        assert_eq!(at(3, 1_998, Pressure::Full), None);
        assert!(at(12, 1_998, Pressure::Full).is_some());
    }
}
