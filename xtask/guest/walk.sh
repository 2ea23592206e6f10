# What it takes to read all entries of a table: instructions, since the guest's clock counts them, in millions.
set -e
for module in nf_conntrack nf_conntrack_netlink nf_tables nft_ct dummy; do modprobe "$module"; done
echo 1200000 > /proc/sys/net/netfilter/nf_conntrack_max
for timeout in /proc/sys/net/netfilter/nf_conntrack_*timeout*; do echo 86400 > "$timeout"; done
ip link add ctp0 type dummy
ip link set ctp0 up
ip addr add 192.0.2.1/32 dev ctp0
ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev ctp0
ip route add 198.18.0.0/15 via 192.0.2.254 dev ctp0 onlink
ip -6 addr add fd00:c7::1/128 dev ctp0 nodad
ip -6 neigh add fe80::1 lladdr 02:00:00:00:00:01 nud permanent dev ctp0
ip -6 route add fd00:c7::/32 via fe80::1 dev ctp0 onlink
nft -f - <<RULES
table inet ctp {
  chain track { type filter hook output priority filter; ct state new accept; }
}
RULES
# Name, then the command. User and system time; the most memory.
measure() {
    name=$1
    shift
    busybox time -o /tmp/time -f '%U %S %M' "$@" > /tmp/out 2>/dev/null
    echo "WALK $entries $kind $(cat /tmp/time) $name"
}
measure_all() {
    [ "$(cat /proc/sys/net/netfilter/nf_conntrack_count)" = "$entries" ]
    measure conntrack conntrack -L
    measure ctnetlink ctpressure table --census ctnetlink -o json
    measure hash ctpressure table --census hash -o json
    echo "WALK-FOUND $entries $kind $(sed 's/.*"cpu_held_ns":\([0-9]*\).*/\1/' /tmp/out) $(sed 's/.*"seen":\([0-9]*\).*/\1/' /tmp/out)"
}
send() { ctgen send --protocol udp,tcp,icmp,sctp --family 4,6 "$@" > /dev/null; }
# As many buckets as the kernel gives to such a table.
echo 262144 > /proc/sys/net/netfilter/nf_conntrack_buckets
# From an address of its own each: no two are alike but for the port.
entries=250000 kind=distinct
send --source-ports 1024 --flows "$entries"
measure_all
conntrack -F 2> /dev/null
kind=alike
send --flows "$entries"
measure_all
echo 1048576 > /proc/sys/net/netfilter/nf_conntrack_buckets
sent=$entries entries=1000000
send --first "$sent" --flows $((entries - sent))
measure_all
echo "WALK DONE"
