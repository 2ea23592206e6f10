use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const HEADER: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n";

/// A machine made of files.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for (name, value) in [
            ("max", "262144\n"),
            ("buckets", "65536\n"),
            ("count", "7\n"),
        ] {
            machine.write(
                &format!("proc/sys/net/netfilter/nf_conntrack_{name}"),
                value,
            );
        }
        machine.write("sys/devices/system/cpu/possible", "0-1\n");
        machine.write("proc/net/stat/nf_conntrack", &statistics(7, [3, 4]));
        machine.link("proc/thread-self/ns/net", "net:[100]");
        machine
    }

    fn path(&self, file: &str) -> PathBuf {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    fn link(&self, file: &str, target: &str) {
        let path = self.path(file);
        drop(fs::remove_file(&path));
        symlink(target, path).unwrap();
    }

    fn process(&self, number: u32, namespace: u32, entries: u32, drops: [u32; 2]) {
        self.link(
            &format!("proc/{number}/ns/net"),
            &format!("net:[{namespace}]"),
        );
        self.write(
            &format!("proc/{number}/net/stat/nf_conntrack"),
            &statistics(entries, drops),
        );
    }

    fn end(&self, number: u32) {
        fs::remove_dir_all(self.path(&format!("proc/{number}/ns")).parent().unwrap()).unwrap();
    }

    fn reader(&self) -> TableReader {
        TableReader::new(Root::at(self.folder.path()))
    }
}

fn statistics(entries: u32, drops: [u32; 2]) -> String {
    let mut text = HEADER.to_owned();
    for drop in drops {
        let before = "00000000 ".repeat(9);
        let after = " 00000000".repeat(6);
        writeln!(text, "{entries:08x}  {before}{drop:08x}{after}").unwrap();
    }
    text
}

fn seen(sample: &TablesSample) -> Vec<(&str, u32, u64, u64)> {
    let drops = |table: &TableSample| table.stats.map_or(0, |stats| stats.drop);
    sample
        .tables
        .iter()
        .map(|table| {
            (
                table.name.as_str(),
                table.netns,
                table.entries,
                drops(table),
            )
        })
        .collect()
}

#[test]
fn each_namespace_once_and_the_host_first() {
    let machine = Machine::new();
    machine.process(1, 100, 7, [3, 4]);
    machine.process(2, 100, 7, [3, 4]);
    machine.process(900, 300, 20_000, [10, 5]);
    machine.process(901, 300, 20_000, [10, 5]);
    machine.process(950, 200, 0, [0, 0]);
    machine.link("run/netns/blue", "net:[300]");
    let sample = machine.reader().read().unwrap();
    assert_eq!((sample.limit, sample.buckets), (262_144, 65_536));
    assert_eq!(
        seen(&sample),
        [
            ("host", 100, 7, 7),
            ("200", 200, 0, 0),
            ("blue", 300, 20_000, 15)
        ]
    );
    assert!(sample.problems.is_empty(), "{:?}", sample.problems);
}

#[test]
fn the_host_is_that_of_process_1_not_of_the_reader() {
    let machine = Machine::new();
    machine.process(1, 500, 40, [0, 1]);
    let sample = machine.reader().read().unwrap();
    assert_eq!(seen(&sample), [("host", 500, 40, 1), ("100", 100, 7, 7)]);
}

/// Neither the reader's own, nor one that somebody has called so.
#[test]
fn no_table_is_called_the_hosts_while_that_is_not_known() {
    let machine = Machine::new();
    machine.process(950, 300, 20, [0, 0]);
    machine.link("run/netns/host", "net:[300]");
    let sample = machine.reader().read().unwrap();
    assert_eq!(seen(&sample), [("100", 100, 7, 7), ("300", 300, 20, 0)]);
    let why = sample.host_unseen.unwrap_or_default();
    assert!(why.contains("/proc/1/ns/net"), "{why}");
}

#[test]
fn a_namespace_that_somebody_calls_host_is_not_the_host() {
    let machine = Machine::new();
    machine.process(1, 500, 40, [0, 1]);
    machine.process(9, 300, 90, [0, 0]);
    machine.link("run/netns/host", "net:[300]");
    let sample = machine.reader().read().unwrap();
    assert_eq!(
        seen(&sample),
        [
            ("host", 500, 40, 1),
            ("100", 100, 7, 7),
            ("300", 300, 90, 0)
        ]
    );
}

#[test]
fn a_namespace_that_ends_is_dropped_and_another_process_is_found() {
    let machine = Machine::new();
    machine.process(1, 100, 7, [0, 0]);
    machine.process(10, 200, 50, [1, 0]);
    machine.process(11, 200, 50, [1, 0]);
    let mut reader = machine.reader();
    assert_eq!(reader.read().unwrap().tables.len(), 2);

    machine.end(10);
    assert_eq!(
        reader.read().unwrap().tables.len(),
        1,
        "not known yet where else it is"
    );
    reader.look_again();
    machine.process(11, 200, 60, [3, 0]);
    assert_eq!(seen(&reader.read().unwrap())[1], ("200", 200, 60, 3));

    // The number of the process is given to one in another namespace.
    machine.process(11, 900, 9, [8, 8]);
    assert_eq!(reader.read().unwrap().tables.len(), 1);
    reader.look_again();
    assert_eq!(seen(&reader.read().unwrap())[1], ("900", 900, 9, 16));
}

#[test]
fn with_many_tables_statistics_come_in_turn_and_counts_at_once() {
    let machine = Machine::new();
    machine.write("sys/devices/system/cpu/possible", "0-511\n");
    machine.process(1, 100, 7, [0, 0]);
    for table in 0..10 {
        machine.process(1000 + table, 2000 + table, table, [table, 1]);
    }
    let mut reader = machine.reader();
    let with_statistics = |sample: &TablesSample| {
        sample
            .tables
            .iter()
            .filter(|table| table.stats.is_some())
            .count()
    };
    // 2,048 rows are those of four tables; the host's come on top.
    for expected in [5, 9, 11, 11] {
        let sample = reader.read().unwrap();
        assert_eq!(sample.tables.len(), 11);
        assert_eq!(with_statistics(&sample), expected);
    }
    machine.process(1009, 2009, 77, [9, 1]);
    let sample = reader.read().unwrap();
    assert_eq!(sample.tables.last().unwrap().entries, 77);
}

#[test]
fn a_table_that_is_empty_still_is_read_now_and_then() {
    let machine = Machine::new();
    machine.process(1, 100, 7, [0, 0]);
    for table in 0..20 {
        machine.process(1000 + table, 2000 + table, 0, [0, 0]);
    }
    let marks = |inserts| move |netns| (netns != 2019).then_some(InsertMark { slot: 1, inserts });
    let mut reader = machine.reader();
    let mut read = |inserts| reader.read_since(marks(inserts)).unwrap();
    let of = |sample: &TablesSample, netns| {
        let mut tables = sample.tables.iter();
        let table = tables.find(|table| table.netns == netns);
        table.map(|table| (table.entries, table.stats.map_or(0, |stats| stats.drop)))
    };
    assert_eq!(read(5).tables.len(), 21);
    for table in 0..20 {
        machine.process(1000 + table, 2000 + table, 3, [1, 1]);
    }
    machine.write("proc/sys/net/netfilter/nf_conntrack_count", "8\n");
    let sample = read(5);
    assert_eq!(sample.tables.len(), 21);
    assert_eq!(of(&sample, 100), Some((8, 7)), "the host's is always read");
    assert_eq!(of(&sample, 2019), Some((3, 2)), "nobody counts its inserts");
    let looked = |sample: &TablesSample| {
        let tables = sample.tables.iter();
        tables.filter(|table| table.entries == 3).count()
    };
    // Three more with each reading; those that hold something are read every time.
    assert_eq!(looked(&sample), 4);
    assert_eq!(looked(&read(5)), 7);
    for _ in 2..9 {
        read(5);
    }
    assert_eq!(looked(&read(5)), 20, "within ten readings");
    for table in 0..20 {
        machine.process(1000 + table, 2000 + table, 0, [1, 1]);
    }
    read(5);
    for table in 0..20 {
        machine.process(1000 + table, 2000 + table, 3, [1, 1]);
    }
    assert!(looked(&read(5)) < 20);
    assert_eq!(looked(&read(6)), 20, "something was inserted");
    // Its owner is another one since.
    machine.process(1000, 2000, 0, [1, 1]);
    read(6);
    machine.process(1000, 2000, 4, [1, 1]);
    let sample = reader.read_since(|_| {
        Some(InsertMark {
            slot: 2,
            inserts: 6,
        })
    });
    assert_eq!(of(&sample.unwrap(), 2000), Some((4, 2)));
}

#[test]
fn a_problem_is_said_once() {
    let machine = Machine::new();
    machine.process(1, 100, 7, [0, 0]);
    machine.process(30, 400, 1, [0, 0]);
    machine.write("proc/30/net/stat/nf_conntrack", "entries drop early_drop\n");
    let mut reader = machine.reader();
    let sample = reader.read().unwrap();
    assert_eq!(sample.tables.len(), 1);
    assert_eq!(sample.problems.len(), 1, "{:?}", sample.problems);
    assert!(
        sample.problems[0].contains("some network namespaces can't be read: 400: "),
        "{:?}",
        sample.problems
    );
    assert!(reader.read().unwrap().problems.is_empty());
}

#[test]
fn without_conntrack_the_error_says_what_to_do() {
    let machine = Machine::new();
    fs::remove_file(machine.path("proc/sys/net/netfilter/nf_conntrack_max")).unwrap();
    let error = machine.reader().read().unwrap_err().to_string();
    assert!(error.contains("modprobe nf_conntrack"), "{error}");
}

/// The tables of the machine that runs the tests, with a namespace of its own if it may make one.
mod live {
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::unistd::Uid;

    use super::*;
    use crate::kernel::conntrack::Presence;

    /// Whether the rest of a test can run here; the same runs as root in the guests.
    fn may_make_namespaces() -> bool {
        let root = Uid::effective().is_root();
        let loaded = Presence::read(&Root::system()).unwrap().is_loaded();
        if !(root && loaded) {
            eprintln!("not run: needs root (is {root}) and nf_conntrack (loaded: {loaded})");
        }
        root && loaded
    }

    fn run(command: &str) {
        let status = Command::new("sh").args(["-ec", command]).status().unwrap();
        assert!(status.success(), "{command}");
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn this_machine() {
        let result = TableReader::new(Root::system()).read();
        if !Presence::read(&Root::system()).unwrap().is_loaded() {
            assert!(matches!(result, Err(TablesError::Sysctl(_))));
            return;
        }
        let sample = result.unwrap();
        let own = netns::own_inode().unwrap();
        assert!(sample.tables.iter().any(|table| table.netns == own));
        assert!(sample.buckets > 0);
    }

    #[test]
    fn a_namespace_of_a_process_is_seen_and_let_go() {
        if !may_make_namespaces() {
            return;
        }
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "readlink /proc/self/ns/net; exec sleep 60",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        let child = Ended(child);
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        let inode = crate::kernel::namespace::parse_link(line.trim()).unwrap();

        let mut reader = TableReader::new(Root::system());
        let sample = reader.read().unwrap();
        let table = sample
            .tables
            .iter()
            .find(|table| table.netns == inode)
            .unwrap();
        assert_eq!((table.name.clone(), table.entries), (inode.to_string(), 0));
        assert!(table.stats.is_some());
        drop(child);
        // Another test's namespace may have its number by now, for a moment.
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            reader.look_again();
            let sample = reader.read().unwrap();
            if sample.tables.iter().all(|table| table.netns != inode) {
                return;
            }
            assert!(Instant::now() < deadline, "it is still there: {sample:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn a_namespace_without_a_process_is_entered_and_let_go() {
        if !may_make_namespaces() || !Path::new("/usr/sbin/ip").exists() {
            return;
        }
        let name = format!("ctpressure-test-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        let before = netns::own_inode().unwrap();
        let file = PathBuf::from(format!("/run/netns/{name}"));
        let inode = netns::inode_of(&file).unwrap().unwrap();
        let asked = netns::visit(&[(inode, file, ())], |(), entered| {
            (
                entered.is_ok(),
                netns::own_inode().unwrap(),
                crate::kernel::stats::ask(),
            )
        });
        let mut reader = TableReader::new(Root::system());
        let sample = reader.read();
        let after = netns::own_inode().unwrap();
        run(&format!("ip netns delete {name}"));
        let sample = sample.unwrap();
        let table = sample
            .tables
            .iter()
            .find(|table| table.name == name)
            .expect("seen by its name");
        assert_eq!(table.entries, 0);
        assert!(table.stats.is_some(), "{:?}", sample.problems);
        assert_eq!(before, after, "the reader stays where it is");
        let [(_, (entered, there, by_netlink))] = &asked[..] else {
            panic!("one for each")
        };
        assert_eq!((*entered, *there), (true, inode));
        // The module that answers may be missing; the number of rows is right if it is there.
        if let Ok(by_netlink) = by_netlink {
            let cpus = release::possible_cpus(&Root::system()).unwrap();
            assert_eq!(by_netlink.rows.len(), cpus);
        }
        reader.look_again();
        let sample = reader.read().unwrap();
        assert!(sample.tables.iter().all(|table| table.name != name));
    }
}
