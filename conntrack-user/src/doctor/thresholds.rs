//! From where on something is a finding, and why from there: all in one place. They are set so that a node
//! that does its work has no finding.

/// Entries of a table against the limit, per cent: the alert that most clusters have (kube-prometheus
/// `NodeHighNumberConntrackEntriesUsed`), a warning there.
pub(crate) const TABLE_RISK: u64 = 75;
/// At this share of the limit the kernel's garbage collector begins to remove live entries once one new
/// entry was refused (`nf_conntrack_max95`).
pub(crate) const TABLE_CRITICAL: u64 = 95;

/// A chance per new connection of being refused for a long chain: at a thousand connections a second, one
/// loss in a quarter of an hour.
pub(crate) const CHAIN_RISK: f64 = 1e-6;
/// One of a thousand new connections: seen by users as errors, not as bad luck.
pub(crate) const CHAIN_PROBLEM: f64 = 1e-3;
/// The chance that a full table has nothing to evict at the place where the kernel looks, though all
/// entries are evictable: from one in twenty on early drop is no help that can be counted on. By default it is
/// one in nine million.
pub(crate) const EMPTY_WINDOW: f64 = 0.05;
/// Nodes a bucket at which kernels without a chain limit (before 5.15) get slow: each packet's look-up walks
/// half of them.
pub(crate) const SLOW_CHAIN: f64 = 32.0;

/// Memory of one full table, per cent of RAM: it can't be swapped or reclaimed, and no limit of a cgroup
/// counts it. kube-proxy's defaults and the kernel's stay below 2 on machines with 2 GiB and more.
pub(crate) const MEMORY_RISK: u64 = 10;
/// Half of what an idle system leaves; with two full tables (each namespace may have one) it is half of RAM.
pub(crate) const MEMORY_PROBLEM: u64 = 25;
/// Extensions on every entry, per cent of RAM when full.
pub(crate) const EXTENSION_RISK: u64 = 1;

/// Entries that a shorter timeout would not have kept, per cent of the limit: below a tenth they change
/// nothing about when the table is full.
pub(crate) const WASTE_RISK: u64 = 10;
/// A quarter of the limit.
pub(crate) const WASTE_PROBLEM: u64 = 25;
/// Seconds that an established connection may be idle and is kept: RFC 5382 (REQ-5) asks for 2 hours
/// 4 minutes, so that the first keepalive (after 2 hours) still finds it.
pub(crate) const ESTABLISHED: u64 = 7_440;
/// `TCP_TIMEWAIT_LEN`: after this long an end host itself has forgotten a closed connection.
pub(crate) const TIME_WAIT: u64 = 60;
/// The kernel's own value; kube-proxy makes it an hour.
pub(crate) const CLOSE_WAIT: u64 = 60;
/// The kernel's own value of a UDP flow that was answered more than once.
pub(crate) const UDP_STREAM: u64 = 120;
/// The kernel's own value of a UDP flow without (much of) an answer.
pub(crate) const UDP: u64 = 30;
/// A handshake that takes longer than this has been given up by most clients: four SYNs were sent.
pub(crate) const SYN_SENT: u64 = 15;

/// Expired entries that the garbage collector has not removed, per cent of the limit: it comes by once
/// a minute, so a table of short-lived entries always has some.
pub(crate) const EXPIRED_RISK: u64 = 10;
/// A quarter of the limit is taken by nothing.
pub(crate) const EXPIRED_PROBLEM: u64 = 25;

/// Entries that packets hold while they wait, per cent of the limit: a few there are always.
pub(crate) const HELD_RISK: u64 = 10;
/// A quarter of the limit, as for expired ones.
pub(crate) const HELD_PROBLEM: u64 = 25;

/// Expectations that there are, per cent of those that there may be: a helper's sessions come in bursts.
pub(crate) const EXPECTATIONS_RISK: u64 = 75;
/// There is no room for one more.
pub(crate) const EXPECTATIONS_FULL: u64 = 100;

/// Source ports in use towards one destination, per cent of those that the kernel may choose. It tries up
/// to 248 ports; with this many taken it still finds one.
pub(crate) const PORTS_RISK: u64 = 50;
/// A look for a free port tries ten on average.
pub(crate) const PORTS_PROBLEM: u64 = 90;
/// A look for a free port that fails has met at least this many taken ones, else it was no look for a port.
pub(crate) const PORTS_TRIED: u64 = 8;

/// Packets a second without a connection that it would take a log line for each to notice.
pub(crate) const INVALID_PER_SECOND: f64 = 10.0;
/// Losses by clash a day that a node with busy DNS has anyhow (two queries from one socket at a time).
pub(crate) const CLASHES_PER_DAY: f64 = 1_000.0;
/// Packets lost to a full table since boot, a day: fewer is one moment long ago.
pub(crate) const FULL_PER_DAY: f64 = 1.0;

const _: () = assert!(TABLE_RISK < TABLE_CRITICAL && CHAIN_RISK < CHAIN_PROBLEM);

/// Seconds by which the last packet of an entry has to be later than the loss of the address that it leads to, for the entry to be in
/// use: timeouts are whole seconds, and a loss is seen within one. The same within which it has to be where the loss was not seen.
pub(crate) const STRAY_LATELY: u64 = 3;
/// Part of the limit, in percent, from which on entries of addresses that nobody on this node has are worth a word even if nothing uses them.
pub(crate) const STRAY_RISK: u64 = 5;
