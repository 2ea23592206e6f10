# What ctpressure and its peers cost, on an empty table. See bench_common.sh, which runs before.

modprobe dummy || exit 1

# From the address of a pod, though sent by the host: so that there is an owner to look up.
pods 1 1
GENERATOR='--source 10.42.0.1'
agent() { agent_of 'pod="pod-1"' "$@"; }

runs bare
agent ctpressure-fentry --mechanism fentry
agent ctpressure-kprobe --mechanism kprobe
agent ctpressure-fentry-records --mechanism fentry --insert-budget 1000000
agent ctpressure-kprobe-records --mechanism kprobe --insert-budget 1000000

# The same events, counted the way one would do by hand.
bpftrace -e '
kprobe:__nf_conntrack_alloc { @alloc_calls = count(); }
kretprobe:__nf_conntrack_alloc { @alloc_returns = count(); }
kprobe:__nf_conntrack_hash_insert { @inserts = count(); }
kprobe:nf_ct_delete { @deletes = count(); }
BEGIN { printf("attached\n"); }' >/tmp/bpftrace.log 2>&1 &
peer=$!
if wait_for 600 grep -q attached /tmp/bpftrace.log; then
    # Its compiler's threads take a while to come to rest.
    sleep 10
    runs bpftrace
else
    skipped bpftrace "not attached: $(tail -n 3 /tmp/bpftrace.log | tr '\n' ' ')"
fi
end_peer

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
