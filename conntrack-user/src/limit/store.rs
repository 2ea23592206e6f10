//! The controller's state on disk: checksummed, replaced as a whole, never trusted when it is damaged.
//!
//! One line that says what it is (`ctpressure-limit 1 `, and the CRC-32 of the rest in hexadecimal
//! digits), then JSON. A state that is missing, damaged or of another version means that nothing is
//! ours, so nothing is given back. One of an earlier boot keeps its history only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crc::{CRC_32_ISO_HDLC, Crc};
use ctpressure_model::words::time::JsonTime;
use serde::{Deserialize, Serialize};

use super::{
    change::{By, History, time_or_millis},
    ledger::LimitLedger,
    policy::Action,
};

const MAGIC: &str = "ctpressure-limit 1 ";
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// No state is larger: 64 changes of about a kilobyte.
const MOST_BYTES: u64 = 1 << 20;

/// A change that was begun: what comes of it is told by the kernel's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingChange {
    /// What is being done.
    pub action: Action,
    pub by: By,
    pub who: Option<String>,
    pub at: Duration,
    #[serde(alias = "unix_millis", deserialize_with = "time_or_millis")]
    pub time: JsonTime,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ControllerState {
    /// The boot that it is about.
    pub boot: String,
    /// What has to be remembered.
    pub ledger: LimitLedger,
    /// A change that was begun and not finished.
    pub pending: Option<PendingChange>,
    pub history: History,
}

/// Where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was kept, of this boot; and what is wrong with it, if anything is.
    pub(crate) fn load(&self, boot: &str) -> (ControllerState, Option<String>) {
        let empty = ControllerState {
            boot: boot.to_owned(),
            ..ControllerState::default()
        };
        match self.read() {
            Ok(state) if !boot.is_empty() && state.boot == boot => (state, None),
            Ok(state) => (
                ControllerState {
                    history: state.history,
                    ..empty
                },
                None,
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => (empty, None),
            Err(error) => (
                empty,
                Some(format!(
                    "{}: {error}; nothing is taken for the controller's own, so nothing will be given back",
                    self.path.display()
                )),
            ),
        }
    }

    fn read(&self) -> io::Result<ControllerState> {
        let damaged = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let mut text = String::new();
        File::open(&self.path)?
            .take(MOST_BYTES)
            .read_to_string(&mut text)?;
        let (head, body) = text
            .split_once('\n')
            .ok_or_else(|| damaged("the state is damaged: it has no first line"))?;
        let sum = head
            .strip_prefix(MAGIC)
            .ok_or_else(|| damaged("this is no state of this version"))?;
        if sum != format!("{:08x}", CRC.checksum(body.as_bytes())) {
            return Err(damaged("the state is damaged: its checksum is wrong"));
        }
        serde_json::from_str(body)
            .map_err(|error| damaged(&format!("the state is damaged: {error}")))
    }

    /// Keeps it: after this a crash or a loss of power finds it, before this the earlier one.
    /// `drafted` is called when the new one is written and the old one still in place.
    ///
    /// # Errors
    /// When it can't be written; the earlier one stays.
    pub(crate) fn save(
        &self,
        state: &ControllerState,
        drafted: impl FnOnce(),
    ) -> Result<(), String> {
        self.replace(state, drafted).map_err(|error| {
            format!(
                "the state can't be kept in {}: {error}; give it a folder on a local disk that it can write to \
                 (--limit-state); without it nobody would know after a restart what is to be given back",
                self.path.display()
            )
        })
    }

    fn replace(&self, state: &ControllerState, drafted: impl FnOnce()) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
        let body = serde_json::to_string(state)?;
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        let sum = CRC.checksum(body.as_bytes());
        file.write_all(format!("{MAGIC}{sum:08x}\n{body}").as_bytes())?;
        file.sync_all()?;
        drafted();
        fs::rename(&draft, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::ledger::Ours;

    fn state() -> ControllerState {
        ControllerState {
            boot: "this".to_owned(),
            ledger: LimitLedger {
                ours: Some(Ours {
                    from: 1000,
                    limit: 2000,
                }),
                known: 2000,
                ..LimitLedger::default()
            },
            ..ControllerState::default()
        }
    }

    #[test]
    fn what_was_kept_comes_back_for_the_same_boot_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StateFile::new(folder.path().join("deeper/limit.state"));
        assert_eq!(store.load("this").0.ledger, LimitLedger::default());
        store.save(&state(), || {}).expect("kept");
        assert_eq!(store.load("this"), (state(), None));
        let (other, problem) = store.load("another");
        assert_eq!((other.ledger, problem), (LimitLedger::default(), None));
        assert_eq!(store.load("").0.ledger, LimitLedger::default());
    }

    #[test]
    fn whatever_is_changed_in_it_nothing_is_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("limit.state");
        let store = StateFile::new(path.clone());
        store.save(&state(), || {}).expect("kept");
        let whole = fs::read(&path).expect("there");
        let mut wrongs: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            wrongs.push(wrong);
        }
        for wrong in wrongs {
            fs::write(&path, &wrong).expect("written");
            let (state, problem) = store.load("this");
            assert_eq!(state.ledger, LimitLedger::default(), "{wrong:?}");
            assert!(problem.is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_folder_that_can_t_be_made_is_named() {
        let store = StateFile::new(PathBuf::from("/proc/no/limit.state"));
        let error = store.save(&state(), || {}).expect_err("no");
        assert!(error.contains("/proc/no/limit.state"));
        assert!(error.contains("--limit-state"));
    }
}
