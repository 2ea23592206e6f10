//! A fault of the emulator that ends a guest, told from what its kernel said.
//!
//! A kernel that patches its own code puts an INT3 in front, changes what is behind it, and puts the first byte of the new
//! instruction in the place of the INT3. QEMU drops its translation of an address before it stores to it, and lets go of the
//! page between the two: another emulated CPU may translate the old byte in that moment, and keeps it. When it comes there later
//! it meets an INT3 that memory no longer has and that nobody in the kernel waits for, which is an oops. A processor does not do
//! that: what it fetches is what memory has. With its CPUs in one thread QEMU would not either, but then no two of them would
//! ever be in the same few instructions, and what is lost in a race between them would never be found.

/// Whether this console shows it: the first thing that went wrong is an INT3 in the kernel that is not in memory.
pub(crate) fn is_shown(console: &str) -> bool {
    let mut lines = console.lines();
    let mut before = lines.by_ref().take_while(|line| !is_first_int3(line));
    if before.any(is_trouble) {
        return false;
    }
    let Some(place) = lines.find_map(|line| after(line, "RIP: ")) else {
        return false;
    };
    let Some(code) = lines.next().and_then(|line| after(line, "Code: ")) else {
        return false;
    };
    // Selector 10 is the kernel's. What a CPU would go on with is in brackets; the byte before it trapped.
    let trapped = code.split_once(" <").map(|(before, _)| before);
    place.starts_with("0010:")
        && trapped.is_some_and(|bytes| is_byte_at_end(bytes) && !bytes.ends_with("cc"))
        && lines.any(|line| line.contains("Kernel panic - not syncing"))
}

/// `Oops: int3: 0000 [#1] SMP`, older kernels leave out `Oops: `; the number is how many oopses there were.
fn is_first_int3(line: &str) -> bool {
    line.contains("int3: 0000 [#1]")
}

/// What may be the cause of anything that comes later.
fn is_trouble(line: &str) -> bool {
    let words = [
        "Oops",
        "BUG",
        "WARNING:",
        "[#1]",
        "protection",
        "panic",
        "Code: ",
    ];
    words.iter().any(|word| line.contains(word))
}

fn is_byte_at_end(bytes: &str) -> bool {
    let last = bytes.rsplit(' ').next().unwrap_or_default();
    last.len() == 2 && last.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.split_once(word).map(|(_, rest)| rest)
}

/// As Linux 7.3 said it on QEMU 10 when a switch in its scheduler was thrown to and fro.
#[cfg(test)]
pub(crate) const SHOWN: &str = "\
[    7.251401] Oops: int3: 0000 [#1] SMP NOPTI
[    7.252933] CPU: 1 UID: 0 PID: 106 Comm: yes Not tainted 7.3.4+deb13-cloud-amd64 #1 PREEMPT(lazy)  Debian 7.3.4-1~bpo13+1
[    7.253790] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.3-debian-1.16.3-2~bpo12+1 04/01/2014
[    7.254269] RIP: 0010:try_to_wake_up+0x10b/0x790
[    7.254713] Code: 85 c5 0f 84 78 ff ff ff c7 43 1c 00 00 00 00 8b 6b 14 0f <1f> 44 00 00 b8 01 00 00 00 e9 61 ff ff ff
[    7.260669] RSP: 0018:ffa0000000443be0 EFLAGS: 00000082
[    7.262000] Call Trace:
[    7.263000] RIP: 0033:0x7fb187410229
[    7.263100] Code: 05 48 83 f8 da 75 d4 48 89 ca 0f 05 <c3> e9 e1 ff ff ff
[    7.270000] ---[ end trace 0000000000000000 ]---
[    7.280000] Kernel panic - not syncing: Fatal exception in interrupt
[    7.290000] Kernel Offset: disabled
";

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "Code: 85 c5 0f 84 78 ff ff ff c7 43 1c 00 00 00 00 8b 6b 14 0f <1f> 44 00 00 b8 01 00 00 00 e9 61 ff ff ff";

    #[test]
    fn an_int3_that_memory_does_not_have_is_the_emulators() {
        assert!(is_shown(SHOWN));
        let elsewhere = "[    0.100000] virtio: a port\n".to_owned() + SHOWN;
        assert!(is_shown(&elsewhere));
        // Older kernels have a word less.
        assert!(is_shown(&SHOWN.replace("Oops: int3", "int3")));
    }

    #[test]
    fn another_death_is_not() {
        for (what, by) in [
            // Memory has it: code that is no code, or a mark of a bug.
            ("14 0f <1f>", "14 cc <1f>"),
            // Nothing is known of it.
            ("14 0f <1f>", "14 0f 1f"),
            ("[    7.254713] Code:", "[    7.254713] None:"),
            (
                CODE,
                "Code: Unable to access opcode bytes at 0xffffffffc061027b.",
            ),
            // Not in the kernel, or not the first.
            ("RIP: 0010:try", "RIP: 0033:try"),
            ("[#1]", "[#2]"),
            ("Oops: int3: 0000", "Oops: 0002"),
            ("Oops: int3: 0000", "general protection fault: 0000"),
            // It went on.
            ("Kernel panic", "Kernel log"),
        ] {
            assert!(SHOWN.contains(what), "{what}");
            assert!(!is_shown(&SHOWN.replace(what, by)), "{what} {by}");
        }
        assert!(!is_shown(""));
        let panic = "[    1.0] Kernel panic - not syncing: Attempted to kill init!\n";
        assert!(!is_shown(panic));
    }

    #[test]
    fn what_came_after_other_trouble_is_not() {
        for line in [
            "WARNING: CPU: 0 PID: 1 at net/core/dev.c:1",
            "BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "Oops: general protection fault, probably for non-canonical address: 0000 [#1]",
        ] {
            let console = format!("[    3.000000] {line}\n{SHOWN}");
            assert!(!is_shown(&console), "{line}");
        }
    }
}
