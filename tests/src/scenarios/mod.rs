//! What has to hold, one function for each.
//!
//! Each runs in a process of its own on a machine that is put back before it: no rules, no
//! devices or namespaces of earlier ones, sysctls as at boot, empty table.

use anyhow::Result;

use crate::guest::agent::Mechanism;

mod census;
mod conditions;
mod counts;
mod detail;
mod doctor;
mod documents;
mod life;
mod limit;
mod metrics;
mod nat;
mod nested;
mod pods;
mod report;
mod setting;
mod tables;
mod top;
mod watching;

pub use conditions::exec_without;

/// Which mechanisms a scenario is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Each that the kernel allows, one after another.
    Each,
    /// Each on the kernel on which all scenarios are run, elsewhere the one that ctpressure chooses:
    /// the mechanisms differ in it, but not from kernel to kernel.
    EachOnOneKernel,
    /// kprobe only: it shows what fentry does not allow (unloading the module).
    KprobeOnly,
    /// None is asked for: ctpressure chooses, or the scenario is about something else.
    Any,
}

/// On which kernels of a matrix a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On each: what it shows depends on the kernel.
    EachKernel,
    /// On some: 6.1, 6.12 and 7. It needs pods of a real runtime, which take a minute to make.
    PodKernels,
    /// On one of those.
    OnePodKernel,
    /// One is enough: it shows what ctpressure does by itself.
    OneKernel,
    /// On one, in a guest whose clock counts instructions (`cargo xtask vm --icount`): it measures
    /// time, and would measure the host's load elsewhere.
    CountedClock,
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name on the command line and in the result line.
    pub name: &'static str,
    /// What it shows, for `list`.
    pub shows: &'static str,
    /// By which mechanisms.
    pub with: With,
    /// Where it is run.
    pub on: On,
    /// Seconds after which it is ended as failed.
    pub limit_seconds: u64,
    /// The scenario itself.
    pub run: fn(Option<Mechanism>) -> Result<()>,
}

macro_rules! scenarios {
    ($($name:ident $run:path, $with:ident, $on:ident, $limit:literal s, $shows:literal;)*) => {
        /// All scenarios, in the order in which they are run.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            shows: $shows,
            with: With::$with,
            on: On::$on,
            limit_seconds: $limit,
            run: $run,
        }),*];
    };
}

scenarios! {
    // First: the kernel keeps counts of what was refused since it booted, and the doctor sees them.
    doctor doctor::doctor_finds, Any, OneKernel, 180 s, "ctpressure doctor: no finding on a plain node; each condition made true is found, and false again is not";
    doctor_losses doctor::losses, Any, OneKernel, 240 s, "ctpressure doctor while packets are lost: a full table, NAT without ports, INVALID packets; expired entries, limits that can't be right; each is found, and gone again";
    doctor_kernel doctor::kernel_lacks, Any, EachKernel, 120 s, "ctpressure doctor: long chains as this kernel treats them; a kernel without statistics file, BTF or a function is told, and one that has them is not";
    exact_counts counts::exact, Each, EachKernel, 180 s, "200,000 flows from two CPUs at a limit of 20,000: every count is the kernel's and the generator's";
    exact_counts_reader_stopped counts::exact_reader_stopped, EachOnOneKernel, EachKernel, 180 s, "the same while the agent is stopped for 5 s: counts exact, lost events counted";
    expiry counts::expiry, EachOnOneKernel, EachKernel, 90 s, "entries that expire are counted as deletes";
    nested_softirq nested::nested_softirq, Each, EachKernel, 120 s, "flows in process context interrupted by flows in softirq: counts exact, causes never wrong";
    latency detail::latency, Each, CountedClock, 240 s, "from the drop to the line of watch at 1,000 drops/s, among a hundred other tables";
    memory detail::memory, Each, OneKernel, 120 s, "the agent stays under 32 MiB with a record for every insert";
    watch_filters watching::filters, Each, OneKernel, 90 s, "filters give what they should, and all of it";
    watch_alone watching::alone, Each, OneKernel, 90 s, "watch without an agent loads the programs itself and leaves none behind";
    netns_table tables::netns_table, EachOnOneKernel, EachKernel, 90 s, "a table of another network namespace fills up: seen, named, told apart";
    nat_exhausted nat::exhausted, Each, EachKernel, 90 s, "NAT ports exhausted: drops by clash equal insert_failed";
    chain_too_long nat::chain_too_long, Each, EachKernel, 120 s, "too long hash chains: drops equal chaintoolong";
    metrics metrics::exposition, Any, OneKernel, 90 s, "every metric of the contract with help and type; kernel statistics equal; node_exporter's names";
    census census::census, Any, OneKernel, 120 s, "ctpressure table: entries by protocol, state, service, address and namespace equal the generator's";
    top_once top::once, Any, OneKernel, 120 s, "ctpressure top --once, asked and alone: tables, owners that sum up to them, rates, who loses packets";
    limit_raise limit::raise, Any, OneKernel, 180 s, "the limit controller: a ramp loses nothing, a flood is given nothing, who lowers the limit is countered, a second controller takes over";
    limit_fight limit::fight, Any, OneKernel, 120 s, "somebody lowers the limit again and again: put back, later and later, then left, said by an alert and in the journal";
    limit_floods limit::floods, Any, OneKernel, 120 s, "a SYN flood from outside and a UDP flood of a pod are given nothing, and are named";
    limit_timeout limit::timeout, Any, OneKernel, 120 s, "a table at its ceiling that is full of closed connections: their timeout is shortened, and restored at the end and after kill -9, also by one without the controller";
    incident_report report::incident, Any, OneKernel, 180 s, "an incident that nobody looked at: the report names who filled the table, who suffered and since when, and the limit that it advises holds the same again";
    documents documents::command_lines_run, Any, OneKernel, 180 s, "each command line of ctpressure in the documents, run as it is written there while a table is full, ends well and prints something";
    pages metrics::pages, Any, OneKernel, 60 s, "/healthz, /readyz, /status and wrong requests";
    kill9 life::kill9, EachOnOneKernel, EachKernel, 400 s, "kill -9 at ten moments leaves no program, map or link";
    not_loaded life::not_loaded, Any, EachKernel, 90 s, "conntrack is not loaded: waits, says so, attaches when it appears";
    module_reload life::module_reload, KprobeOnly, EachKernel, 120 s, "the module is unloaded and loaded again: attaches again, counters go on";
    not_root conditions::not_root, Any, OneKernel, 60 s, "not root: says what is missing, exit status 1";
    no_cap_bpf conditions::no_cap_bpf, Any, OneKernel, 60 s, "root without CAP_BPF: names it, exit status 1";
    unknown_symbol conditions::unknown_symbol, Any, EachKernel, 90 s, "a function that the kernel lacks: the fallback is chosen, counts stay exact";
    port_taken conditions::port_taken, Any, OneKernel, 60 s, "the port is taken: says which, exit status 1";
    wrong_flags conditions::wrong_flags, Any, OneKernel, 60 s, "wrong flags: usage, exit status 2";
    no_btf conditions::no_btf, Any, OneKernel, 60 s, "no BTF: says what works without it";
    owners_churn pods::churn, Any, CountedClock, 400 s, "300 pods made and deleted at 5 a second, addresses used again after a second or two: no count on a wrong pod, nothing left";
    owners_exact pods::exact, Each, PodKernels, 900 s, "20 pods of containerd, a Service, a host network, own rules, IPv6, from outside: every count by owner is the generators' and the tables'";
    owners_incident pods::incident, Any, OnePodKernel, 900 s, "an aggregating pod fills the table: named within 2 s, drops are charged to those who lost them";
    owners_attacker pods::attacker, Any, OnePodKernel, 900 s, "a pod floods, a quiet one loses its entries: victim and cause of each eviction are right";
}
