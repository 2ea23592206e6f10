//! The kernel's release and the CPUs that it can have.

use std::io;

use super::{Root, root::read_text};

/// The release, as `uname -r` prints it.
///
/// # Errors
/// When `/proc/sys/kernel/osrelease` can't be read.
pub(crate) fn release(root: &Root) -> io::Result<String> {
    let text = read_text(&root.proc("sys/kernel/osrelease"))?;
    Ok(text.trim().to_owned())
}

/// Whether the kernel is all preemptible (`CONFIG_PREEMPT_RT`), as it says in its version, which `uname -v` prints.
pub(crate) fn is_real_time(root: &Root) -> bool {
    read_text(&root.proc("sys/kernel/version"))
        .is_ok_and(|version| version.split_whitespace().any(|word| word == "PREEMPT_RT"))
}

/// How many CPUs the kernel can ever have.
///
/// # Errors
/// When `/sys/devices/system/cpu/possible` can't be read or makes no sense.
pub(crate) fn possible_cpus(root: &Root) -> io::Result<usize> {
    read_possible(root, count_cpus)
}

/// How many numbers those CPUs can have: more than there are CPUs if some in between are missing.
///
/// # Errors
/// As [`possible_cpus`].
pub(crate) fn cpu_numbers(root: &Root) -> io::Result<usize> {
    read_possible(root, |cpus| last_cpu(cpus)?.checked_add(1))
}

/// How many CPUs run now.
///
/// # Errors
/// When `/sys/devices/system/cpu/online` can't be read or makes no sense.
pub(crate) fn online_cpus(root: &Root) -> io::Result<usize> {
    read_cpus(root, "online", count_cpus)
}

fn read_possible(root: &Root, read: impl Fn(&str) -> Option<usize>) -> io::Result<usize> {
    read_cpus(root, "possible", read)
}

fn read_cpus(root: &Root, which: &str, read: impl Fn(&str) -> Option<usize>) -> io::Result<usize> {
    let path = root.sys("devices/system/cpu").join(which);
    let text = read_text(&path)?;
    read(text.trim())
        .ok_or_else(|| io::Error::other(format!("{}: no list of CPUs: {text:?}", path.display())))
}

/// The highest CPU in such a list.
fn last_cpu(cpus: &str) -> Option<usize> {
    count_cpus(cpus)?;
    let last = cpus.rsplit([',', '-']).next()?;
    last.parse().ok()
}

/// The number of CPUs in a list such as `0-3,6,8-9`.
pub(crate) fn count_cpus(cpus: &str) -> Option<usize> {
    let mut count = 0_usize;
    for part in cpus.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-127"), Some(128));
        assert_eq!(count_cpus("0-3,6,8-9"), Some(7));
        for wrong in ["", "a", "3-1", "0-", "0-18446744073709551615"] {
            assert_eq!(count_cpus(wrong), None, "{wrong}");
            assert_eq!(last_cpu(wrong), None, "{wrong}");
        }
        assert_eq!(last_cpu("0"), Some(0));
        assert_eq!(last_cpu("0-127"), Some(127));
        assert_eq!(last_cpu("0-3,6,8-9"), Some(9));
        assert_eq!(last_cpu("0-3,6"), Some(6));
    }

    #[test]
    fn of_this_machine() {
        let uname = nix::sys::utsname::uname().unwrap();
        assert_eq!(
            release(&Root::system()).unwrap(),
            uname.release().to_str().unwrap()
        );
        assert!(possible_cpus(&Root::system()).unwrap() >= 1);
    }
}
