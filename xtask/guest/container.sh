# The image in a real container runtime, with the rights that deploy/kubernetes gives it, beside two pods of which one fills the table; and a real
# Prometheus with the rules of deploy/prometheus, and Alertmanager. Before this come, as variables: `variants` (name and capabilities of each),
# `image`. Ends with a failure as soon as something is not as it should be.
set -eu

limit=26000
flows=30000
rate=300

on_failure() { tail -n 20 /tmp/agent.log /tmp/prometheus.log /tmp/alertmanager.log /tmp/containerd.log; }

modprobe nf_conntrack
modprobe overlay
echo "$limit" >/proc/sys/net/netfilter/nf_conntrack_max
echo 900 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /var/lib/containerd /run/netns /var/log/pods /var/lib/ctpressure
mount -t tmpfs tmpfs /var/lib/containerd
ip link set lo up

step 'containerd takes the image'
containerd >/tmp/containerd.log 2>&1 &
wait_for 120 'containerd' ctr version
ctr -n k8s.io images import /image.tar
ctr -n k8s.io images ls -q | grep -qxF "$image" || fail "no $image in containerd"

step 'two pods, shop/aggregator and shop/web'
pod aggregator 0f2b8c1e-5d3a-4e6f-9a7b-1c2d3e4f5a6b 1
pod web 7a1d9e3c-2b4f-4c8d-8e6a-9f0b1c2d3e4f 2
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add outside type dummy
ip addr add 10.96.255.254/16 dev outside
ip link set outside up
ip neigh replace 10.96.0.10 lladdr 02:00:00:00:00:01 dev outside nud permanent
iptables -A FORWARD -m conntrack --ctstate NEW -j ACCEPT
send() { ip netns exec "$1" ctgen send --protocol udp --source "10.42.$2.2/32" --destination 10.96.0.10/32 --flows "$3" --rate "$4"; }

# agent NAME CAPABILITY...: begins it as the DaemonSet does
agent() {
    name=$1
    shift
    capabilities=
    for capability in "$@"; do capabilities="$capabilities --cap-add CAP_$capability"; done
    # What ctr gives by itself.
    for capability in CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE; do
        case " $* " in
        *" $capability "*) ;;
        *) capabilities="$capabilities --cap-drop CAP_$capability" ;;
        esac
    done
    mkdir -p /tmp/socket
    # shellcheck disable=SC2086
    ctr -n k8s.io run --detach --read-only --seccomp $capabilities \
        --log-uri "file:///tmp/agent.log" \
        --cgroup "/kubepods/burstable/pod11111111-2222-4333-8444-555555555555/$name" \
        --with-ns pid:/proc/1/ns/pid \
        --mount type=bind,src=/sys/fs/cgroup,dst=/sys/fs/cgroup,options=rbind:ro \
        --mount type=bind,src=/run/netns,dst=/run/netns,options=rbind:rslave:ro \
        --mount type=bind,src=/var/log/pods,dst=/var/log/pods,options=rbind:ro \
        --mount type=bind,src=/tmp/socket,dst=/run/ctpressure,options=rbind:rw \
        --mount type=bind,src=/var/lib/ctpressure,dst=/var/lib/ctpressure,options=rbind:rw \
        --env CTPRESSURE_JOURNAL=/var/lib/ctpressure \
        "$image" "$name" /ctpressure run --log=json
    pid=$(ctr -n k8s.io tasks ls | awk -v name="$name" '$1 == name { print $2 }')
}
inside() { nsenter --net="/proc/$pid/ns/net" "$@"; }
scrape() { inside wget -q -O /tmp/metrics http://127.0.0.1:9743/metrics; }
ready() { inside wget -q -O /dev/null http://127.0.0.1:9743/readyz; }
end_agent() {
    before=$(cut -d' ' -f1 /proc/uptime)
    ctr -n k8s.io tasks kill --signal SIGTERM "$name"
    wait_for 20 'the end of the agent' sh -c "! kill -0 $pid"
    after=$(cut -d' ' -f1 /proc/uptime)
    ctr -n k8s.io containers rm "$name" 2>/dev/null || { sleep 2; ctr -n k8s.io tasks rm "$name" || true; ctr -n k8s.io containers rm "$name"; }
    left=$(bpftool prog list | grep -c tracing || true)
    printf 'ended after %s s (guest); programs left in the kernel: %s\n' "$(echo "$before $after" | awk '{ print $2 - $1 }')" "$left"
    [ "$left" = 0 ] || fail 'programs are left in the kernel'
}

# try NAME PARANOID CAPABILITY...
try() {
    tried=$1
    echo "$2" >/proc/sys/kernel/perf_event_paranoid
    shift 2
    rm -f /tmp/agent.log
    step "variant $tried: $*, seccomp as the runtime has it, read-only root"
    agent "$tried" "$@"
    wait_for 120 'the agent ready' ready
    inside ip link set lo up
    wait_for 60 'the pods known' sh -c "nsenter --net=/proc/$pid/ns/net wget -q -O - http://127.0.0.1:9743/metrics | grep -q 'pod=\"web\"'"
    scrape
    before=$(metric ctpressure_inserts_total 'pod="web"')
    send web 2 500 500 >/dev/null
    sleep 3
    scrape
    counted=$(($(metric ctpressure_inserts_total 'pod="web"') - before))
    printf 'inserts of shop/web: %s of 500\n' "$counted"
    [ "$counted" = 500 ] || fail 'the count is not right'
    grep '^ctpressure_probe_attached' /tmp/metrics
    grep -E '"level":"(WARN|ERROR)"' /tmp/agent.log | sed 's/^/  it says: /' || true
    [ "$(metric ctpressure_journal_writing)" = 1 ] || fail 'the journal is not written'
    printf 'journal: %s bytes\n' "$(metric ctpressure_journal_bytes)"
    awk '/^Cap(Prm|Eff|Bnd)|^Seccomp:|^NoNewPrivs/' "/proc/$pid/status"
    printf 'memory of its control group, kernel part and all: %s bytes, peak %s\n' \
        "$(cat "/sys/fs/cgroup/kubepods/burstable/pod11111111-2222-4333-8444-555555555555/$tried/memory.current" 2>/dev/null || echo '?')" \
        "$(cat "/sys/fs/cgroup/kubepods/burstable/pod11111111-2222-4333-8444-555555555555/$tried/memory.peak" 2>/dev/null || echo '?')"
    ctr -n k8s.io tasks exec --exec-id look "$tried" /ctpressure top --once | head -n 14
    conntrack -F >/dev/null 2>&1
}

for variant in $variants; do
    # name:paranoid:capability,capability
    capabilities=${variant##*:}
    rest=${variant%:*}
    # shellcheck disable=SC2086
    try "${rest%%:*}" "${rest##*:}" $(echo "$capabilities" | tr ',' ' ')
    [ "$variant" = "${variants##* }" ] || end_agent
done

step 'Prometheus and Alertmanager, with the rules of deploy/prometheus'
begin_prometheus /prometheus/prometheus.yaml

step "shop/aggregator opens $flows flows at $rate a second; $limit fit"
send web 2 3000 20 >/dev/null &
send aggregator 1 "$flows" "$rate" >/dev/null &
wait_for_alert CtpressureTableFills pending '"netns":"host"' '"severity":"critical"'
wait_for_alert CtpressureTableFills firing '"netns":"host"' '"severity":"critical"'
wait_for_alert CtpressureConnectionsEvicted firing '"pod":"aggregator"' '"culprit":"shop/aggregator"'
wait_for_alert CtpressurePacketsDropped firing '"pod":"aggregator"' '"culprit":"shop/aggregator"'
wait_for 120 'Alertmanager has it' alertmanager_has CtpressurePacketsDropped
echo 'Alertmanager has it'
one_page

step 'each query of the dashboard'
empty=0 total=0
while read -r query; do
    total=$((total + 1))
    answer=$(ask_prometheus "query?query=$query") || fail "refused: $query"
    case $answer in
    *'"result":[]'*) empty=$((empty + 1)); echo "no data: $query" ;;
    esac
done </prometheus/queries
echo "$total queries, $empty without data"
[ "$empty" -le 1 ] || fail 'queries of the dashboard return no data'
scrape
lines=$(wc -l </tmp/agent.log)
printf '%s evictions and %s drops later the agent has logged %s lines\n' "$(metric ctpressure_evictions_total 'role="victim"')" \
    "$(metric ctpressure_drops_total)" "$lines"
[ "$lines" -le 50 ] || fail 'a storm of events became a storm of log lines'
echo 10000000 >/proc/sys/net/netfilter/nf_conntrack_max
step 'the journal, after all that'
ctr -n k8s.io tasks exec --exec-id report "$name" /ctpressure report >/tmp/report || fail 'the journal can not be read'
cat /tmp/report
grep -q ' host  *full ' /tmp/report || fail 'the journal does not say that the table was full'
end_agent
step 'all of it as it should be'
