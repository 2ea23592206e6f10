//! The limit, the buckets, the count and a timeout, as the caller's network namespace shows them
//! (`net.netfilter.nf_conntrack_*`).

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::Root;
use super::confinement::as_root;

/// A sysctl that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}\nhelp: {}", help(source))]
pub(crate) struct SysctlError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

fn help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "conntrack is not loaded: it is loaded by the first iptables or nft rule that needs it, \
             or by `modprobe nf_conntrack`"
        }
        io::ErrorKind::PermissionDenied => as_root("run as root"),
        _ => "is this a kernel with CONFIG_NF_CONNTRACK and CONFIG_SYSCTL, and is /proc mounted?",
    }
}

/// `nf_conntrack_max`: how many entries each table may hold. One number for all namespaces; 0 means
/// unlimited (up to 6.18).
///
/// # Errors
/// When the file can't be read, most likely because conntrack is not loaded.
pub(crate) fn limit(root: &Root) -> Result<u64, SysctlError> {
    read(root, "nf_conntrack_max")
}

/// `nf_conntrack_buckets`: buckets of the hash table that all namespaces share.
///
/// # Errors
/// As [`limit`].
pub(crate) fn buckets(root: &Root) -> Result<u64, SysctlError> {
    read(root, "nf_conntrack_buckets")
}

/// Whether entries of the calling thread's network namespace are given the time that they come at (`nf_conntrack_timestamp`); those that
/// are there already may have one all the same.
pub(crate) fn keeps_timestamps(root: &Root) -> bool {
    read(root, "nf_conntrack_timestamp").is_ok_and(|kept| kept != 0)
}

/// `nf_conntrack_expect_max`: expectations that each network namespace may have, one number for all of them.
///
/// # Errors
/// As [`limit`].
pub(crate) fn expectation_limit(root: &Root) -> Result<u64, SysctlError> {
    read(root, "nf_conntrack_expect_max")
}

/// `nf_conntrack_count`: entries of the table of the caller's network namespace.
///
/// # Errors
/// As [`limit`].
pub(crate) fn count(root: &Root) -> Result<u64, SysctlError> {
    read(root, "nf_conntrack_count")
}

/// `nf_conntrack_tcp_timeout_time_wait`, in seconds: for how long the table of the caller's network
/// namespace keeps a TCP connection that both sides have closed.
///
/// # Errors
/// As [`limit`].
pub(crate) fn time_wait(root: &Root) -> Result<u64, SysctlError> {
    read(root, "nf_conntrack_tcp_timeout_time_wait")
}

fn read(root: &Root, name: &str) -> Result<u64, SysctlError> {
    let path = root.proc(Path::new("sys/net/netfilter").join(name));
    fs::read_to_string(&path)
        .and_then(|text| {
            // Some kernels take a negative limit and compare it as unsigned: no limit.
            let text = text.trim();
            text.parse::<u64>()
                .or_else(|_| {
                    text.parse::<i32>()
                        .map(|value| u64::from(value.cast_unsigned()))
                })
                .map_err(|_| io::Error::other(format!("not a number: {text:?}")))
        })
        .map_err(|source| SysctlError { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(max: &str) -> Result<u64, SysctlError> {
        let folder = tempfile::tempdir().unwrap();
        let sysctls = folder.path().join("proc/sys/net/netfilter");
        fs::create_dir_all(&sysctls).unwrap();
        fs::write(sysctls.join("nf_conntrack_max"), max).unwrap();
        limit(&Root::at(folder.path()))
    }

    #[test]
    fn numbers() {
        assert_eq!(with("262144\n").unwrap(), 262_144);
        assert_eq!(with("0\n").unwrap(), 0);
        assert_eq!(
            with("-1\n").unwrap(),
            u64::from(u32::MAX),
            "compared as unsigned"
        );
        assert!(
            with("many\n")
                .unwrap_err()
                .to_string()
                .contains("not a number: \"many\"")
        );
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let error = count(&Root::at("/nonexistent")).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/proc/sys/net/netfilter/nf_conntrack_count"),
            "{error}"
        );
        assert!(error.contains("modprobe nf_conntrack"), "{error}");
    }
}
