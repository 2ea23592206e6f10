# The benchmark of the kernel side, inside a guest whose clock counts instructions (-icount shift=0, one CPU): a
# nanosecond is an instruction. Each contestant is measured alone, on an empty table, RUNS times. Every figure is a line
#   BENCH <contestant> <send|end> <JSON of ctgen>
# and what can't be measured is a line "BENCH <contestant> skipped <why>".
set -u

FLOWS=20000
RUNS=3
LISTEN=127.0.0.1:9743

# Conntrack in this namespace without any rule: nothing but tracking is measured.
modprobe nf_conntrack enable_hooks=1 || exit 1
modprobe nf_conntrack_netlink || exit 1
echo 262144 >/sys/module/nf_conntrack/parameters/hashsize
echo 262144 >/proc/sys/net/netfilter/nf_conntrack_max
# No entry may expire inside a measurement.
echo 600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout

skipped() { echo "BENCH $1 skipped $2"; }

runs() {
    for kind in send end; do
        # Not measured: pages, caches and what the kernel still does in the background settle.
        ctgen "bench-$kind" --flows "$FLOWS" >/dev/null 2>&1
        conntrack -F >/dev/null 2>&1
        run=0
        while [ "$run" -lt "$RUNS" ]; do
            run=$((run + 1))
            if ! result=$(ctgen "bench-$kind" --flows "$FLOWS" 2>/tmp/ctgen.log); then
                skipped "$1" "ctgen bench-$kind: $(tail -n 1 /tmp/ctgen.log)"
                return
            fi
            echo "BENCH $1 $kind $result"
            conntrack -F >/dev/null 2>&1
        done
    done
}

# wait_for SECONDS COMMAND...
wait_for() {
    tries=$(($1 * 5))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ] || ! kill -0 "$peer" 2>/dev/null; then
            return 1
        fi
        sleep 0.2
    done
}

end_peer() {
    kill "$peer" 2>/dev/null
    wait "$peer" 2>/dev/null
}

# agent NAME ARGUMENTS...
agent() {
    name=$1
    shift
    ctpressure run --listen "$LISTEN" "$@" >/tmp/peer.log 2>&1 &
    peer=$!
    if wait_for 60 wget -q -O /dev/null "http://$LISTEN/readyz"; then
        # The first samples are taken; what follows is the steady state.
        sleep 3
        runs "$name"
        # What it lost and attached, for the person who doubts a figure.
        wget -q -O - "http://$LISTEN/metrics" | grep -E '^ctpressure_(events_lost|probe_attached|inserts_total|deletes_total)' >&2
    else
        skipped "$name" "not ready: $(tail -n 3 /tmp/peer.log | tr '\n' ' ')"
    fi
    end_peer
}

# After the boot the kernel still works in the background; on one CPU that would count as ours.
sleep 10
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
