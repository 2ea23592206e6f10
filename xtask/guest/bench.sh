# What ctpressure and its peers cost, on an empty table. See bench_common.sh, which runs before.

modprobe dummy || exit 1

# From the address of a pod, though sent by the host: so that there is an owner to look up.
pods 1 1
GENERATOR='--source 10.42.0.1'
agent() { agent_of 'pod="pod-1"' "$@"; }

runs bare
agent ctpressure-fentry --mechanism fentry
agent ctpressure-kprobe --mechanism kprobe
agent ctpressure-fentry-armed --mechanism fentry --arm always
agent ctpressure-kprobe-armed --mechanism kprobe --arm always
agent ctpressure-fentry-records --mechanism fentry --insert-budget 1000000
agent ctpressure-kprobe-records --mechanism kprobe --insert-budget 1000000

# As an ordinary node has them.
ip link add calm type dummy && ip link set calm up || exit 1
ip addr add 192.0.2.1/32 dev calm && ip route add 198.18.0.0/15 dev calm || exit 1
calm calm-bare-sent calm-bare-whole
calm_agent calm-fentry-sent calm-fentry-whole --mechanism fentry
calm_agent calm-kprobe-sent calm-kprobe-whole --mechanism kprobe

# What one would write by hand: who opens and ends how many, by the source address; then just how many.
insert=nf_conntrack:__nf_conntrack_hash_insert delete=nf_conntrack:nf_ct_delete
source='->tuplehash[0].tuple.src.u3.ip'
by_bpftrace bpftrace-fentry-source "
fentry:$insert { @inserts[args.ct$source] = count(); }
fentry:$delete { @deletes[args.ct$source] = count(); }"
by_bpftrace bpftrace-kprobe-source "
kprobe:$insert { @inserts[((struct nf_conn *)arg0)$source] = count(); }
kprobe:$delete { @deletes[((struct nf_conn *)arg0)$source] = count(); }"
by_bpftrace bpftrace-fentry-counts "
fentry:$insert { @inserts = count(); }
fentry:$delete { @deletes = count(); }"

conntrack -E -e NEW >/tmp/events.log 2>&1 &
peer=$!
sleep 3
if kill -0 "$peer" 2>/dev/null; then
    runs conntrack-events
else
    skipped conntrack-events "$(tail -n 1 /tmp/events.log)"
fi
end_peer
sleep 3
runs bare-again
echo 'BENCH DONE'
