# What it costs that entries have owners. See bench_common.sh, which runs before.
modprobe dummy || exit 1

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
GROUP=/sys/fs/cgroup/system.slice/bench.service
mkdir -p "$GROUP"
GENERATOR="--source $HOST"
runs bare-unit
agent_of 'unit="bench.service"' unit-fentry --mechanism fentry
agent_of 'unit="bench.service"' unit-kprobe --mechanism kprobe
echo 'BENCH DONE'
