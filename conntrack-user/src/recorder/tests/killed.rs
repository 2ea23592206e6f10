//! `kill -9` at any moment.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use ctpressure_journal::{FILE_NAME, Reader};

use super::{Node, folder, live, options, sums, writer};

const FOLDER: &str = "CTPRESSURE_TEST_JOURNAL";
const TIMES: u64 = 100;

/// Not a test: the process that is killed. It says the number of each second that it has written.
#[test]
#[ignore = "it is what `a_hundred_kills` starts"]
fn writes_until_it_is_killed() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let options = options(&PathBuf::from(folder), 4 << 20, Duration::from_hours(24));
    let mut node = Node::new(40);
    let (mut writer, _) = writer(&options);
    for second in 1_u32.. {
        live(&mut node, &mut writer, 1);
        if second.is_multiple_of(7) {
            writer.fold_now();
        }
        println!("written {second} {} {}", node.totals[0], node.losses);
    }
}

#[test]
fn a_hundred_kills() {
    let folder = folder();
    let mut moments = Node::new(0);
    let [mut inserts, mut losses] = [0, 0];
    for time in 0..TIMES {
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("recorder::tests::killed::writes_until_it_is_killed")
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test again");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        // Anywhere within some seconds of its life, and within one of them.
        let after = 1 + moments.number(12);
        let mut said = [0; 2];
        let mut seen = 0;
        let mut note = |line: &str, seen: &mut u64| {
            if let Some(numbers) = line.strip_prefix("written ") {
                let numbers: Vec<u64> = numbers
                    .split(' ')
                    .filter_map(|number| number.parse().ok())
                    .collect();
                if let [_, inserts, losses] = numbers[..] {
                    said = [inserts, losses];
                    *seen += 1;
                }
            }
        };
        while seen < after {
            let line = lines.next().expect("it goes on").expect("text");
            note(&line, &mut seen);
        }
        std::thread::sleep(Duration::from_micros(moments.number(2000)));
        child.kill().expect("a child");
        child.wait().expect("a child");
        for line in lines.map_while(Result::ok) {
            note(&line, &mut seen);
        }
        // What it had said is there, and of the one second that it was in all or nothing.
        let reader = Reader::open(folder.path()).expect("it opens");
        let (owners, ticks, lost) = sums(&reader);
        assert_eq!(owners, ticks, "whole seconds only, time {time}");
        let most = 40 * 40;
        let (there, before) = (owners[0], inserts + said[0]);
        assert!(
            there >= before && there <= before + most,
            "time {time}: {there}, not {before}"
        );
        assert!(lost >= losses + said[1], "time {time}");
        (inserts, losses) = (there, lost);
    }
    let reader = Reader::open(folder.path()).expect("it opens");
    let runs = super::whole(&reader).runs().expect("read");
    assert_eq!(runs.len() as u64, TIMES, "each began once");
    assert!(runs.iter().all(|run| run.ended.is_none()));
    // It may have been killed while it folded; the next one does that to its end.
    let (next, _) = writer(&options(folder.path(), 4 << 20, Duration::from_hours(24)));
    next.fold_now();
    let main = folder.path().join("main-alone.db");
    std::fs::copy(folder.path().join(FILE_NAME), &main).expect("a copy");
    drop(Reader::open(&main).expect("the main file alone"));
}
