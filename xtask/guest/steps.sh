# What the scripts of guests that show something have in common. A script may have `on_failure`, which prints what helps.

step() { printf '\n== %s s: %s\n' "$(cut -d. -f1 /proc/uptime)" "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    on_failure >&2 2>/dev/null || true
    exit 1
}
# wait_for SECONDS WHAT COMMAND...
wait_for() {
    seconds=$1 what=$2
    shift 2
    end=$(($(cut -d. -f1 /proc/uptime) + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || fail "$what: not within $seconds s"
        sleep 0.5
    done
}
# metric NAME LABEL...: the sum of the samples in /tmp/metrics that have all labels
metric() {
    awk -v wanted="$*" 'BEGIN { count = split(wanted, labels, " ") }
        $0 !~ "^" labels[1] "[{ ]" { next }
        { for (i = 2; i <= count; i++) if (index($0, labels[i]) == 0) next; sum += $NF }
        END { printf "%.0f", sum }' /tmp/metrics
}
# pod NAME UID NUMBER: a network namespace, and a process in it whose control group is named as kubelet and containerd name it
pod() {
    ip netns add "$1"
    ip link add "pod$3" type veth peer name eth0 netns "$1"
    ip addr add "10.42.$3.1/24" dev "pod$3"
    ip link set "pod$3" up
    ip -n "$1" addr add "10.42.$3.2/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" link set lo up
    ip -n "$1" route add default via "10.42.$3.1"
    cgroup=/sys/fs/cgroup/kubepods/burstable/pod$2/main
    mkdir -p "$cgroup" "/var/log/pods/shop_$1_$2"
    sh -c "echo \$\$ >$cgroup/cgroup.procs && exec nsenter --net=/run/netns/$1 sleep 6000" &
}
# Prometheus and Alertmanager of the guest: `inside` runs a command where they are.
# begin_prometheus FOLDER/CONFIGURATION: with the rules and the configuration of Alertmanager beside it, looking every 5 s
begin_prometheus() {
    mkdir -p /tmp/prometheus /tmp/alertmanager
    own=${1%/*}/own.yaml
    sed 's/: 15s/: 5s/' "$1" >"$own"
    printf 'alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: [127.0.0.1:9093]\n' >>"$own"
    inside prometheus-alertmanager --config.file="${1%/*}/alertmanager.yaml" --storage.path=/tmp/alertmanager --cluster.listen-address= \
        --web.listen-address=127.0.0.1:9093 >/tmp/alertmanager.log 2>&1 &
    inside prometheus --config.file="$own" --storage.tsdb.path=/tmp/prometheus --web.listen-address=127.0.0.1:9090 >/tmp/prometheus.log 2>&1 &
    wait_for 180 'Prometheus scrapes the agent' has_target
    wait_for 60 'Alertmanager answers' inside wget -q -O /dev/null http://127.0.0.1:9093/-/ready
}
end_prometheus() { kill $(pidof prometheus prometheus-alertmanager); }
ask_prometheus() { inside wget -q -O - "http://127.0.0.1:9090/api/v1/$1"; }
has_target() { ask_prometheus targets | grep -q '"health":"up"'; }
# alert NAME STATE LABEL...
alert() {
    wanted=$1 state=$2
    ask_prometheus "query?query=ALERTS%7Balertname%3D%22$wanted%22%2Calertstate%3D%22$state%22%7D" >/tmp/answer
    shift 2
    grep -q '"metric"' /tmp/answer || return 1
    for label in "$@"; do grep -qF "$label" /tmp/answer || return 1; done
}
# wait_for_alert NAME STATE LABEL...
wait_for_alert() {
    wait_for 300 "$1 $2" alert "$@"
    echo "$*"
}
alertmanager_has() { inside wget -q -O - http://127.0.0.1:9093/api/v2/alerts | grep -q "$1"; }
# pages: how many pages whoever is on call has; Alertmanager makes one of a group of alerts
pages() { inside wget -q -O - 'http://127.0.0.1:9093/api/v2/alerts/groups?receiver=Critical' | grep -o '"receiver":{"name":"Critical"}' | wc -l; }
# one_page: all that fires is one page
one_page() {
    found=$(pages)
    echo "pages for this incident: $found"
    [ "$found" = 1 ] || fail 'one incident is not one page'
}
