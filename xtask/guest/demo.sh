# The demo, inside the guest: one pod fills the conntrack table of the node, another one pays for it.
#
# The pods are what a container runtime makes of them as far as ctpressure can see: a network namespace each, a process
# in a cgroup that is named as kubelet and containerd name it, and a folder for its logs.
set -eu

limit=2000
flows=12000
metrics=http://127.0.0.1:9743/metrics


modprobe nf_conntrack
step "kernel $(uname -r), conntrack limit set to $limit entries"
echo "$limit" >/proc/sys/net/netfilter/nf_conntrack_max

step 'two pods, shop/aggregator and shop/web, behind the node'"'"'s firewall'
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || mount -t cgroup2 none /sys/fs/cgroup
pod aggregator 0f2b8c1e-5d3a-4e6f-9a7b-1c2d3e4f5a6b 1
pod web 7a1d9e3c-2b4f-4c8d-8e6a-9f0b1c2d3e4f 2
echo 1 >/proc/sys/net/ipv4/ip_forward
# Nobody is there: what the pods send goes nowhere, but each packet opens an entry.
ip link add outside type dummy
ip addr add 10.96.255.254/16 dev outside
ip link set outside up
ip neigh replace 10.96.0.10 lladdr 02:00:00:00:00:01 dev outside nud permanent
iptables -A FORWARD -m conntrack --ctstate NEW -j ACCEPT

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

step "ctpressure watch, while aggregator opens $flows UDP flows at 1,500 a second, and web 20 a second"
ctpressure watch >/tmp/watch.log 2>&1 &
watch=$!
# The stream of a table in trouble is long: shown is each kind's beginning, and how many more there were.
sleep 1
tail -n +1 -f /tmp/watch.log | awk '{ kind = $0 ~ / drop / ? "drop" : $0 ~ / evict / ? "eviction" : "" }
    kind == "" { next }
    { key = kind ($0 ~ /shop\/web/ ? " of shop/web" : "") }
    ++seen[key] <= 5 { print "  " $0; fflush() }
    seen[key] == 6 { print "  ... and more of kind " key; fflush() }' &
send() { ip netns exec "$1" ctgen send --protocol udp --source "10.42.$2.2/32" --destination 10.96.0.10/32 --flows "$3" --rate "$4"; }
send web 2 160 20 >/tmp/web.json &
send aggregator 1 "$flows" 1500 >/tmp/aggregator.json
wait $!
sleep 2
kill "$watch" 2>/dev/null || true
# Reading the metrics opens connections too: they need room now.
echo 10000 >/proc/sys/net/netfilter/nf_conntrack_max
sleep 2

step 'summary'
stat() { conntrack -S | awk -v name="$1=" '{ for (i = 1; i <= NF; i++) if (index($i, name) == 1) sum += substr($i, length(name) + 1) } END { printf "%.0f", sum }'; }
# Before the metrics are asked for, which opens an entry: what they say is of the last second, in which nothing moved.
held=$(cat /proc/sys/net/netfilter/nf_conntrack_count)
wget -q -O /tmp/metrics "$metrics"
row() { printf '  %-28s %12s %12s   %s\n' "$1" "$2" "$3" "$4"; }
row '' ctpressure kernel "the kernel's own count"
row 'packets dropped, table full' "$(metric ctpressure_drops_total 'reason="table_full"')" "$(stat drop)" "conntrack -S: drop"
row 'entries evicted early' "$(metric ctpressure_evictions_total 'role="victim"')" "$(stat early_drop)" "conntrack -S: early_drop"
row 'entries in the table' "$(metric ctpressure_table_entries 'netns="host"')" "$held" "nf_conntrack_count"
row 'entries inserted' "$(metric ctpressure_inserts_total)" '-' "the kernel does not count them"

printf '\n  %-18s %9s %9s %9s %9s %9s\n' 'who' 'inserted' 'holds' 'dropped' 'lost to' 'evicted'
printf '  %-18s %9s %9s %9s %9s %9s\n' '' '' '' 'packets' 'eviction' 'others'
for name in aggregator web; do
    printf '  %-18s %9s %9s %9s %9s %9s\n' "shop/$name" \
        "$(metric ctpressure_inserts_total "pod=\"$name\"")" \
        "$(metric ctpressure_entries "pod=\"$name\"")" \
        "$(metric ctpressure_drops_total "pod=\"$name\"")" \
        "$(metric ctpressure_evictions_total "pod=\"$name\"" 'role="victim"')" \
        "$(metric ctpressure_evictions_total "pod=\"$name\"" 'role="cause"')"
done
printf '\n  what the pods were told: aggregator %s\n                           web        %s\n' \
    "$(cat /tmp/aggregator.json)" "$(cat /tmp/web.json)"
