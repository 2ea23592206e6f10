-- The journal of one node, version 1. One SQLite database; each statement here is part of the contract with its
-- readers. `PRAGMA application_id` and `PRAGMA user_version` are set by the writer (see database.rs).
--
-- Time is wall time in milliseconds since 1970 (UTC): `datetime(at / 1000, 'unixepoch')`. The order in which things
-- happened is that of `tick.id`, also when the clock was set back.
--
-- Whatever was counted is in the rows as a difference: sums over any range are what happened in it. A second in which
-- something did not move has no row for it.

-- One life of the agent.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    started INTEGER NOT NULL,       -- wall time
    ended INTEGER,                  -- when it was stopped; NULL: it still runs, or was killed
    boot_id TEXT NOT NULL,          -- /proc/sys/kernel/random/boot_id: another one is another boot
    version TEXT NOT NULL,          -- of ctpressure
    kernel TEXT NOT NULL,           -- `uname -r`
    node TEXT NOT NULL,             -- host name
    ram_bytes INTEGER NOT NULL,     -- memory of the node; 0: not known
    cpus INTEGER NOT NULL           -- possible CPUs; 0: not known
) STRICT;

-- One sample: a second, or what is left of several. Every table below that has a `tick` hangs on it.
CREATE TABLE tick (
    id INTEGER PRIMARY KEY,         -- never reused, rises with real time
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,            -- wall time at its end
    span INTEGER NOT NULL,          -- milliseconds that it covers, by a clock that nobody sets
    level INTEGER NOT NULL,         -- 0: as sampled; 1: thinned to 10 s; 2: thinned to 60 s
    state INTEGER NOT NULL,         -- 0 waiting for conntrack, 1 attached, 2 degraded (the worst of the span: highest)
    table_limit INTEGER,            -- entries that each table may hold (0: unlimited), at the end; NULL: not known
    buckets INTEGER,
    table_bytes INTEGER,            -- kernel memory of entries and buckets
    inserts INTEGER NOT NULL,       -- of all owners together
    deletes INTEGER NOT NULL,
    evictions INTEGER NOT NULL,
    drops INTEGER NOT NULL          -- packets lost, all reasons
) STRICT;

CREATE INDEX tick_level ON tick (level);

-- A network namespace that had a table. The inode number may be used again for another one.
CREATE TABLE netns (
    id INTEGER PRIMARY KEY,
    inode INTEGER NOT NULL,
    name TEXT NOT NULL,             -- host, whose table it has (a pod's namespace/name), what it is kept as, or the inode number
    last_tick INTEGER NOT NULL,
    UNIQUE (inode, name)
) STRICT;

-- The table of one network namespace. A row for each tick in which it changed, and at least one a minute.
CREATE TABLE table_sample (
    tick INTEGER NOT NULL,
    netns INTEGER NOT NULL,
    entries INTEGER NOT NULL,       -- at the end
    entries_min INTEGER NOT NULL,
    entries_max INTEGER NOT NULL,
    pressure INTEGER NOT NULL,      -- 0 calm, 1 rising, 2 high, 3 full; the highest
    PRIMARY KEY (tick, netns)
) STRICT, WITHOUT ROWID;

-- The kernel's own statistics of one table. NULL: this kernel does not count it.
CREATE TABLE kernel_stat (
    tick INTEGER NOT NULL,
    netns INTEGER NOT NULL,
    found INTEGER NOT NULL,
    invalid INTEGER NOT NULL,
    insert_failed INTEGER NOT NULL,
    dropped INTEGER NOT NULL,       -- `drop`
    early_drop INTEGER NOT NULL,
    icmp_error INTEGER NOT NULL,
    search_restart INTEGER NOT NULL,
    clash_resolve INTEGER,
    chain_too_long INTEGER,
    PRIMARY KEY (tick, netns)
) STRICT, WITHOUT ROWID;

-- Who a count is attributed to. Names that become known later are filled in.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,             -- pod, cgroup, host, unknown
    uid TEXT NOT NULL,              -- of a pod; of a cgroup its path; else empty
    namespace TEXT NOT NULL,        -- of a pod
    pod TEXT NOT NULL,              -- its name; empty: not known yet
    unit TEXT NOT NULL,             -- systemd unit, or a container outside Kubernetes
    workload_kind TEXT,             -- Deployment, ...; NULL: not known
    workload TEXT,
    last_tick INTEGER NOT NULL,
    UNIQUE (kind, uid)
) STRICT;

-- What an owner's entries did. direction 0: egress, it opened them; 1: ingress, it is their real server.
CREATE TABLE flow (
    tick INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    direction INTEGER NOT NULL,
    inserts INTEGER NOT NULL,
    deletes INTEGER NOT NULL,
    live INTEGER NOT NULL,          -- entries at the end; written at least once a minute while there are any
    PRIMARY KEY (tick, owner, direction)
) STRICT, WITHOUT ROWID;

-- What an owner lost.
CREATE TABLE loss (
    tick INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    direction INTEGER NOT NULL,
    what INTEGER NOT NULL,          -- loss_kind.id
    number INTEGER NOT NULL,
    PRIMARY KEY (tick, owner, direction, what)
) STRICT, WITHOUT ROWID;

CREATE TABLE loss_kind (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
INSERT INTO loss_kind VALUES
    -- Packets, by reason. table_full_request lost no packet: ctnetlink or BPF was refused an entry.
    (1, 'table_full'), (2, 'clash'), (3, 'chain_too_long'), (4, 'dying'), (5, 'table_full_request'),
    -- Entries: its own that were evicted; anybody's that were evicted for its sake.
    (100, 'eviction_victim'), (101, 'eviction_cause'),
    -- Parts of table_full and of eviction_victim, of what was seen with detail: the first time that this happened to a
    -- flow, and again. A flow to which it did not happen for five to ten minutes, or since it did to 65,536 others, is new.
    (110, 'refused_first'), (111, 'refused_again'), (112, 'evicted_first'), (113, 'evicted_again');

-- States of an owner's entries, both directions, at each census (about once a minute); the owners with most entries.
CREATE TABLE state_mix (
    tick INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    state TEXT NOT NULL,
    entries INTEGER NOT NULL,
    PRIMARY KEY (tick, owner, state)
) STRICT, WITHOUT ROWID;

-- Where an owner's connections go, every 10 s; the foremost owners. The true count over about the last half minute is
-- between `count - error` and `count`.
CREATE TABLE destination (
    tick INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    what INTEGER NOT NULL,          -- 0: connections, real server after DNAT; 1: connections, Service address; 2: drops
    address TEXT NOT NULL,
    port INTEGER NOT NULL,          -- 0: the protocol has none
    protocol TEXT NOT NULL,
    count REAL NOT NULL,
    error REAL NOT NULL,
    PRIMARY KEY (tick, owner, what, address, port, protocol)
) STRICT, WITHOUT ROWID;

-- Packets lost, with detail: as many as fit; event_count says how many more there were.
CREATE TABLE drop_event (
    id INTEGER PRIMARY KEY,
    tick INTEGER NOT NULL,
    at INTEGER NOT NULL,
    netns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    owner INTEGER NOT NULL,
    direction INTEGER NOT NULL,
    protocol TEXT,                  -- these are NULL when the packet is not known
    source TEXT,
    source_port INTEGER,            -- ICMP: its id
    destination TEXT,
    destination_port INTEGER,       -- ICMP: type * 256 + code
    zone INTEGER NOT NULL,
    ifindex INTEGER,                -- NULL: sent from this host, or not known
    cgroup INTEGER                  -- cgroup v2 id of the sending socket; NULL: none, or not known
) STRICT;
CREATE INDEX drop_event_tick ON drop_event (tick);

-- Live entries removed to make room, with detail.
CREATE TABLE eviction_event (
    id INTEGER PRIMARY KEY,
    tick INTEGER NOT NULL,
    at INTEGER NOT NULL,
    netns INTEGER NOT NULL,
    victim INTEGER NOT NULL,        -- owner.id
    victim_direction INTEGER NOT NULL,
    cause INTEGER NOT NULL,         -- owner.id: whose new connection needed room
    cause_direction INTEGER NOT NULL,
    protocol TEXT,                  -- of the victim
    source TEXT,
    source_port INTEGER,
    destination TEXT,
    destination_port INTEGER,
    cause_protocol TEXT,
    cause_destination TEXT,
    cause_destination_port INTEGER,
    assured INTEGER NOT NULL,
    seen_reply INTEGER NOT NULL
) STRICT;
CREATE INDEX eviction_event_tick ON eviction_event (tick);

-- Events of a tick that came with detail: how many are here and how many are not.
CREATE TABLE event_count (
    tick INTEGER NOT NULL,
    kind INTEGER NOT NULL,          -- 0 drops, 1 evictions
    recorded INTEGER NOT NULL,
    not_recorded INTEGER NOT NULL,
    PRIMARY KEY (tick, kind)
) STRICT, WITHOUT ROWID;

-- What was not seen or not delivered, by the kinds of ctpressure_events_lost_total.
CREATE TABLE events_lost (
    tick INTEGER NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (tick, kind)
) STRICT, WITHOUT ROWID;

-- The limit or the buckets changed, or somebody of ours wanted them to.
CREATE TABLE limit_change (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,
    by TEXT NOT NULL,               -- controller (ours), hand (`ctpressure limit`), other (somebody else)
    who TEXT,                       -- process, unit or person as far as it is known
    limit_before INTEGER,
    limit_after INTEGER,
    buckets_before INTEGER,
    buckets_after INTEGER,
    result TEXT NOT NULL,           -- applied, refused, failed, reverted, would (dry run), seen (somebody else's)
    reason TEXT NOT NULL            -- a sentence; empty: not known
) STRICT;

-- Life of the agent, and of this file.
CREATE TABLE life (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,             -- start, stop, attached, waiting, degraded, hook, problem, clock, journal, verdict, contain
    detail TEXT NOT NULL            -- a sentence; of a hook JSON: event, function, mechanism, attached, reason; of a verdict
                                    -- JSON: netns, verdicts (what that table is full of that a higher limit would not help)
) STRICT;

-- Facts of the node: sysctls of conntrack and the like, at start and whenever one changed.
CREATE TABLE fact (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,
    name TEXT NOT NULL,             -- e.g. nf_conntrack_udp_timeout, entry_bytes
    value TEXT NOT NULL
) STRICT;

-- For people: names and times in words.
CREATE VIEW owner_name AS
    SELECT id, kind, CASE
        WHEN kind = 'pod' AND pod <> '' THEN namespace || '/' || pod
        WHEN kind = 'pod' THEN 'pod ' || uid
        WHEN kind = 'cgroup' THEN unit
        ELSE kind END AS name
    FROM owner;
CREATE VIEW tables AS
    SELECT datetime(tick.at / 1000, 'unixepoch') AS time, tick.at, tick.span / 1000.0 AS seconds, netns.name AS netns,
        entries, entries_min, entries_max, table_limit, buckets,
        CASE pressure WHEN 0 THEN 'calm' WHEN 1 THEN 'rising' WHEN 2 THEN 'high' ELSE 'full' END AS pressure
    FROM table_sample JOIN tick ON tick.id = table_sample.tick JOIN netns ON netns.id = table_sample.netns;
CREATE VIEW flows AS
    SELECT datetime(tick.at / 1000, 'unixepoch') AS time, tick.at, tick.span / 1000.0 AS seconds, owner_name.name AS owner,
        CASE direction WHEN 0 THEN 'egress' ELSE 'ingress' END AS direction, flow.inserts, flow.deletes, live
    FROM flow JOIN tick ON tick.id = flow.tick JOIN owner_name ON owner_name.id = flow.owner;
CREATE VIEW losses AS
    SELECT datetime(tick.at / 1000, 'unixepoch') AS time, tick.at, tick.span / 1000.0 AS seconds, owner_name.name AS owner,
        CASE direction WHEN 0 THEN 'egress' ELSE 'ingress' END AS direction, loss_kind.name AS what, number
    FROM loss JOIN tick ON tick.id = loss.tick JOIN owner_name ON owner_name.id = loss.owner
        JOIN loss_kind ON loss_kind.id = loss.what;
