# The same flows into a table of a thousand entries and of a million. See bench_common.sh, which runs before.
modprobe dummy || exit 1
echo 1048576 >/sys/module/nf_conntrack/parameters/hashsize
# Far from three quarters of the limit: the probes that only matter while a table fills are not attached.
echo 2000000 >/proc/sys/net/netfilter/nf_conntrack_max
echo 86400 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout

# Where nobody answers.
ip link add bench type dummy
ip link set bench up
ip addr add 192.0.2.1/32 dev bench
ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev bench
ip route add 198.18.0.0/15 via 192.0.2.254 dev bench onlink

FLOWS=10000
SETTLE=40
GENERATOR='--source 10.42.0.1 --spare'
# The other entries stay.
empty() { :; }

# entries_are NUMBER
entries_are() {
    entries=$(cat /proc/sys/net/netfilter/nf_conntrack_count)
    [ "$entries" -ge "$1" ] && [ "$entries" -lt $(($1 + 100)) ] && return
    echo "the table has $entries entries, not $1" >&2
    exit 1
}

measure() {
    entries_are "$1"
    runs "entries-$1-bare"
    agent_of 'pod="pod-1"' "entries-$1-fentry" --mechanism fentry
    entries_are "$1"
}

pods 1 1
conntrack -F >/dev/null 2>&1
ctgen send --flows 1000 --source-ports 1024-1033 >/dev/null
measure 1000
ctgen send --flows 999000 --first 1000 --source-ports 1024-1033 >/dev/null
measure 1000000
echo 'BENCH DONE'
