# The demo, inside the guest: a pod without a limit of its own fills the table of its network namespace.
set -eu

limit=2000
flows=12000
metrics=http://127.0.0.1:9743/metrics

step() { printf '\n== %s\n' "$*"; }
metric() { wget -q -O - "$metrics" | awk -v name="$1" 'index($1, name) == 1 { sum += $2 } END { printf "%.0f", sum }'; }

modprobe nf_conntrack
step "kernel $(uname -r), conntrack limit set to $limit entries"
echo "$limit" >/proc/sys/net/netfilter/nf_conntrack_max

step 'a network namespace "pod", with a firewall rule that makes its kernel track connections'
ip netns add pod
ip link add pod0 type veth peer name eth0 netns pod
ip addr add 10.42.0.1/24 dev pod0
ip link set pod0 up
ip -n pod addr add 10.42.0.2/24 dev eth0
ip -n pod link set eth0 up
ip -n pod link set lo up
ip -n pod route add default via 10.42.0.1
# Nobody is there: what the pod sends goes nowhere, but each packet opens an entry.
ip -n pod neigh replace 10.42.0.1 lladdr "$(cat /sys/class/net/pod0/address)" dev eth0 nud permanent
ip netns exec pod iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT

step "ctpressure run"
ctpressure run --listen 127.0.0.1:9743 2>/tmp/run.log &
waited=0
until wget -q -O /dev/null http://127.0.0.1:9743/readyz 2>/dev/null; do
    waited=$((waited + 1))
    if [ "$waited" -gt 300 ]; then
        echo 'the agent did not become ready:' >&2
        cat /tmp/run.log >&2
        exit 1
    fi
    sleep 0.1
done

step "ctpressure watch, while the pod opens $flows UDP flows at 1,500 a second"
ctpressure watch >/tmp/watch.log 2>&1 &
watch=$!
# The stream of a table in trouble is long: shown is each kind's beginning, and how many more there were.
sleep 1
tail -n +1 -f /tmp/watch.log | awk '{ kind = $0 ~ /drop/ ? "drop" : $0 ~ /evict/ ? "eviction" : "insert"
    if (++seen[kind] <= 8) { print "  " $0; fflush() }
    else if (seen[kind] == 9) { print "  ... and more of kind " kind; fflush() } }' &
ip netns exec pod ctgen send --protocol udp --source 10.42.0.2/32 --destination 10.96.0.0/24 --destination-ports 53 --flows "$flows" --rate 1500 >/tmp/sent.json
sleep 2
kill "$watch" 2>/dev/null || true

step 'summary'
stat() { ip netns exec pod conntrack -S | awk -v name="$1=" '{ for (i = 1; i <= NF; i++) if (index($i, name) == 1) sum += substr($i, length(name) + 1) } END { printf "%.0f", sum }'; }
row() { printf '  %-28s %12s %12s   %s\n' "$1" "$2" "$3" "$4"; }
row '' ctpressure kernel "the kernel's own count"
row 'dropped, table full' "$(metric 'ctpressure_drops_total{reason="table_full"')" "$(stat drop)" "conntrack -S: drop"
row 'evicted early' "$(metric 'ctpressure_evictions_total{role="victim"')" "$(stat early_drop)" "conntrack -S: early_drop"
row 'entries in the pod'"'"'s table' "$(metric 'ctpressure_table_entries{netns="pod"')" "$(ip netns exec pod cat /proc/sys/net/netfilter/nf_conntrack_count)" "nf_conntrack_count"
row 'inserted' "$(metric ctpressure_inserts_total)" '-' "the kernel does not count them"
printf '\n  the pod itself: %s\n' "$(cat /tmp/sent.json)"
