//! Who is on this node, and what it costs to look.
//!
//!     cargo run --release --example owners             # the owners
//!     cargo run --release --example owners 30          # and what each of 30 more looks, one a second, takes
//!     cargo run --release --example owners follow      # and what changes, as soon as it is seen

use std::error::Error;
use std::time::{Duration, Instant, SystemTime};

use conntrack_user::kernel::Root;
use conntrack_user::owners::{Discovery, Notifier, Scanner, SlotLimits, Slots};

fn main() -> Result<(), Box<dyn Error>> {
    let how = std::env::args().nth(1).unwrap_or_default();
    let mut scanner = Scanner::new(Root::system());
    let mut slots = Slots::new(SlotLimits::default());
    let found = scanner.scan();
    print(&found);
    slots.apply(&found, |_| false, |_| true);
    if how == "follow" {
        return tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(follow(scanner, slots));
    }
    for look in 0..how.parse().unwrap_or(0_u32) {
        std::thread::sleep(Duration::from_secs(1));
        let found = scanner.scan();
        let begin = Instant::now();
        let changes = slots.apply(&found, |_| false, |_| true);
        println!(
            "{look}: {} owners, took {:?}, slots {:?}, changed: {}",
            found.owners.len(),
            found.took,
            begin.elapsed(),
            changes.maps
        );
    }
    Ok(())
}

/// Says what changes, with the time.
async fn follow(mut scanner: Scanner, mut slots: Slots) -> Result<(), Box<dyn Error>> {
    let mut notifier = Notifier::new();
    loop {
        notifier.wait().await;
        let (used, found) = tokio::task::spawn_blocking(move || {
            let found = scanner.scan();
            (scanner, found)
        })
        .await?;
        scanner = used;
        notifier.looked(&found);
        let changes = slots.apply(&found, |_| true, |_| true);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let time = now.as_secs_f64();
        for problem in notifier.problems() {
            println!("{time:.3} ! {problem}");
        }
        for problem in found.problems.iter().chain(&changes.problems) {
            println!("{time:.3} ! {problem}");
        }
        for (slot, owner) in &changes.given {
            println!("{time:.3} slot {slot}: {owner}");
        }
        for slot in &changes.freed {
            println!("{time:.3} slot {slot} is free");
        }
        if changes.maps {
            println!("{time:.3} {} addresses", slots.maps().addresses.len());
        }
    }
}

fn print(found: &Discovery) {
    for problem in &found.problems {
        println!("! {problem}");
    }
    for one in &found.owners {
        println!(
            "{:<8} {:<50} netns {:<10} {} control groups, {:?}",
            one.owner.kind.label(),
            one.owner.name(),
            one.netns
                .map_or_else(|| "-".to_owned(), |inode| inode.to_string()),
            one.cgroups.len(),
            one.addresses
        );
    }
    println!(
        "host     netns {:?}, {:?}",
        found.host_netns, found.host_addresses
    );
    println!(
        "{} owners, whole: {}, {} folders to watch; took {:?}",
        found.owners.len(),
        found.whole,
        found.folders.len(),
        found.took
    );
}
