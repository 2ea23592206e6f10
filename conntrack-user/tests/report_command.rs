//! `ctpressure report` as a program: what it says about times, journals and files that it can't use.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use ctpressure_journal::{APPLICATION_ID, FILE_NAME, VERSION};
use ctpressure_tests::schemas;
use rusqlite::Connection;
use tempfile::TempDir;

/// 2026-03-01T03:00:00Z, milliseconds.
const START: i64 = 1_772_334_000_000;

fn report(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctpressure"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CTPRESSURE_") {
            command.env_remove(name);
        }
    }
    command.arg("report").args(arguments).stdin(Stdio::null());
    command.output().expect("it starts")
}

#[track_caller]
fn fails(arguments: &[&str], status: i32, words: &[&str]) {
    let said = report(arguments);
    let errors = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(status), "{arguments:?}: {errors}");
    assert!(said.stdout.is_empty(), "{arguments:?}");
    assert!(errors.contains("help: "), "{arguments:?}: {errors}");
    for word in words {
        assert!(
            errors.contains(word),
            "{arguments:?}: no `{word}` in {errors}"
        );
    }
}

/// Ten minutes of a table; in the sixth it is full and loses packets.
fn journal() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE_NAME);
    let database = Connection::open(&path).expect("a database");
    let mut rows = format!(
        "{}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; BEGIN;
         INSERT INTO run VALUES (1, {START}, NULL, 'boot', '0.1.0', '6.12.1', 'node-7', 0, 4);
         INSERT INTO netns VALUES (1, 4026531840, 'host', 0);
         INSERT INTO owner VALUES (1, 'pod', 'uid', 'shop', 'web', '', NULL, NULL, 0);",
        include_str!("../journal/src/schema.sql")
    );
    for second in 1..=600 {
        let at = START + second * 1000 - 100;
        let full = (300..360).contains(&second);
        let (entries, drops) = if full { (1000, 3) } else { (100, 0) };
        let _ = write!(
            rows,
            "INSERT INTO tick VALUES ({second}, 1, {at}, 1000, 0, 1, 1000, 65536, NULL, 5, 5, 0, {drops});
             INSERT INTO table_sample VALUES ({second}, 1, {entries}, {entries}, {entries}, {});
             INSERT INTO flow VALUES ({second}, 1, 0, 5, 5, {entries});",
            if full { 3 } else { 0 }
        );
        if full {
            let _ = write!(
                rows,
                "INSERT INTO kernel_stat VALUES ({second}, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0);
                 INSERT INTO loss VALUES ({second}, 1, 0, 1, 3);"
            );
        }
    }
    database.execute_batch(&(rows + "COMMIT;")).expect("rows");
    (folder, path)
}

#[test]
fn what_is_no_journal_is_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, contents).expect("written");
        path.to_string_lossy().into_owned()
    };
    let of = |path: &str, words: &[&str]| fails(&["--journal", path], 1, words);
    of("/nowhere/at/all", &["no journal at /nowhere/at/all"]);
    of(&folder.path().to_string_lossy(), &["no journal"]);
    of(&make("text", b"once upon a time"), &["is not a journal"]);
    of(&make("empty", b""), &["damaged"]);
    of(&make("short", b"SQLite format 3\0"), &["damaged"]);
    let other = folder.path().join("other.db");
    let database = Connection::open(&other).expect("a database");
    database
        .execute_batch("CREATE TABLE a (b)")
        .expect("a table");
    of(&other.to_string_lossy(), &["is not a journal"]);
    let (_folder, path) = journal();
    let whole = fs::read(&path).expect("a file");
    of(&make("cut", &whole[..whole.len() / 2]), &["cut"]);
    let newer = Connection::open(&path).expect("a database");
    newer
        .execute_batch("PRAGMA user_version = 99")
        .expect("a number");
    of(&path.to_string_lossy(), &["format 99"]);
    newer
        .execute_batch(&format!(
            "PRAGMA user_version = {VERSION}; DELETE FROM tick"
        ))
        .expect("no rows");
    of(&path.to_string_lossy(), &["nothing was recorded yet"]);
}

#[test]
fn wrong_times_and_wrong_usage() {
    let (_folder, path) = journal();
    let path = path.to_string_lossy();
    let of = |arguments: &[&str], status: i32, words: &[&str]| {
        fails(&[&["--journal", &path], arguments].concat(), status, words);
    };
    of(&["--since", "yesterday"], 2, &["RFC 3339"]);
    of(&["--since", "25:00"], 2, &["RFC 3339"]);
    of(&["--until", "03:05"], 2, &["--since"]);
    of(&["--html", "/tmp/x.html"], 2, &["--since"]);
    of(&["--incident", "1", "--since", "03:05"], 2, &["--incident"]);
    of(&["--incident", "0"], 2, &["--incident"]);
    of(
        &["--incident", "2"],
        1,
        &["no incident 2: the journal has one", "lists them"],
    );
    of(
        &["--since", "03:05", "--until", "03:05"],
        1,
        &["is not after"],
    );
    of(&["--since", "-1m", "--until", "-5m"], 1, &["is not after"]);
    let covered = "2026-03-01T02:59:59Z to 2026-03-01T03:10:00Z";
    of(
        &["--since", "2030-01-01T00:00:00Z"],
        1,
        &["has nothing from 2030", covered],
    );
    of(
        &["--since", "2020-01-01 00:00", "--until", "2020-01-02 00:00"],
        1,
        &[covered],
    );
    of(
        &["--since", "-1h", "--html", "/nowhere/at/all.html"],
        1,
        &["could not be written"],
    );
    assert!(!Path::new("/tmp/x.html").exists());
}

#[test]
fn the_list_and_the_reports() {
    let (folder, path) = journal();
    let path = path.to_string_lossy();
    let of = |arguments: &[&str]| {
        let said = report(&[&["--journal", &path], arguments].concat());
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(said.stdout).expect("UTF-8")
    };
    let list = of(&[]);
    assert!(list.contains("   1 2026-03-01T03:04:59Z"), "{list}");
    let json: serde_json::Value = serde_json::from_str(&of(&["-o", "json"])).expect("JSON");
    schemas::assert_passes("incidents", &json);
    assert_eq!(json["incidents"][0]["drops"], 180, "{json}");
    assert_eq!(json["incidents"][0]["table_name"], "host");
    // Lines are at most 80 columns.
    let told = of(&["--incident", "1"]).replace('\n', " ");
    assert!(told.contains("180 packets were lost, the first"), "{told}");
    assert!(told.contains("03:04:59"), "{told}");
    for span in [
        &["--since", "-10m"][..],
        &["--since", "03:00", "--until", "03:08"],
    ] {
        let json: serde_json::Value =
            serde_json::from_str(&of(&[span, &["-o", "json"]].concat())).expect("JSON");
        schemas::assert_passes("report", &json);
        assert_eq!(json["losses"]["packets"], 180, "{json}");
        assert_eq!(json["time"][0], "2026-03-01T03:04:59Z");
    }
    let calm = of(&["--since", "03:00", "--until", "03:04"]);
    assert!(calm.contains("no conntrack drop was seen"), "{calm}");
    let page = folder.path().join("page.html");
    let told = of(&["--incident", "1", "--html", &page.to_string_lossy()]);
    assert!(told.contains("The report is in "), "{told}");
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert_eq!(of(&["--incident", "1", "--html", "-"]), html, "printed");
    let parts = fs::read_dir(folder.path()).expect("a folder");
    let names: Vec<_> = parts
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().ends_with(".part")),
        "{names:?}"
    );
}
