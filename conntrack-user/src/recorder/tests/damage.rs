//! Files that are missing, foreign, of another version, cut off or damaged.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ctpressure_journal::{FILE_NAME, JournalError, Reader, What};
use rusqlite::Connection;

use super::{Node, folder, live, options, sums, writer};
use crate::recorder::{Health, writer::JournalWriter};

const DAY: Duration = Duration::from_hours(24);

/// A journal with something in every table, closed.
fn journal(folder: &Path) {
    let mut node = Node::new(12);
    let (mut writer, _) = writer(&options(folder, 8 << 20, DAY));
    super::example::storm(&mut node, &mut writer);
    live(&mut node, &mut writer, 150);
    writer.end(None);
}

/// Everything that can be asked of it.
fn read_all(path: &Path) -> Result<u64, JournalError> {
    let reader = Reader::open(path)?;
    let Some(coverage) = reader.coverage()? else {
        return Ok(0);
    };
    let all = reader.read(coverage.since - DAY, coverage.until + DAY)?;
    let bucket = all.bucket(100);
    let mut number = all.namespaces()?.len() + all.table_points(bucket)?.len();
    let owners = all.owners()?;
    let ids: Vec<_> = owners.into_keys().collect();
    number += all.owner_points(bucket, &ids)?.len() + all.owner_sums()?.len();
    number += all.kernel_points(bucket)?.len() + all.total_points(bucket)?.len();
    number += all.drops(1000)?.len() + all.evictions(1000)?.len();
    number += all.destinations(What::Inserts, 5)?.len() + all.state_mixes()?.len();
    number += all.limit_changes(100)?.len() + all.life(1000)?.len() + all.facts()?.len();
    number += all.runs()?.len() + all.events_lost()?.len();
    all.event_counts()?;
    all.each_table_sample(|_| number += 1)?;
    Ok(number as u64)
}

#[test]
fn missing_foreign_and_of_other_versions() {
    let folder = folder();
    let path = folder.path().join(FILE_NAME);
    let error = |path: &Path| read_all(path).expect_err("no journal");
    assert!(matches!(error(folder.path()), JournalError::Missing { .. }));
    fs::write(&path, "").expect("a file");
    assert!(matches!(error(&path), JournalError::Damaged { .. }));
    fs::write(&path, "#!/bin/sh\nexit 0 # no database at all\n").expect("a file");
    assert!(matches!(error(&path), JournalError::Foreign { .. }));
    fs::remove_file(&path).expect("a file");
    let other = Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE t (a)").expect("a table");
    drop(other);
    assert!(matches!(error(&path), JournalError::Foreign { .. }));
    // The agent leaves it as it is.
    let before = fs::read(&path).expect("a file");
    let refused = JournalWriter::open(
        &options(folder.path(), 8 << 20, DAY),
        Arc::new(Health::default()),
    );
    assert!(
        matches!(refused, Err(JournalError::Foreign { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(&path).expect("a file"), before);
    fs::remove_file(&path).expect("a file");

    journal(folder.path());
    for (version, newer) in [(2, true), (0, false)] {
        let database = Connection::open(&path).expect("a database");
        database
            .pragma_update(None, "user_version", version)
            .expect("a version");
        drop(database);
        let before = fs::read(&path).expect("a file");
        let error = error(&path);
        assert_eq!(
            matches!(error, JournalError::Newer { .. }),
            newer,
            "{error}"
        );
        assert_eq!(
            matches!(error, JournalError::Older { .. }),
            !newer,
            "{error}"
        );
        let refused = JournalWriter::open(
            &options(folder.path(), 8 << 20, DAY),
            Arc::new(Health::default()),
        );
        assert!(refused.is_err());
        assert_eq!(
            fs::read(&path).expect("a file"),
            before,
            "it is left as it is"
        );
    }
}

#[test]
fn cut_off_anywhere() {
    let folder = folder();
    journal(folder.path());
    let whole = fs::read(folder.path().join(FILE_NAME)).expect("a journal");
    let path = folder.path().join("cut.db");
    let pages = whole.len() / 4096;
    for length in (1..pages)
        .step_by(7)
        .flat_map(|page| [page * 4096, page * 4096 + 1000])
        .chain([1, 15, 16, 99, 100, 512, 4095, whole.len() - 1])
    {
        fs::write(&path, &whole[..length]).expect("a file");
        let error = read_all(&path).expect_err("it is cut off");
        assert!(
            matches!(
                error,
                JournalError::Damaged { .. } | JournalError::Foreign { .. }
            ),
            "{length}: {error:?}"
        );
        assert!(!error.help().is_empty());
    }
}

#[test]
fn bits_that_flip_are_errors_or_harmless() {
    let folder = folder();
    journal(folder.path());
    let whole = fs::read(folder.path().join(FILE_NAME)).expect("a journal");
    let path = folder.path().join("flipped.db");
    fs::write(&path, &whole).expect("a file");
    assert!(read_all(&path).expect("it is whole") > 100);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a file");
    let mut random = Node::new(0);
    let mut errors = 0;
    // Every kind of place: the head, the schema, heads of pages, cells.
    let head = 0..100;
    let heads_of_pages =
        (0..whole.len() / 4096).flat_map(|page| [0, 3, 5].map(|at| page * 4096 + at));
    let anywhere: Vec<usize> = (0..150)
        .map(|_| usize::try_from(random.number(whole.len() as u64)).expect("fits"))
        .collect();
    for place in head.chain(heads_of_pages.step_by(3)).chain(anywhere) {
        let bit = 1_u8 << random.number(8);
        file.write_at(&[whole[place] ^ bit], place as u64)
            .expect("a file");
        // Whatever comes: no panic, and an error that is not our own fault.
        if let Err(error) = read_all(&path) {
            errors += 1;
            assert!(
                !matches!(error, JournalError::Missing { .. }),
                "{place}: {error:?}"
            );
        }
        file.write_at(&[whole[place]], place as u64)
            .expect("a file");
    }
    assert!(errors > 20, "{errors} of them were noticed");
    assert!(read_all(&path).is_ok(), "it is whole again");
}

#[test]
fn a_damaged_journal_is_moved_aside_and_only_the_last_one_kept() {
    let folder = folder();
    for time in 0..3_u8 {
        journal(folder.path());
        let file = fs::OpenOptions::new()
            .write(true)
            .open(folder.path().join(FILE_NAME))
            .expect("a file");
        file.write_at(&[time; 9000], 4096).expect("a file");
        let mut node = Node::new(2);
        let (mut writer, health) = writer(&options(folder.path(), 8 << 20, DAY));
        live(&mut node, &mut writer, 3);
        writer.end(None);
        let aside = health.status().moved_aside.expect("it was damaged");
        assert_eq!(fs::read(&aside).expect("it is kept")[5000], time);
        let reader = Reader::open(folder.path()).expect("a new one");
        assert_eq!(sums(&reader).0, node.totals);
        drop(reader);
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .filter(|name| !name.contains("-wal") && !name.contains("-shm"))
            .collect();
        names.sort();
        assert_eq!(names, ["journal.damaged.db", "journal.db"]);
        drop(writer);
        fs::remove_file(folder.path().join(FILE_NAME)).expect("a file");
    }
}

#[test]
fn folders_that_can_not_be_used() {
    let folder = folder();
    let open = |folder: &Path| {
        JournalWriter::open(&options(folder, 8 << 20, DAY), Arc::new(Health::default()))
    };
    let new = folder.path().join("new");
    drop(open(&new).expect("it is made"));
    let mode = fs::metadata(&new).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let missing = open(&folder.path().join("none/new")).expect_err("it is missing");
    assert!(missing.help().starts_with("make the folder"), "{missing}");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    assert!(matches!(open(&file), Err(JournalError::Folder { .. })));
    let first = open(folder.path()).expect("a folder");
    assert!(matches!(
        open(folder.path()),
        Err(JournalError::InUse { .. })
    ));
    drop(first);
    drop(open(folder.path()).expect("it is free again"));
}
