//! What has to hold, one function for each.
//!
//! Each runs in a process of its own on a machine that is put back before it: no rules, no
//! devices or namespaces of earlier ones, sysctls as at boot, empty table.

use anyhow::Result;
use clap::ValueEnum;

use crate::guest::agent::Mechanism;

mod addresses;
mod arming;
mod boxes;
mod census;
mod charged;
mod composition;
mod conditions;
mod contain;
mod counts;
mod degraded;
mod detail;
mod doctor;
mod documents;
mod expectations;
mod host;
mod life;
mod limit;
mod metrics;
mod nat;
mod nested;
mod pods;
mod report;
mod reused;
mod scraper;
mod senders;
mod setting;
mod strangers;
mod tables;
mod top;
mod verdicts;
mod walks;
mod watching;

/// Set for scenarios of which only that is shown that depends on the kernel.
pub const OF_KERNEL: &str = "CTPRESSURE_OF_KERNEL";

/// Whether only what depends on the kernel is shown, so that fewer flows are enough: on one kernel there are as many as the scenario says.
fn of_kernel_only() -> bool {
    std::env::var_os(OF_KERNEL).is_some()
}

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
}

/// What a guest's clock shows, and how many CPUs it has therefore. On further kernels all is run by the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clock {
    /// The host's time, with two CPUs: for what happens on both at once. It must hold however busy the host is.
    Real,
    /// The instructions that its only CPU has run (`cargo xtask vm --icount`): for all the rest. Times are the same however
    /// busy the host is, and waiting takes none: the clock goes on to whatever is next.
    Counted,
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
    /// On which kernels.
    pub on: On,
    /// By which clock.
    pub clock: Clock,
    /// Seconds after which it is ended as failed.
    pub limit_seconds: u64,
    /// The scenario itself.
    pub run: fn(Option<Mechanism>) -> Result<()>,
}

macro_rules! scenarios {
    ($($name:ident $run:path, $with:ident, $on:ident, $clock:ident, $limit:literal s, $shows:literal;)*) => {
        /// All scenarios, in the order in which they are run.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            shows: $shows,
            with: With::$with,
            on: On::$on,
            clock: Clock::$clock,
            limit_seconds: $limit,
            run: $run,
        }),*];
    };
}

scenarios! {
    // First: the kernel keeps counts of what was refused since it booted, and the doctor sees them.
    // One kernel: findings come of sysctls, rules and processes; what a kernel may lack is `doctor_kernel`.
    doctor doctor::doctor_finds, Any, OneKernel, Counted, 180 s, "ctpressure doctor: no finding on a plain node; each condition made true is found, and false again is not";
    // One kernel: it reads the statistics whose exactness the counts below show on each.
    doctor_losses doctor::losses, Any, OneKernel, Counted, 360 s, "ctpressure doctor while packets are lost: a full table, NAT without ports, INVALID packets; expired entries, limits that can't be right; each is found, and gone again";
    // One kernel: it reads processes and files.
    doctor_kube_proxies doctor::kube_proxies, Any, OneKernel, Counted, 120 s, "kube-proxy inside kubelite, k3s and hyperkube, and its configuration in every style: the doctor knows whether it lowers the limit";
    // Of the kernel: how long a chain may be, which files and functions there are.
    doctor_kernel doctor::kernel_lacks, Any, EachKernel, Counted, 120 s, "ctpressure doctor: long chains as this kernel treats them; a kernel without statistics file, BTF or a function is told, and one that has them is not";
    // Of the kernel: which functions are hooked, and what they are handed, differs. Two CPUs: per-CPU counts are summed.
    exact_counts counts::exact, Each, EachKernel, Real, 180 s, "200,000 flows (60,000 on further kernels) from two CPUs at a limit of 20,000: every count is the kernel's and the generator's";
    // Of the kernel, as above; and the ring fills up.
    exact_counts_reader_stopped counts::exact_reader_stopped, EachOnOneKernel, EachKernel, Real, 180 s, "the same while the agent is stopped for 5 s: counts exact, lost events counted";
    // Of the kernel: what is attached and how fast. Two CPUs: one fills the table while the other attaches.
    arming_burst arming::burst, EachOnOneKernel, EachKernel, Real, 240 s, "tables of three limits fill at once, beside busy loops: counts are exact, each drop is somebody's, each eviction has its cause";
    // Of the kernel, as above: an insert on one CPU while programs go on the other.
    arming_toggled arming::toggled, EachOnOneKernel, EachKernel, Real, 180 s, "a watcher of inserts comes and goes each second while a pod and a unit send: counts by owner are exact to the entry";
    // Of the kernel: who deletes what has expired.
    expiry counts::expiry, EachOnOneKernel, EachKernel, Counted, 90 s, "entries that expire are counted as deletes";
    // Of the kernel: which programs it skips when one interrupts another. Two CPUs: who sends does not wait for who receives.
    nested_softirq nested::nested_softirq, Each, EachKernel, Real, 120 s, "flows in process context interrupted by flows in softirq: counts exact, causes never wrong";
    // One kernel and mechanism: the ring is read in the same way whoever fills it. It measures time.
    latency detail::latency, Any, OneKernel, Counted, 240 s, "from the drop to the line of watch at 1,000 drops/s, among a hundred other tables";
    // One kernel and mechanism: the memory is the agent's own. Two CPUs: both write records at once.
    memory detail::memory, Any, OneKernel, Real, 120 s, "the agent stays under 32 MiB with a record for every insert";
    // One kernel: the filters are the agent's, over records that are the same.
    watch_filters watching::filters, Each, OneKernel, Counted, 90 s, "filters give what they should, and all of it";
    // One kernel: loading is what `exact_counts` and `kill9` do on each.
    watch_alone watching::alone, Each, OneKernel, Counted, 90 s, "watch without an agent loads the programs itself and leaves none behind";
    // Of the kernel: how the tables of namespaces are found.
    netns_table tables::netns_table, EachOnOneKernel, EachKernel, Counted, 90 s, "a table of another network namespace fills up: seen, named, told apart";
    // Of the kernel: which function gives up.
    nat_exhausted nat::exhausted, Each, EachKernel, Counted, 90 s, "NAT ports exhausted: drops by clash equal insert_failed";
    // Of the kernel: only some have the limit, and it was changed.
    chain_too_long nat::chain_too_long, Each, EachKernel, Counted, 120 s, "too long hash chains: drops equal chaintoolong";
    // One kernel: names, types and pages are the agent's; the numbers are compared on each above. It waits for a forecast.
    metrics metrics::exposition, Any, OneKernel, Counted, 90 s, "every metric of the contract with help and type; kernel statistics equal; node_exporter's names";
    // One kernel: ctnetlink has been the same for all of them.
    census census::census, Any, OneKernel, Counted, 120 s, "ctpressure table: entries by protocol, state, service, address and namespace equal the generator's";
    // Of the kernel: how its entries lie in memory, and whether it takes the program that copies them.
    walk walks::both_ways, Any, EachKernel, Counted, 120 s, "ctpressure table by the hash table and by ctnetlink: the same numbers of a quiet table, each way that they can be grouped";
    // Of the kernel, as above. Two CPUs: one walks while the other moves what it walks over.
    walk_moving walks::moving, Any, EachKernel, Real, 180 s, "the hash table is made anew again and again while it is walked over: as many entries as there are each time, none twice; flows come and go: no more than those are missing";
    // One kernel: what a census finds is decided by the same code on each.
    composition composition::exact, Any, OneKernel, Counted, 90 s, "what the metrics say that the tables are made of is what was sent: by protocol, state, and whether it is evictable, of the node and of a pod";
    // One kernel, these and the next: who is charged is decided by the same rules on each.
    busy_start charged::busy_start, Any, OneKernel, Counted, 120 s, "the agent starts on a node with entries while more come: no owner has a value before it is known, each is exact afterwards, and the sum is the tables'";
    foreign_namespace charged::foreign_namespace, Any, OneKernel, Counted, 90 s, "a network namespace that only a name keeps is an owner by it, a sandbox that was left behind is nobody's: flows from a pod's address and the host's in them, for the counts and for a census";
    // One kernel: it is about paths of control groups.
    boxes boxes::apart, Any, OneKernel, Counted, 180 s, "containers of twenty runtimes and kinds, with equal units and pods in them and on the host: each is an owner of its own, by a name of its people, exact to the entry";
    tags_short charged::tags_short, Each, OneKernel, Counted, 180 s, "more entries of a unit than there is room for tags: the rest is the host's, and leaves on the host's account";
    tags_grow charged::tags_grow, Each, OneKernel, Counted, 180 s, "the limit is raised twice: there is room for the tags of a unit that has more entries than the first limit allowed";
    // Of the kernel: whether it tells for which task a program runs.
    senders senders::senders, EachOnOneKernel, EachKernel, Counted, 240 s, "flows from the host's own address of every kind: who sends is charged, whoever made the socket; what no task sends is the socket's while a table may fill";
    // Of the kernel: which clashes it resolves and how. Two CPUs: they race.
    clashes charged::clashes, Each, EachKernel, Real, 120 s, "clashes that the kernel resolves, with and without NAT: inserts, live entries and counts by owner are exact";
    clashes_at_confirm charged::clashes_at_confirm, Any, EachKernel, Real, 120 s, "the same on a kernel whose compiler inlined the insert, so that it is counted at the confirmation";
    clashes_when_full charged::clashes_when_full, Each, OneKernel, Real, 120 s, "twins of a clash that evict each other in a full table: inserts and deletes are on the same accounts, to the entry";
    // One kernel: it shows what the agent already knows.
    top_once top::once, Any, OneKernel, Counted, 120 s, "ctpressure top --once, asked and alone: tables, owners that sum up to them, rates, who loses packets";
    // One kernel: the controller decides over samples. It, and the five below, depend on time.
    limit_raise limit::raise, Any, OneKernel, Counted, 180 s, "the limit controller: a ramp loses nothing, a flood is given nothing, who lowers the limit is countered, a second controller takes over";
    limit_fight limit::fight, Any, OneKernel, Counted, 120 s, "somebody lowers the limit again and again: put back, later and later, then left, said by an alert and in the journal";
    limit_floods limit::floods, Any, OneKernel, Counted, 120 s, "a SYN flood from outside and a UDP flood of a pod are given nothing, and are named";
    limit_foreign limit::foreign, Any, OneKernel, Counted, 180 s, "somebody's own table, one-way ESTABLISHED entries, and entries that waiting packets hold raise nothing, and are named; a table that --raise-netns names does";
    limit_lock limit::lock, Any, OneKernel, Counted, 90 s, "somebody who is not root holds the name of the controller's lock: the controller acts, and a second one stands by";
    limit_timeout limit::timeout, Any, OneKernel, Counted, 120 s, "a table at its ceiling that is full of closed connections: their timeout is shortened, and restored at the end and after kill -9, also by one without the controller";
    // Of the kernel: its `nf_tables`, and when it looks for an entry to evict. Two CPUs: one floods while the other opens a few.
    contain contain::contained, EachOnOneKernel, EachKernel, Real, 240 s, "a pod floods a full table and is contained: the others' flows live, not one more eviction, nobody else's entry is touched, nothing is left after the time or after kill -9";
    // One kernel, these three: what is judged is a listing and counts that the scenarios above compare on each.
    verdict_queued verdicts::queued, Any, OneKernel, Counted, 240 s, "packets that a program was given to judge and did not hold the table: every command says so, and which queue";
    verdict_held verdicts::held, Any, OneKernel, Counted, 240 s, "packets that wait in a slow queue hold the table: every command says so and where they wait, the victim is not blamed, no raise is advised";
    verdict_overlay verdicts::overlay, Any, OneKernel, Counted, 180 s, "the outer packets of a VXLAN tunnel on its own port fill half of the table: every command says so, and the doctor's rules, by iptables and by nft, end it";
    verdict_requests verdicts::requests, Any, OneKernel, Counted, 180 s, "entries that ctnetlink is refused in a full table are no lost packets, in metrics, top and doctor; committed entries are not idle";
    // One kernel: a report is made of a journal.
    incident_report report::incident, Any, OneKernel, Counted, 180 s, "an incident that nobody looked at: the report names who filled the table, who suffered and since when, and the limit that it advises holds the same again";
    // One kernel: the helper's expectations are counted alike in all of them.
    expectations_full expectations::full, Any, OneKernel, Counted, 90 s, "FTP sessions hang since the expectation table is full: the doctor finds it, a metric shows it, and no word of a full table";
    // One kernel: command lines.
    documents documents::command_lines_run, Any, OneKernel, Counted, 180 s, "each command line of ctpressure in the documents, run as it is written there while a table is full, ends well and prints something";
    // One kernel: the agent's own server.
    pages metrics::pages, Any, OneKernel, Counted, 60 s, "/healthz, /readyz, the short /status and the whole one of `ctpressure status`, wrong requests; each thread has the capabilities that it needs, the one that answers HTTP none";
    // One kernel: the agent's own server.
    http_strangers strangers::strangers, Any, OneKernel, Counted, 240 s, "800 connections that say nothing, ask slowly, take nothing of the answer or keep idle ones, from one address or a hundred: health and metrics are answered at once, files and memory stay bounded";
    // One kernel, as above: that the kernel evicts no assured entry is so on each.
    scrape_full scraper::full, Any, OneKernel, Counted, 120 s, "a table full of assured entries: a scraper that keeps its connection goes on seeing the node, while the kernel drops whoever comes anew";
    // Of the kernel: it frees what a dead process had. Two CPUs: one may still run what the other frees.
    kill9 life::kill9, EachOnOneKernel, EachKernel, Real, 400 s, "kill -9 at ten moments (four on further kernels) leaves no program, map or link";
    // Of the kernel: how it tells that the module comes.
    not_loaded life::not_loaded, Any, EachKernel, Counted, 90 s, "conntrack is not loaded: waits, is ready and says so, attaches when it appears";
    // Of the kernel: it takes probes away with the module. Two CPUs, as above.
    module_reload life::module_reload, KprobeOnly, EachKernel, Real, 120 s, "the module is unloaded and loaded again: attaches again, counters go on";
    // Of the kernel: what it loads for a question.
    modules_loaded life::modules_loaded, Any, EachKernel, Counted, 90 s, "a census over the hash table makes the kernel load no module, one over ctnetlink those that the security model names";
    // One kernel, these and the next: what the program itself refuses.
    not_root conditions::not_root, Any, OneKernel, Counted, 60 s, "not root: watch says what is missing, exit status 1";
    no_cap_bpf degraded::no_cap_bpf, Any, OneKernel, Counted, 90 s, "root without CAP_BPF: tables and the kernel's own statistics go on, the reason is named; watch ends with exit status 1";
    not_counted degraded::not_counted, Any, OneKernel, Counted, 180 s, "events without a hook: their counts are absent everywhere, the kernel's own are given for the node, also of a namespace that went";
    // Of the kernel: which function stands in for the one that is hidden, exact from two CPUs.
    unknown_symbol conditions::unknown_symbol, Any, EachKernel, Real, 90 s, "a function that the kernel lacks: the fallback is chosen, counts stay exact";
    // One kernel, to the end of those without pods: what the program itself does.
    port_taken conditions::port_taken, Any, OneKernel, Counted, 60 s, "the port is taken: says which, exit status 1";
    wrong_flags conditions::wrong_flags, Any, OneKernel, Counted, 60 s, "wrong flags: usage, exit status 2";
    // One kernel: addresses are found by what it has told since long ago.
    addresses addresses::crowded_and_taken, Any, OneKernel, Counted, 240 s, "4,300 addresses of Services on a dummy crowd no own one out; a pod that gives itself another's address, the host's and 3,000 more takes nothing from anybody and is named, once";
    // One kernel, and the next: whose an entry was is the agent's to know, and what NAT did is in any listing.
    address_reused reused::address, Any, OneKernel, Counted, 120 s, "a pod's address goes to the next pod: the entries of the first stay its own in `table --by owner`, as in the metrics";
    // One kernel: what a census finds is decided by the same code on each.
    nat_ports nat::ports, Any, OneKernel, Counted, 120 s, "ports that source NAT uses towards one destination, as the metrics have them: as many as connections, and when none is left";
    led_astray reused::led_astray, Any, OneKernel, Counted, 180 s, "a published UDP port whose pod was made anew, and SNAT to an address that the node had: the doctor finds what still leads there, its commands mend it, and another node's pod is not judged";
    // Of the kernel: whether it tells by itself which namespace is the host's, and what it lets be seen.
    host_without_ptrace host::without_ptrace, Any, EachKernel, Counted, 120 s, "without CAP_SYS_PTRACE, in another network namespace than the host's: the host's table and flows are right, or said not to be seen; never the agent's own instead";
    // One kernel: the profile is the runtimes', and what it refuses is the same on all.
    host_under_apparmor host::under_apparmor, Any, OneKernel, Counted, 120 s, "the same under the AppArmor profile that container runtimes give: it is named, with what to do";
    no_btf degraded::no_btf, Any, OneKernel, Counted, 240 s, "no BTF: tables and the kernel's own statistics go on, and the rest once there is BTF";
    owners_churn pods::churn, Any, OneKernel, Counted, 400 s, "300 pods made and deleted at 5 a second, addresses used again after a second or two: no count on a wrong pod, nothing left";
    // Of the kernel: where it tells whose socket a packet is of. Two CPUs: many senders at once.
    owners_exact pods::exact, Each, PodKernels, Real, 900 s, "20 pods of containerd (12 on further kernels), a Service, a host network, own rules, IPv6, from outside: every count by owner is the generators' and the tables'";
    // One kernel: who is charged is shown above on three; this shows how soon.
    owners_incident pods::incident, Any, OnePodKernel, Real, 900 s, "an aggregating pod fills the table: named within 2 s, drops are charged to those who lost them";
    // One kernel: victim and cause, which `nested_softirq` shows on each, and whose pods they are.
    owners_attacker pods::attacker, Any, OnePodKernel, Real, 900 s, "a pod floods, a quiet one loses its entries: victim and cause of each eviction are right";
}
