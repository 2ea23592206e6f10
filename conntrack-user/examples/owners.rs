//! Who is on this node, and what it costs to look.
//!
//! `cargo run --release --example owners [LOOKS]`: prints the owners of the first look, then what each of the further looks,
//! one a second, took of a processor.

use std::time::{Duration, Instant};

use conntrack_user::kernel::Root;
use conntrack_user::owners::{Limits, Scanner, Slots};

fn main() {
    let looks = std::env::args()
        .nth(1)
        .and_then(|number| number.parse().ok());
    let mut scanner = Scanner::new(Root::system());
    let mut slots = Slots::new(Limits::default());
    let found = scanner.scan();
    for problem in &found.problems {
        println!("! {problem}");
    }
    for one in &found.owners {
        println!(
            "{:<8} {:<50} netns {:<10} {} control groups, {:?}",
            one.owner.kind,
            one.owner.name(),
            one.netns
                .map_or_else(|| "-".to_owned(), |inode| inode.to_string()),
            one.cgroups.len(),
            one.addresses
        );
    }
    println!("host     {:?} {:?}", found.host_netns, found.host_addresses);
    println!(
        "{} owners, whole: {}, {} folders to watch; took {:?}",
        found.owners.len(),
        found.whole,
        found.folders.len(),
        found.took
    );
    slots.apply(&found, |_| false, |_| true);
    for look in 0..looks.unwrap_or(0_u32) {
        std::thread::sleep(Duration::from_secs(1));
        let found = scanner.scan();
        let begin = Instant::now();
        let changes = slots.apply(&found, |_| false, |_| true);
        println!(
            "{look}: {} owners, took {:?}, slots {:?}, {} changes",
            found.owners.len(),
            found.took,
            begin.elapsed(),
            changes.addresses.set.len() + changes.addresses.remove.len()
        );
    }
}
