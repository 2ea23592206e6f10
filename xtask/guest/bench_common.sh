# What the benchmarks of the kernel side have in common. They run inside a guest whose clock counts instructions
# (-icount shift=0, one CPU): a nanosecond is an instruction. Each contestant is measured alone, RUNS times. Every
# figure is a line
#   BENCH <contestant> <send|end> <JSON of ctgen>
# what had to be counted for an owner is a line
#   BENCH <contestant> charged <JSON>
# and what can't be measured is a line "BENCH <contestant> skipped <why>".
set -u

FLOWS=20000
RUNS=3
LISTEN=127.0.0.1:9743
# Arguments of ctgen, and the control group that it runs in ("": this one).
GENERATOR=
GROUP=
# The control groups of an agent, and of who sends at an ordinary rate.
AGENT=/sys/fs/cgroup/bench-agent
SENDER=/sys/fs/cgroup/bench-sender
# Flows of an ordinary node, a second, and for how many seconds: what the agent does every 6, 10 and 15 s is in 30 s equally often.
RATE=300
CALM=29
# Seconds that an agent has for its first census.
SETTLE=15
# The process that is measured besides the kernel; "": none.
peer=
# Empties the table after each run.
empty() { conntrack -F >/dev/null 2>&1; }

# Conntrack in this namespace without any rule: nothing but tracking is measured.
modprobe nf_conntrack enable_hooks=1 || exit 1
modprobe nf_conntrack_netlink || exit 1
echo 262144 >/sys/module/nf_conntrack/parameters/hashsize
echo 262144 >/proc/sys/net/netfilter/nf_conntrack_max
# No entry may expire inside a measurement.
echo 600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout

mkdir -p "$AGENT" "$SENDER"

skipped() { echo "BENCH $1 skipped $2"; }

# generate COMMAND: ctgen, in the control group of the contestant.
generate() {
    # shellcheck disable=SC2086,SC2016 # words on purpose; the inner shell's variables
    if [ -n "$GROUP" ]; then
        sh -c 'echo $$ >"$0/cgroup.procs" && exec ctgen "$@"' "$GROUP" "$1" --flows "$FLOWS" $GENERATOR
    else
        ctgen "$1" --flows "$FLOWS" $GENERATOR
    fi
}

runs() {
    for kind in send end; do
        # Not measured: pages, caches and what the kernel still does in the background settle.
        generate "bench-$kind" >/dev/null 2>&1
        empty
        run=0
        while [ "$run" -lt "$RUNS" ]; do
            run=$((run + 1))
            if ! result=$(generate "bench-$kind" 2>/tmp/ctgen.log); then
                skipped "$1" "ctgen bench-$kind: $(tail -n 1 /tmp/ctgen.log)"
                return
            fi
            echo "BENCH $1 $kind $result"
            empty
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
    peer=
}

# by_bpftrace NAME PROGRAM
by_bpftrace() {
    bpftrace -e "$2
BEGIN { printf(\"attached\\n\"); }" >/tmp/bpftrace.log 2>&1 &
    peer=$!
    if wait_for 600 grep -q attached /tmp/bpftrace.log; then
        # Its compiler's threads take a while to come to rest.
        sleep 10
        runs "$1"
    else
        skipped "$1" "not attached: $(tail -n 3 /tmp/bpftrace.log | tr '\n' ' ')"
    fi
    end_peer
}

metrics() { wget -q -O - "http://$LISTEN/metrics"; }

# agent NAME ARGUMENTS...: begins one, or says why not.
begin_agent() {
    name=$1
    shift
    # shellcheck disable=SC2016 # the inner shell's variables
    sh -c 'echo $$ >"$0/cgroup.procs" && exec ctpressure run "$@"' "$AGENT" --listen "$LISTEN" "$@" >/tmp/peer.log 2>&1 &
    peer=$!
    if ! wait_for 60 wget -q -O /dev/null "http://$LISTEN/readyz"; then
        skipped "$name" "not ready: $(tail -n 3 /tmp/peer.log | tr '\n' ' ')"
        end_peer
        return 1
    fi
    # The first samples are taken; what follows is the steady state.
    sleep 3
}

# used GROUP: CPU time of a control group, nanoseconds.
used() { awk '/^usage_usec/ { printf "%d000", $2 }' "$1/cpu.stat"; }

# How many censuses the agent has made; nothing where there is no agent.
censuses() {
    [ -z "$peer" ] || ctpressure status 2>/dev/null |
        awk '/"census": \{/ { found = 1 } found && /"times"/ { gsub(/[^0-9]/, ""); print; exit }'
}

# Waits until the agent has just made one: then there is none for a minute.
next_census() {
    [ -n "$peer" ] || return 0
    earlier=$(censuses)
    for second in $(seq 90); do
        sleep 1
        latest=$(censuses)
        [ "$latest" = "$earlier" ] || break
    done
    [ -n "$earlier" ] && [ -n "$latest" ] && [ "$latest" -gt "$earlier" ]
}

# undisturbed COMMAND: what the agent used in $agent, while that ran and until half a minute was over, in which there was no census:
# that costs by the entries that are there, not by the flow.
undisturbed() {
    for try in 1 2 3; do
        next_census || return
        counted=$(censuses)
        empty
        sleep 3
        agent_before=$(used "$AGENT")
        sleep $((CALM + 1)) &
        half=$!
        "$1" || return
        wait "$half"
        agent=$(($(used "$AGENT") - agent_before))
        [ "$(censuses)" != "$counted" ] || return 0
    done
    return 1
}

# Sends flows at an ordinary rate; what their sender used is in $sent.
send_calmly() {
    sender_before=$(used "$SENDER")
    # shellcheck disable=SC2016 # the inner shell's variables
    sh -c 'echo $$ >"$0/cgroup.procs" && exec ctgen "$@"' "$SENDER" send \
        --source 10.42.0.1/32 --rate "$RATE" --flows $((RATE * CALM)) >/tmp/ctgen.log 2>&1 || return
    sent=$(($(used "$SENDER") - sender_before))
}

# calm SENT WHOLE: what a flow costs at an ordinary rate: its sender, and with what the agent does for it, above what it does when
# nothing is sent.
calm() {
    : >/tmp/ctgen.log
    for run in $(seq "$RUNS"); do
        if ! { undisturbed : && idle=$agent && undisturbed send_calmly; }; then
            skipped "$1" "ctgen send, or no half a minute between two censuses: $(tail -n 1 /tmp/ctgen.log)"
            return
        fi
        echo "BENCH $1 send {\"flows\":$((RATE * CALM)),\"nanoseconds\":$sent}"
        echo "BENCH $2 send {\"flows\":$((RATE * CALM)),\"nanoseconds\":$((sent + agent - idle))}"
    done
    empty
}

# calm_agent SENT WHOLE ARGUMENTS...
calm_agent() {
    sent_name=$1
    shift
    begin_agent "$@" || return
    sleep "$SETTLE"
    calm "$sent_name" "$1"
    show_agent
    end_peer
}

# What it lost and attached, for the person who doubts a figure.
show_agent() {
    metrics | grep -E '^ctpressure_(events_lost|probe_attached|inserts_total|deletes_total)' >&2
}

# inserts OWNER: of an owner, by a label of its series; all of them with "".
inserts() {
    metrics | awk -v owner="$1" '/^ctpressure_inserts_total/ && (owner == "" || index($0, owner)) { sum += $NF } END { printf "%d", sum }'
}

# agent_of OWNER NAME ARGUMENTS...: one that has to charge all flows to that owner.
agent_of() {
    owner=$1
    shift
    begin_agent "$@" || return
    # Everybody is found, and the census says that the addresses have no earlier entries.
    sleep "$SETTLE"
    before=$(inserts "$owner") before_all=$(inserts '')
    runs "$1"
    sleep 3
    echo "BENCH $1 charged {\"inserts\":$(($(inserts '') - before_all)),\"charged\":$(($(inserts "$owner") - before))}"
    show_agent
    end_peer
}

# pods FIRST LAST: a network namespace with an address of IPv4 and one of IPv6 each, one process in it, in a control group and with
# a log folder that are named as containerd and the kubelet name them.
pods() {
    number=$1
    while [ "$number" -le "$2" ]; do
        uid=$(printf '0b5e7a3c-52f0-4d19-8b64-%012d' "$number")
        group=/sys/fs/cgroup/kubepods/burstable/pod$uid/$(printf '%064d' "$number")
        mkdir -p "$group" "/var/log/pods/bench_pod-${number}_$uid"
        # shellcheck disable=SC2016 # the inner shell's variables
        sh -c 'echo $$ >"$0/cgroup.procs" && exec unshare --net sh -c "
            ip link add eth0 type dummy
            ip addr add 10.42.0.$1/32 dev eth0
            ip addr add fd00:10:42::$1/128 dev eth0
            ip link set eth0 up
            echo up >/tmp/pod
            exec sleep 1000000"' "$group" "$number" </dev/null >/dev/null 2>&1 &
        tries=0
        while ! rm /tmp/pod 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 500 ] || { echo "pod $number does not come up" >&2; exit 1; }
            sleep 0.02
        done
        number=$((number + 1))
    done
}

# After the boot the kernel still works in the background; on one CPU that would count as ours.
sleep 10
