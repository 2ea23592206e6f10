# A whole cluster on one node: etcd, API server, controllers, scheduler, kubelet with containerd. The image is imported, the manifests are
# applied as docs/installation.md says, and then it is looked at what the agent does for pods that the kubelet made, and what a Prometheus makes of
# it that scrapes it as deploy/prometheus says. Before this come, as variables: `variants` (folders in deploy/kubernetes), `image`, and `driver` (who
# makes control groups: cgroupfs, or systemd). Ends with a failure as soon as something is not as it should be.
set -eu

node=node-1
address=192.168.77.2
limit=6000
small=2000
export KUBECONFIG=/etc/kubernetes/admin.conf

on_failure() {
    kubectl get nodes,pods -A -o wide
    kubectl -n ctpressure describe pods | tail -n 40
    kubectl -n ctpressure logs daemonset/ctpressure --tail=20
    tail -n 15 /var/log/kube*.log /var/log/containerd.log /tmp/prometheus.log
}
# begin NAME ARGUMENT...
begin() {
    program=$1
    shift
    "$program" "$@" >"/var/log/$program.log" 2>&1 &
}

step 'a node with containerd'
modprobe overlay
# What the kubelet wants of a machine: mounts that can be shared, a file system that has a size, a name server to hand on.
mount --make-rshared /
mkdir -p /var/lib/kubelet /etc/kubernetes /run/netns /var/log/pods /var/log/containers
mount -t tmpfs tmpfs /var/lib/kubelet
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts || mount -t cgroup2 none /sys/fs/cgroup
hostname "$node"
printf 'nameserver %s\n' "$address" >/etc/resolv.conf
ip link set lo up
# It starts beside this script.
[ "$driver" != systemd ] || wait_for 60 'systemd' test -S /run/systemd/private
ctpressure-scenario node --cgroup-driver "$driver" || fail 'containerd'
ctr -n k8s.io images import /image.tar >/dev/null
ctr -n k8s.io images ls -q | grep -qxF "$image" || fail "no $image in containerd"

step 'the control plane'
certificates=/etc/kubernetes/certificates
echo 'secret,admin,1,system:masters' >/etc/kubernetes/tokens
begin etcd --data-dir=/var/lib/etcd
begin kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --insecure-port=0 \
    --advertise-address="$address" --cert-dir="$certificates" --token-auth-file=/etc/kubernetes/tokens --authorization-mode=RBAC \
    --service-cluster-ip-range=10.0.0.0/24 --allow-privileged=true --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$certificates/apiserver.key" --service-account-signing-key-file="$certificates/apiserver.key"
cat >"$KUBECONFIG" <<END
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "https://$address:6443", certificate-authority: $certificates/apiserver.crt}}]
users: [{name: admin, user: {token: secret}}]
contexts: [{name: here, context: {cluster: here, user: admin}}]
END
wait_for 480 'the API server' kubectl get namespace default
begin kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false --root-ca-file="$certificates/apiserver.crt" \
    --service-account-private-key-file="$certificates/apiserver.key" \
    --controllers=daemonset,deployment,replicaset,serviceaccount,serviceaccount-token,root-ca-cert-publisher,garbagecollector,nodelifecycle,namespace
begin kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false
cat >/etc/kubernetes/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: $driver
failSwapOn: false
evictionHard: {memory.available: 10Mi}
makeIPTablesUtilChains: false
enforceNodeAllocatable: []
END
begin kubelet --kubeconfig="$KUBECONFIG" --config=/etc/kubernetes/kubelet.yaml --container-runtime=remote \
    --container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override="$node" --node-ip="$address"
# In the place of kube-proxy: the Service by which pods find the API server.
for chain in PREROUTING OUTPUT; do
    iptables -t nat -A "$chain" -d 10.0.0.1/32 -p tcp --dport 443 -j DNAT --to-destination "$address:6443"
done
is_ready() { kubectl get node "$node" | grep -q ' Ready '; }
wait_for 240 'the node ready' is_ready

step 'two pods that a Deployment makes: shop/aggregator and shop/web'
kubectl create namespace shop
for name in aggregator web; do
    kubectl apply -f - <<END
apiVersion: apps/v1
kind: Deployment
metadata: {name: $name, namespace: shop}
spec:
  selector: {matchLabels: {app: $name}}
  template:
    metadata: {labels: {app: $name}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: ctpressure.test/ctgen:1
          imagePullPolicy: Never
          command: [/ctgen, serve]
          securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}
END
done
for name in aggregator web; do
    kubectl -n shop rollout status "deployment/$name" --timeout=240s || fail "$name"
done

# of NAMESPACE SELECTOR PATH: a field of the pod
of() { kubectl -n "$1" get pods -l "$2" --field-selector status.phase=Running -o "jsonpath={.items[0].$3}"; }
scrape() { wget -q -O /tmp/metrics "http://$(of ctpressure app.kubernetes.io/name=ctpressure status.podIP):9743/metrics"; }
# send NAME FLOWS RATE
send() {
    kubectl -n shop exec "deployment/$1" -- /ctgen send --protocol udp --source "$(of shop "app=$1" status.podIP)/32" \
        --destination 198.19.0.1/32 --flows "$2" --rate "$3" >/dev/null
}
# knows_web: the agent has the pod by its name
knows_web() { scrape && grep -q "pod=\"$web\"" /tmp/metrics; }
programs() { bpftool prog list | grep -c tracing || true; }
none() { [ "$(programs)" = 0 ]; }
one_agent() { [ "$(kubectl -n ctpressure get pods --no-headers | wc -l)" = 1 ] && scrape; }
# counts: 500 flows of a pod are 500 inserts
counts() {
    wait_for 120 'the agent knows the pods' knows_web
    before=$(metric ctpressure_inserts_total "pod=\"$web\"")
    send web 500 250
    sleep 3
    scrape
    counted=$(($(metric ctpressure_inserts_total "pod=\"$web\"") - before))
    printf 'inserts of %s: %s of 500\n' "$web" "$counted"
    [ "$counted" = 500 ] || fail 'the count is not right'
    grep "^ctpressure_entries.*pod=\"$web\"" /tmp/metrics | head -n 2
    kubectl -n ctpressure exec daemonset/ctpressure -- /ctpressure status | grep -A 20 '"problems"'
    conntrack -D -p udp >/dev/null 2>&1 || true
}

case $driver in systemd) form='/kubepods\.slice/.*/cri-containerd-.*\.scope$' ;; *) form='/kubepods/.*/[0-9a-f]*$' ;; esac
groups=$(grep -h kubepods /proc/[0-9]*/cgroup | sort -u)
printf 'control groups of pods:\n%s\n' "$groups"
[ -n "$groups" ] && ! echo "$groups" | grep -qv "$form" || fail "not all are as $driver has them"
web=$(of shop app=web metadata.name)
aggregator=$(of shop app=aggregator metadata.name)
# What a Prometheus in the cluster would do; this one is beside it, and has the administrator's rights.
inside() { "$@"; }
prometheus_of_the_cluster() {
    {
        printf 'global: {scrape_interval: 15s, evaluation_interval: 15s}\nrule_files: [records.rules.yaml, alerts.rules.yaml]\nscrape_configs:\n'
        sed "s/^/  /; s|- role: pod|&\n        kubeconfig_file: $KUBECONFIG|" /deploy/prometheus/scrape-kubernetes.yaml
    } >/deploy/prometheus/cluster.yaml
    begin_prometheus /deploy/prometheus/cluster.yaml
}
# full: the aggregator fills the table
full() {
    step "Prometheus, and Alertmanager"
    prometheus_of_the_cluster
    step "a limit of $limit, and $aggregator opens 12000 flows, 50 a second"
    before=$(cat /proc/sys/net/netfilter/nf_conntrack_max)
    echo "$limit" >/proc/sys/net/netfilter/nf_conntrack_max
    echo 900 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
    send aggregator 12000 50 &
    wait_for_alert CtpressureTableFills pending '"netns":"host"' '"severity":"critical"'
    wait_for_alert CtpressureTableFills firing '"netns":"host"' '"severity":"critical"' "\"node\":\"$node\""
    wait_for_alert CtpressurePacketsDropped firing "\"pod\":\"$aggregator\"" "\"culprit\":\"shop/$aggregator\""
    wait_for 120 'Alertmanager has it' alertmanager_has CtpressurePacketsDropped
    echo 'Alertmanager has it'
    one_page
    # While the table is full, kubectl and the agent have a hard time too.
    echo "$before" >/proc/sys/net/netfilter/nf_conntrack_max
    conntrack -D -p udp >/dev/null 2>&1 || true
    events() { kubectl --request-timeout=15s -n shop get events --field-selector reportingComponent=ctpressure; }
    has() { events | grep -q "$1.*$aggregator"; }
    wait_for 120 'an Event on the pod that holds the table' has ConntrackTableHeld
    wait_for 120 'an Event on the pod that loses packets' has ConntrackPacketsDropped
    events
    kubectl -n shop describe pod "$aggregator" | grep ConntrackTableHeld || fail 'kubectl describe does not show it'
    end_prometheus
}
# one_view: kubectl ctpressure, with the rights of its role and no more, sees what this node's agent saw
one_view() {
    step 'kubectl ctpressure'
    kubectl apply -f deploy/kubernetes/operator/rbac.yaml || fail 'its role is not taken'
    kubectl create clusterrolebinding operator-nodes --clusterrole=ctpressure-operator-nodes --user=operator
    kubectl -n ctpressure create rolebinding operator --role=ctpressure-operator --user=operator
    # said STATUS ARGUMENT...: what it prints
    said() {
        wanted=$1
        shift
        printf '$ kubectl ctpressure %s\n' "$*"
        status=0
        kubectl ctpressure "$@" --as operator >/tmp/said 2>/tmp/said.error </dev/null || status=$?
        cat /tmp/said /tmp/said.error
        case " $wanted " in *" $status "*) ;; *) fail "it ended with $status" ;; esac
    }
    # shown WORDS: it was in what it printed
    shown() { grep -q "$1" /tmp/said || fail "not in it: $1"; }
    said 0 top
    shown "^1 node: "
    shown "^$node "
    shown "^Deployment shop/aggregator "
    said 0 incidents --since 1h
    shown "Deployment shop/aggregator"
    shown "report --node $node --incident"
    said 0 report --cluster --since 1h --html /tmp/cluster.html
    grep -q '<b>.*nf_conntrack_max\|Change Deployment shop/aggregator' /tmp/cluster.html || fail 'no change is advised'
    said 0 report --node "$node" --incident 1 --html /tmp/node.html
    grep -q '</html>' /tmp/node.html || fail 'no page of the node'
    said '0 1' doctor
    shown "^1 node looked at: "
    said 0 limit
    shown "^$node "
    said 0 watch --duration 2s -o json
    # Who may not do it is told so.
    kubectl -n ctpressure delete rolebinding operator
    said 1 top
    grep -q 'forbidden' /tmp/said.error || fail 'it does not say why'
}
# restart: and it goes on as before
restart() {
    step 'a restart'
    there=$(programs)
    kubectl -n ctpressure rollout restart daemonset/ctpressure
    kubectl -n ctpressure rollout status daemonset/ctpressure --timeout=240s || fail 'not ready again'
    wait_for 60 'one agent' one_agent
    [ "$(programs)" = "$there" ] || fail "programs in the kernel: $(programs), before $there"
    restarts=$(of ctpressure app.kubernetes.io/name=ctpressure 'status.containerStatuses[0].restartCount')
    [ "$restarts" = 0 ] || fail "the container was started $restarts times again"
    counts
}
limit() { cat /proc/sys/net/netfilter/nf_conntrack_max; }
node_events() { kubectl get events -A --field-selector reportingComponent=ctpressure,involvedObject.kind=Node; }
# told REASON: the cluster has an Event on the node, where the variant makes them
told() { case $variant in kube-names*) node_events | grep -q "$1" ;; esac }
# raised: more and more connections that are answered are given room, and none is lost
raised() {
    step "a limit of $small, and $aggregator opens 3000 connections to $web, some 20 a second"
    echo 900 | tee /proc/sys/net/netfilter/nf_conntrack_udp_timeout >/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream
    scrape
    dropped=$(metric ctpressure_drops_total)
    to=$(of shop app=web status.podIP):7000
    # From inside its network namespace: an exec by the kubelet for each would be too slow for a steady stream.
    uid=$(of shop app=aggregator metadata.uid)
    process=$(grep -lE "$uid|$(echo "$uid" | tr - _)" /proc/[0-9]*/cgroup | head -n 1 | cut -d / -f 3)
    for _ in $(seq 600); do
        nsenter -t "$process" -n ctgen connect --transport udp --flows 5 --destination "$to" >/dev/null
        sleep 0.15
    done
    scrape
    printf 'limit %s, entries %s, drops %s\n' "$(limit)" "$(conntrack -C)" "$(($(metric ctpressure_drops_total) - dropped))"
    [ "$(limit)" -gt 3000 ] || fail 'the limit was not raised'
    [ "$(metric ctpressure_drops_total)" = "$dropped" ] || fail 'packets were lost'
    wait_for 120 'an Event on the node: raised' told ConntrackLimitRaised
    conntrack -D -p udp >/dev/null 2>&1 || true
}
# lowered: what somebody else takes away is put back
lowered() {
    step 'somebody lowers the limit'
    before=$(limit)
    echo $((before / 2)) >/proc/sys/net/netfilter/nf_conntrack_max
    is_back() { [ "$(limit)" = "$before" ]; }
    # After the controller of the variant before it is not the first round, and the patience of each is longer.
    wait_for 600 "the limit at $before again" is_back
    wait_for 120 'an Event on the node: changed' told ConntrackLimitChanged
    wait_for 120 'an Event on the node: put back' told ConntrackLimitReapplied
    node_events
    echo "$usual" >/proc/sys/net/netfilter/nf_conntrack_max
}

# documented: the command lines of kubectl in the documents that ask for something
documented() {
    step 'the command lines of the documents'
    agent=$(of ctpressure app.kubernetes.io/name=ctpressure metadata.name)
    sed -n "s/POD/$agent/; s/NODE/$node/; s/ *#.*//; s/^    \(kubectl .*\)/\1/p" README.md docs/installation.md deploy/runbooks/README.md |
        grep -v ' apply ' | sort -u >/tmp/documented
    while read -r line; do
        printf '$ %s\n' "$line"
        sh -c "$line" </dev/null >/tmp/said 2>&1 || fail "$(cat /tmp/said)"
        head -n 4 /tmp/said
    done </tmp/documented
    [ "$(wc -l </tmp/documented)" -ge 5 ] || fail 'there should be more of them'
}
# as_a_release: the chart, by the command line of helm that docs/installation.md has; in a cluster that has nothing of ours
as_a_release() {
    line=$(sed -n 's,REGISTRY,docker.io/library,; s/^    \(helm install .*\)/\1/p' docs/installation.md)
    step "${line:?docs/installation.md has no such line}"
    kubectl delete -k deploy/kubernetes/overlays/kube-names --ignore-not-found --timeout=180s || fail 'something of it stays'
    sh -c "$line" || fail 'it is not taken'
    kubectl -n ctpressure rollout status daemonset/ctpressure --timeout=240s || fail 'not ready'
    wait_for 60 'one agent' one_agent
    counts
    helm uninstall ctpressure --namespace ctpressure --wait --timeout=120s || fail 'it can not be taken away'
    wait_for 60 'nothing left in the kernel' none
}
# as_a_service: on a node without Kubernetes, as docs/installation.md says
as_a_service() {
    step 'systemctl enable --now ctpressure'
    cp deploy/ctpressure.service /etc/systemd/system/
    # The guest's systemd has no units of its own; these are what each service asks for.
    for target in sysinit basic shutdown multi-user; do
        printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" >"/etc/systemd/system/$target.target"
    done
    systemctl daemon-reload
    systemctl enable --now ctpressure || fail 'systemd does not take the unit'
    is_ready() { wget -q -O /dev/null http://127.0.0.1:9743/readyz; }
    wait_for 120 'the agent is ready' is_ready
    systemctl is-active ctpressure
    sleep 2
    ctpressure report --since -1m || fail 'no journal'
    systemctl show ctpressure --property=MemoryCurrent,NRestarts
    systemctl stop ctpressure || fail 'it does not stop'
    systemctl show ctpressure --property=Result | grep -x Result=success || fail 'a bad end'
    wait_for 60 'nothing left in the kernel' none
}

# for_this_server PATH: a kustomization that has the variant as servers before Kubernetes 1.30 know it, which this one is
for_this_server() {
    mkdir -p deploy/kubernetes/overlays/tried
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../%s]\ncomponents: [../../%s]\n' \
        "$1" components/before-kubernetes-1.30 >deploy/kubernetes/overlays/tried/kustomization.yaml
    echo deploy/kubernetes/overlays/tried
}

usual=$(limit)
cd /
for path in $variants; do
    variant=${path##*/}
    step "kubectl apply -k deploy/kubernetes/$path, for a server of this age"
    case $variant in least-privilege*) echo 2 ;; *) echo 3 ;; esac >/proc/sys/kernel/perf_event_paranoid
    # As its kustomization says: after the dry run.
    case $variant in
    *limit-controller)
        sed -i 's/value: dry-run/value: "on"/' deploy/kubernetes/components/limit-controller/controller.yaml
        echo "$small" >/proc/sys/net/netfilter/nf_conntrack_max
        ;;
    esac
    kubectl apply -k "$(for_this_server "$path")" || fail 'it is not taken'
    kubectl -n ctpressure rollout status daemonset/ctpressure --timeout=240s || fail 'not ready'
    wait_for 60 'one agent' one_agent
    counts
    grep '^ctpressure_probe_attached' /tmp/metrics
    kubectl -n ctpressure logs daemonset/ctpressure | grep -E 'WARN|ERROR' | sed 's/^/  it says: /' || true
    case $variant in
    base) documented ;;
    kube-names)
        grep -q "pod=\"$web\",workload=\"web\"" /tmp/metrics || fail 'the workload is not known'
        full
        one_view
        restart
        ;;
    *limit-controller)
        raised
        lowered
        ;;
    esac
done

step 'its end'
kubectl -n ctpressure delete daemonset ctpressure --timeout=120s
wait_for 60 'nothing left in the kernel' none
case " $variants " in *' base '*) as_a_release ;; esac
[ "$driver" != systemd ] || as_a_service
step 'all of it as it should be'
