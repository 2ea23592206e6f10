use std::fs;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn found(folders: &[&Path]) -> Discovery {
    let mut found = Discovery::empty(Instant::now());
    found.folders = folders.iter().map(|path| path.to_path_buf()).collect();
    found
}

/// Looks once, and once more because folders that were not watched before may have changed.
async fn begin(notifier: &mut Notifier, found: &Discovery) {
    for _ in 0..2 {
        notifier.wait().await;
        notifier.looked(found);
    }
}

/// How long until the next look, if that is before the periodic one.
async fn waited(notifier: &mut Notifier) -> Option<Duration> {
    let begin = Instant::now();
    let woken = timeout(PATIENCE, notifier.wait()).await;
    woken.ok().map(|()| begin.elapsed())
}

#[tokio::test]
async fn folders_that_begin_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let mut notifier = Notifier {
        route: None,
        ..Notifier::new()
    };
    let both = found(&[folder.path(), &inner, Path::new("/nowhere/at/all")]);
    begin(&mut notifier, &both).await;
    assert_eq!(notifier.watches.as_ref().unwrap().by_path.len(), 2);
    for step in 0..3 {
        match step {
            0 => fs::create_dir(inner.join("x")).unwrap(),
            1 => fs::remove_dir(inner.join("x")).unwrap(),
            _ => fs::remove_dir(&inner).unwrap(),
        }
        let waited = waited(&mut notifier).await.expect("heard");
        assert!(waited < Duration::from_secs(2), "{waited:?}");
        notifier.looked(&both);
    }
    let watches = notifier.watches.as_ref().unwrap();
    assert_eq!(
        (watches.by_path.len(), watches.by_number.len()),
        (1, 1),
        "that of the removed one is forgotten"
    );
    // Files mean nothing; nor does what is not watched any more.
    fs::write(folder.path().join("file"), "").unwrap();
    notifier.looked(&found(&[]));
    fs::create_dir(folder.path().join("y")).unwrap();
    assert!(notifier.watches.as_ref().unwrap().by_path.is_empty());
    assert_eq!(waited(&mut notifier).await, None);
    assert!(notifier.problems().is_empty());
}

#[tokio::test]
async fn without_either_there_is_still_a_look_now_and_then() {
    let mut notifier = Notifier {
        route: None,
        watches: None,
        ..Notifier::new()
    };
    notifier.wait().await;
    notifier.looked(&found(&[Path::new("/")]));
    let due = notifier.pace.due(Instant::now());
    let wait = due.duration_since(Instant::now());
    assert!(
        wait > Duration::from_secs(9) && wait <= Duration::from_secs(10),
        "{wait:?}"
    );
}

/// In a network namespace of its own, as root; elsewhere there is nothing that may be changed.
#[test]
fn an_interface_that_comes_up() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut notifier = Notifier::new();
            assert!(notifier.route.is_some());
            notifier.wait().await;
            notifier.looked(&found(&[]));
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .expect("iproute2");
            assert!(up.success());
            let waited = waited(&mut notifier).await.expect("heard");
            assert!(waited < Duration::from_secs(2), "{waited:?}");
        });
    })
    .join()
    .unwrap();
}
