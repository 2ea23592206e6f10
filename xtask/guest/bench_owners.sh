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
echo 'BENCH DONE'
