# How long the kernel has the first packet of a flow while all entries of a table are read on another CPU: over the hash table, by
# `conntrack -L`, and not at all. By the guest's real clock.
set -e
for module in nf_conntrack nf_conntrack_netlink nf_tables nft_ct dummy; do modprobe "$module"; done
echo 1200000 > /proc/sys/net/netfilter/nf_conntrack_max
echo 262144 > /proc/sys/net/netfilter/nf_conntrack_buckets
for timeout in /proc/sys/net/netfilter/nf_conntrack_*timeout*; do echo 86400 > "$timeout"; done
ip link add ctp0 type dummy
ip link set ctp0 up
ip addr add 192.0.2.1/32 dev ctp0
ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev ctp0
ip route add 198.18.0.0/15 via 192.0.2.254 dev ctp0 onlink
nft -f - <<RULES
table inet ctp {
  chain track { type filter hook output priority filter; ct state new accept; }
}
RULES
entries=250000 rate=1000 flows=15000
ctgen send --protocol udp --flows "$entries" > /dev/null
first=$entries
measure() {
    name=$1
    shift
    if [ $# -gt 0 ]; then
        (while [ ! -e /tmp/over ]; do taskset -c 1 "$@" > /dev/null 2>&1; echo >> /tmp/reads; done) &
    fi
    : > /tmp/reads
    sleep 1
    sent=$(ctgen send --protocol udp --flows "$flows" --first "$first" --rate "$rate" --cpus 0 --times)
    touch /tmp/over
    wait
    rm /tmp/over
    first=$((first + flows))
    echo "LATENCY $name $(wc -l < /tmp/reads) $sent"
}
for round in 1 2 3; do
    measure none
    measure hash ctpressure table --census hash -o json
    measure ctnetlink ctpressure table --census ctnetlink -o json
    measure conntrack conntrack -L
done
echo "LATENCY DONE"
