//! Why there is no walk over the hash table.

use conntrack_ebpf::walk::RunEnd;

use crate::kernel::confinement::as_root;

/// Why there is no walk over the hash table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoHashWalk {
    #[error("ctnetlink was asked for")]
    NotAsked,
    #[error("this ctpressure was built without its eBPF programs")]
    LeftOut,
    #[error("this kernel has no symbol {0} (CONFIG_KALLSYMS_ALL)")]
    NoSymbol(&'static str),
    #[error(
        "/proc/kallsyms hides addresses: it shows them to those with CAP_SYSLOG, unless kernel.kptr_restrict is 2"
    )]
    Hidden,
    #[error("symbols can't be read: {0}")]
    Symbols(String),
    #[error("this kernel's entries are not as those of known ones: {0}")]
    Layout(String),
    #[error("the kernel does not load the program: {0}; it needs CAP_BPF and CAP_PERFMON")]
    NotLoaded(String),
    #[error("the kernel does not run the program: {0}")]
    NotRun(String),
    #[error("how long a jiffy is can't be told")]
    Jiffies,
    #[error("what is in memory where the table should be can't be read")]
    Unreadable,
    #[error("one bucket of the hash table has too many entries")]
    TooLong,
    /// It was, each time that it was tried.
    #[error("the kernel made another hash table while it was looked at")]
    Changed,
}

impl NoHashWalk {
    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::NotAsked => "leave the choice to ctpressure by --census auto",
            Self::LeftOut => "`cargo xtask setup` brings what it needs to be built with them",
            Self::Hidden | Self::NotLoaded(_) | Self::NotRun(_) => as_root("run as root"),
            Self::NoSymbol(_) | Self::Symbols(_) | Self::Layout(_) | Self::Jiffies => {
                "entries are read by ctnetlink, which costs more; the numbers are the same"
            }
            Self::TooLong => "give the hash table more buckets: net.netfilter.nf_conntrack_buckets",
            Self::Unreadable | Self::Changed => "try again",
        }
    }
}

/// For `map_err`, so by value.
pub(super) fn not_loaded(error: impl std::error::Error) -> NoHashWalk {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += ": ";
        text += &error.to_string();
        source = error.source();
    }
    // A verifier's log is long; what it says last is at its end.
    let said = text.trim_end();
    let from = said.len().saturating_sub(300);
    let from = (from..said.len()).find(|at| said.is_char_boundary(*at));
    NoHashWalk::NotLoaded(said[from.unwrap_or(0)..].replace('\n', " | "))
}

/// What it means that a run ended so.
pub(super) fn no_walk(end: RunEnd) -> NoHashWalk {
    match end {
        RunEnd::NotRun => NoHashWalk::NotRun("it has left no word".to_owned()),
        RunEnd::TooLong | RunEnd::GoesOn => NoHashWalk::TooLong,
        RunEnd::Changed => NoHashWalk::Changed,
        RunEnd::Copied | RunEnd::Begun | RunEnd::Unreadable => NoHashWalk::Unreadable,
    }
}
