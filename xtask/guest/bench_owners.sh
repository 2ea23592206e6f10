# What it costs that entries have owners. See bench_common.sh, which runs before.
modprobe dummy || exit 1

FLOWS=10000
FIRST_POD=10.42.0.1
HOST=10.99.0.1

# From the address of a pod, though sent by the host: the path through the kernel is the same for all.
GENERATOR="--source $FIRST_POD"
runs bare-pod
pods 1 1
agent_of 'pod="pod-1"' owners-1-fentry --mechanism fentry
agent_of 'pod="pod-1"' owners-1-kprobe --mechanism kprobe
pods 2 250
agent_of 'pod="pod-1"' owners-250-fentry --mechanism fentry
agent_of 'pod="pod-1"' owners-250-kprobe --mechanism kprobe

# Over IPv6, to addresses that are the host's as 127.0.0.0/8 is.
ip -6 route add local fd00:c7::/64 dev lo || exit 1
GENERATOR='--source fd00:10:42::1 --destination fd00:c7::1/64'
runs bare-ipv6
agent_of 'pod="pod-1"' ipv6-fentry --mechanism fentry
agent_of 'pod="pod-1"' ipv6-kprobe --mechanism kprobe

# From an address of the host: the socket's control group tells whose.
ip link add bench type dummy
ip addr add $HOST/32 dev bench
ip link set bench up
GENERATOR="--source $HOST"
runs bare-host
agent_of 'owner_kind="host"' host-fentry --mechanism fentry
agent_of 'owner_kind="host"' host-kprobe --mechanism kprobe
GROUP=/sys/fs/cgroup/system.slice/bench.service
mkdir -p "$GROUP"
# The service itself; only what runs is looked for.
# shellcheck disable=SC2016 # the inner shell's variables
sh -c 'echo $$ >"$0/cgroup.procs" && exec sleep 1000000' "$GROUP" </dev/null >/dev/null 2>&1 &
agent_of 'unit="bench.service"' unit-fentry --mechanism fentry
agent_of 'unit="bench.service"' unit-kprobe --mechanism kprobe
GROUP=

# From an address that nobody has to one that a rule translates to a pod's: the owner is found by the server. Ports differ, so that
# NAT has none to look for.
ip addr add 192.0.2.1/32 dev bench
ip neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev bench
ip route add 198.18.0.1/32 via 192.0.2.254 dev bench onlink || exit 1
ip route add "$FIRST_POD/32" via 192.0.2.254 dev bench onlink || exit 1
nft -f - <<END || exit 1
table ip bench {
    chain output {
        type nat hook output priority dstnat
        ip daddr 198.18.0.1 dnat to $FIRST_POD
    }
}
END
GENERATOR='--source 203.0.113.1 --destination 198.18.0.1/32 --destination-ports 10000-59999'
runs bare-server
agent_of 'pod="pod-1"' server-fentry --mechanism fentry
agent_of 'pod="pod-1"' server-kprobe --mechanism kprobe
echo 'BENCH DONE'
