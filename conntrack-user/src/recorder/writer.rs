//! The writer: opens the file, writes each second, and goes on after whatever happens to the disk.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ctpressure_journal::{FILE_NAME, JournalError, LimitChange};
use nix::fcntl::{Flock, FlockArg};

use super::{
    Bounds, Health,
    copying::Copying,
    detail::SecondDetail,
    facts,
    second::{Differ, Observed},
    store::JournalStore,
};
use crate::kernel::Root;

/// How often the log is folded into the main file: as old is a copy of that alone at most.
const FOLD: Duration = Duration::from_secs(5);
/// How long that waits for somebody who copies the file.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often facts of the node are looked at, and whether the file is still in its place.
const LOOK: Duration = Duration::from_mins(1);
const IN_PLACE: Duration = Duration::from_secs(5);
/// How soon a file that can't be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// A journal that is damaged again so soon is given up until then: the disk is broken.
const DAMAGED_AGAIN: Duration = Duration::from_mins(10);
/// Changes of the limit that wait for a journal that can't be written.
const MOST_CHANGES: usize = 256;

/// Where a journal is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalOptions {
    /// The folder: it has to be there.
    pub folder: PathBuf,
    /// How long and how large it may be.
    pub bounds: Bounds,
}

#[derive(Debug)]
struct OpenJournal {
    store: JournalStore,
    inode: u64,
    copying: Option<Copying>,
    folded: Instant,
    looked: Option<Instant>,
    in_place: Instant,
    facts: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct JournalWriter {
    options: JournalOptions,
    health: Arc<Health>,
    /// Held as long as this writes there.
    _lock: Flock<File>,
    open: Option<OpenJournal>,
    tried: Instant,
    damaged: Option<Instant>,
    differ: Differ,
    /// What could not be written yet.
    detail: SecondDetail,
    changes: VecDeque<LimitChange>,
    problem: Option<String>,
    root: Root,
}

impl JournalWriter {
    /// Opens the journal; a full disk is tried again later.
    pub(super) fn open(
        options: &JournalOptions,
        health: Arc<Health>,
    ) -> Result<Self, JournalError> {
        let lock = lock(&options.folder)?;
        let path = options.folder.join(FILE_NAME);
        health.change(|status| {
            status.path.clone_from(&path);
            status.bytes_most = options.bounds.bytes;
        });
        let mut writer = Self {
            options: options.clone(),
            health,
            _lock: lock,
            open: None,
            tried: Instant::now(),
            damaged: None,
            differ: Differ::default(),
            detail: SecondDetail::default(),
            changes: VecDeque::new(),
            problem: None,
            root: Root::system(),
        };
        match writer.reopen() {
            Err(error @ JournalError::Full(_)) => writer.failed(&error),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        Ok(writer)
    }

    fn reopen(&mut self) -> Result<(), JournalError> {
        self.tried = Instant::now();
        let (mut store, aside) = JournalStore::open(&self.options.folder, self.options.bounds)?;
        let inode = store.inode().unwrap_or(0);
        store.begin_run(&self.root)?;
        store.life(
            SystemTime::now(),
            "start",
            concat!("ctpressure ", env!("CARGO_PKG_VERSION")),
        )?;
        if let Some(aside) = aside {
            self.damaged = Some(Instant::now());
            store.life(
                SystemTime::now(),
                "journal",
                &format!("the one before was damaged; it is {} now", aside.display()),
            )?;
            self.health
                .change(|status| status.moved_aside = Some(aside));
        }
        self.differ.begin_anew();
        self.open = Some(OpenJournal {
            store,
            inode,
            copying: Copying::watch(&self.options.folder.join(FILE_NAME))
                .inspect_err(|error| {
                    tracing::debug!(%error, "copies of the journal are not waited for");
                })
                .ok(),
            folded: Instant::now(),
            looked: None,
            in_place: Instant::now(),
            facts: BTreeMap::new(),
        });
        Ok(())
    }

    pub(super) fn second(&mut self, mut observed: Observed, at: SystemTime) {
        observed.detail.put_back(std::mem::take(&mut self.detail));
        if self.open.is_none() && self.tried.elapsed() >= RETRY {
            let recent = |at: Instant| at.elapsed() < DAMAGED_AGAIN;
            if self.damaged.is_some_and(recent) && self.problem.is_some() {
                self.detail = observed.detail;
                self.health.lose_sample();
                return;
            }
            if let Err(error) = self.reopen() {
                self.failed(&error);
            }
        }
        let Some(open) = &mut self.open else {
            self.detail = observed.detail;
            self.health.lose_sample();
            return;
        };
        let now = Arc::clone(&observed.snapshot);
        let Some(second) = self.differ.difference(observed, at) else {
            return;
        };
        match open.store.write(&second) {
            Ok(()) => {
                self.health
                    .lose_events(second.detail.not_recorded().iter().sum());
                self.differ.written(now, &second);
                self.written();
            }
            Err(error) => {
                self.detail = second.detail;
                self.health.lose_sample();
                self.failed(&error);
            }
        }
    }

    /// Notes a change of the limit.
    pub(super) fn limit_change(&mut self, change: LimitChange) {
        self.differ.told(&change);
        if self.changes.len() == MOST_CHANGES {
            self.changes.pop_front();
            self.health.lose_events(1);
        }
        self.changes.push_back(change);
        self.write_changes();
    }

    /// Notes that somebody contained an owner, or ended that; while the journal can't be written it is counted as lost.
    pub(super) fn contain(&mut self, at: SystemTime, text: &str) {
        let Some(open) = &self.open else {
            self.health.lose_events(1);
            return;
        };
        if let Err(error) = open.store.life(at, "contain", text) {
            self.health.lose_events(1);
            self.failed(&error);
        }
    }

    fn write_changes(&mut self) {
        while let (Some(open), Some(change)) = (&mut self.open, self.changes.front()) {
            if let Err(error) = open.store.limit_change(change) {
                self.failed(&error);
                return;
            }
            self.changes.pop_front();
        }
    }

    fn written(&mut self) {
        let bytes = self.open.as_ref().map_or(0, |open| open.store.bytes());
        self.health.change(|status| {
            status.bytes = bytes;
            status.samples += 1;
            status.problem = None;
        });
        if let Some(problem) = self.problem.take() {
            tracing::info!("the journal is written again");
            if let Some(open) = &self.open {
                let detail = format!("could not be written for a while: {problem}");
                if let Err(error) = open.store.life(SystemTime::now(), "journal", &detail) {
                    self.failed(&error);
                }
            }
        }
    }

    /// Says what is wrong, once.
    fn failed(&mut self, error: &JournalError) {
        let text = error.to_string();
        if self.problem.as_ref() != Some(&text) {
            tracing::warn!(help = error.help(), "{text}; the agent goes on without it");
        }
        self.health
            .change(|status| status.problem = Some(text.clone()));
        self.problem = Some(text);
        // Of a full disk or a lock the file is none the worse.
        if !matches!(error, JournalError::Full(_) | JournalError::Locked(_)) {
            self.open = None;
        }
    }

    /// Looks after the file.
    pub(super) fn tend(&mut self, now: Instant) {
        if !self.changes.is_empty() {
            self.write_changes();
        }
        let Some(open) = &mut self.open else { return };
        if now.duration_since(open.in_place) >= IN_PLACE {
            open.in_place = now;
            if !open.store.is_in_place(open.inode) {
                tracing::warn!(
                    path = %open.store.path().display(),
                    "the journal was taken away: a new one begins"
                );
                self.open = None;
                return;
            }
        }
        if open
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= LOOK)
        {
            open.looked = Some(now);
            if let Err(error) = note_facts(open, &self.root) {
                self.failed(&error);
                return;
            }
        }
        let copied = open.copying.as_mut().is_some_and(Copying::is_copied);
        let since = now.duration_since(open.folded);
        if since < FOLD || (copied && since < PATIENCE) {
            return;
        }
        if let Some(copying) = &mut open.copying {
            copying.forget();
        }
        open.folded = now;
        if let Err(error) = open.store.fold(false) {
            self.failed(&error);
        }
    }

    /// Folds the log in, whatever time it is.
    #[cfg(test)]
    pub(super) fn fold_now(&self) {
        if let Some(open) = &self.open {
            open.store.fold(false).expect("a disk with room");
            self.health
                .change(|status| status.bytes = open.store.bytes());
        }
    }

    /// The agent ends; `None`: it is not known when, as something went wrong.
    pub(super) fn end(&mut self, at: Option<SystemTime>) {
        self.write_changes();
        let Some(open) = &mut self.open else { return };
        let end = || -> Result<(), JournalError> {
            if let Some(at) = at {
                open.store.life(at, "stop", "")?;
                open.store.end_run(at)?;
            }
            open.store.fold(true)
        };
        if let Err(error) = end() {
            tracing::warn!("{error}");
        }
    }
}

/// Notes what is new or has changed.
fn note_facts(open: &mut OpenJournal, root: &Root) -> Result<(), JournalError> {
    let now = SystemTime::now();
    for (name, value) in facts::read(root) {
        if open.facts.get(&name) != Some(&value) {
            open.store.fact(now, &name, &value)?;
            open.facts.insert(name, value);
        }
    }
    Ok(())
}

/// Locks the folder against another agent. If it is missing it is made, for root only; a folder above it is not: that is
/// more likely a mistake.
fn lock(folder: &Path) -> Result<Flock<File>, JournalError> {
    let error = |source: std::io::Error| JournalError::Folder(folder.to_owned(), source);
    if matches!(folder.try_exists(), Ok(false)) {
        DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(error)?;
    }
    if !fs::metadata(folder).map_err(error)?.is_dir() {
        return Err(error(std::io::ErrorKind::NotADirectory.into()));
    }
    let file = File::open(folder).map_err(error)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => JournalError::InUse(folder.to_owned()),
        errno => error(errno.into()),
    })
}
