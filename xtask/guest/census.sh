# A table of a million entries in a guest: how much memory a census takes.
set -e
for module in nf_conntrack nf_conntrack_netlink nf_tables nft_ct dummy; do modprobe "$module"; done
echo 1200000 > /proc/sys/net/netfilter/nf_conntrack_max
echo 1048576 > /proc/sys/net/netfilter/nf_conntrack_buckets
echo 86400 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout
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
# 65,536 sources: as many different keys as a grouping counts.
ctgen send --flows 1000000 --source-ports 1024-1033 > /dev/null
for arguments in "" "--by source,destination,state,age" "--list"; do
    # shellcheck disable=SC2086 # words on purpose
    busybox time -o /tmp/time -f %M ctpressure table $arguments > /tmp/out
    if [ "$arguments" = --list ]; then
        entries=$(wc -l < /tmp/out)
    else
        entries=$(sed -n '1s/^table [^:]*: \([0-9,]*\) entries.*/\1/p' /tmp/out | tr -d ,)
    fi
    echo "CENSUS $(cat /tmp/time) $entries table $arguments"
done
echo "CENSUS DONE"
