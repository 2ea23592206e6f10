//! Journals for tests: a node whose table is simulated flow by flow, written second by second as the
//! journal's schema says.

use std::path::{Path, PathBuf};

use ctpressure_journal::{APPLICATION_ID, FILE_NAME, VERSION};
use rusqlite::{Connection, params};
use tempfile::TempDir;

mod writer;

use writer::Writer;

pub(super) const START: u64 = 1_772_334_000;

/// Who opens connections, and how.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Actor {
    /// `namespace/pod`, a unit, or `host`.
    pub(super) owner: String,
    pub(super) ingress: bool,
    /// New connections in a second.
    pub(super) rate: fn(u64) -> u64,
    /// Seconds that one lives.
    pub(super) life: u64,
    pub(super) protocol: &'static str,
    /// The kernel may evict its entries.
    pub(super) evictable: bool,
    pub(super) answered: bool,
    /// Each connection is from an address of its own.
    pub(super) many_sources: bool,
    pub(super) to: Vec<(&'static str, u16)>,
    /// Destinations from a second on.
    pub(super) later: Option<(u64, Vec<(&'static str, u16)>)>,
    pub(super) states: &'static [(&'static str, u64)],
    /// A refused connection is tried again after 1, 3, 7 ... seconds, as often as this.
    pub(super) retries: u32,
    /// Connections that it has at the beginning, which stay.
    pub(super) held: u64,
    /// Packets lost in a second for another reason than a full table.
    pub(super) loses: fn(u64) -> u64,
    pub(super) reason: (i64, &'static str),
}

impl Actor {
    pub(super) fn new(owner: &str, rate: fn(u64) -> u64, life: u64) -> Self {
        Self {
            owner: owner.to_owned(),
            ingress: false,
            rate,
            life,
            protocol: "tcp",
            evictable: false,
            answered: true,
            many_sources: false,
            to: vec![("10.200.0.10", 8080)],
            later: None,
            states: &[("ESTABLISHED", 60), ("TIME_WAIT", 20), ("FIN_WAIT", 20)],
            retries: 0,
            held: 0,
            loses: |_| 0,
            reason: (2, "clash"),
        }
    }

    /// Udp that the kernel may evict.
    pub(super) fn udp(self, answered: bool) -> Self {
        Self {
            protocol: "udp",
            evictable: true,
            answered,
            states: if answered {
                &[("REPLIED", 100)]
            } else {
                &[("UNREPLIED", 98), ("REPLIED", 2)]
            },
            ..self
        }
    }

    pub(super) fn to(self, to: &[(&'static str, u16)]) -> Self {
        Self {
            to: to.to_vec(),
            ..self
        }
    }

    pub(super) fn loses(self, reason: (i64, &'static str), loses: fn(u64) -> u64) -> Self {
        Self {
            loses,
            reason,
            ..self
        }
    }
}

/// A node and its journal.
pub(super) struct Scene {
    folder: TempDir,
    connection: Connection,
    pub(super) actors: Vec<Actor>,
    /// The limit, by second.
    pub(super) limit: fn(u64) -> u64,
    pub(super) buckets: u64,
    /// Name of the table that fills.
    pub(super) table: &'static str,
    /// What the kernel's `found` and `invalid` rise by in a second.
    pub(super) found: fn(u64) -> u64,
    pub(super) invalid: fn(u64) -> u64,
    /// Seconds of which nothing is written.
    pub(super) asleep: fn(u64) -> bool,
    /// Seconds of a row.
    pub(super) every: u64,
}

impl Scene {
    pub(super) fn new(limit: fn(u64) -> u64, actors: Vec<Actor>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = Connection::open(folder.path().join(FILE_NAME)).expect("a database");
        connection
            .execute_batch(include_str!("../../../journal/src/schema.sql"))
            .expect("the schema");
        connection
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; PRAGMA synchronous = OFF;"
            ))
            .expect("pragmas");
        connection
            .execute(
                "INSERT INTO run VALUES (1, ?1, NULL, 'boot', '0.1.0', '6.12.118+deb13-cloud-amd64', 'node-7', ?2, 8)",
                params![ms(START), 16_i64 << 30],
            )
            .expect("a run");
        let scene = Self {
            folder,
            connection,
            actors,
            limit,
            buckets: 262_144,
            table: "host",
            found: |_| 0,
            invalid: |_| 0,
            asleep: |_| false,
            every: 1,
        };
        scene.fact("entry_bytes", "256");
        scene
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join(FILE_NAME)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn fact(&self, name: &str, value: &str) {
        self.fact_at(0, name, value);
    }

    pub(super) fn fact_at(&self, second: u64, name: &str, value: &str) {
        self.connection
            .execute(
                "INSERT INTO fact (run, at, name, value) VALUES (1, ?1, ?2, ?3)",
                params![ms(START + second), name, value],
            )
            .expect("a fact");
    }

    /// Somebody changes the limit.
    pub(super) fn change(&self, second: u64, who: Option<&str>, from: u64, to: u64) {
        self.connection
            .execute(
                "INSERT INTO limit_change (run, at, by, who, limit_before, limit_after, buckets_before, buckets_after, \
                 result, reason) VALUES (1, ?1, 'other', ?2, ?3, ?4, ?5, ?5, 'seen', '')",
                params![ms(START + second) - 300, who, sql(from), sql(to), sql(self.buckets)],
            )
            .expect("a change");
    }

    /// Writes as many seconds.
    pub(super) fn run(&mut self, seconds: u64) {
        let connection = std::mem::replace(
            &mut self.connection,
            Connection::open_in_memory().expect("memory"),
        );
        connection.execute_batch("BEGIN").expect("begin");
        Writer::new(&connection, self).run(self, seconds);
        connection.execute_batch("COMMIT").expect("commit");
        self.connection = connection;
    }

    pub(super) fn execute(&self, statement: &str) {
        self.connection
            .execute_batch(statement)
            .expect("a statement");
    }
}

fn ms(seconds: u64) -> i64 {
    sql(seconds * 1000)
}

pub(super) fn sql(number: u64) -> i64 {
    i64::try_from(number).expect("fits")
}
