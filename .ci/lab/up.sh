#!/usr/bin/env bash
# up.sh: a Kubernetes cluster of one node in network and mount namespaces of its own. Needs root, no systemd. k.sh enters it, join.sh
# adds nodes, down.sh ends it. Programs, images and state are in $CARILLON_LAB (lib.sh).
set -eu
. "$(dirname "$0")/lib.sh"
if [ -z "${INSIDE:-}" ]; then
    missing etcd kube-apiserver kubectl kube-controller-manager kube-scheduler kubelet kube-proxy containerd ctr coredns pause
    [ -f "$run/ns.pid" ] && [ -d "/proc/$(cat "$run/ns.pid")" ] && { echo "it is up already"; exit 0; }
    [ -f "$images/pause.tar" ] || bash "$scripts/image.sh" pause
    rm -rf "$run"
    mkdir -p "$run"
    date +%s >"$run/began"
    setsid unshare -n -m --propagation private env INSIDE=1 bash "$scripts/up.sh" "$CARILLON_LAB" >"$run/up.log" 2>&1 </dev/null &
    for _ in $(seq 600); do
        sleep 0.5
        grep -q '^READY\|^GIVING UP' "$run/up.log" && break
    done
    grep '^READY' "$run/up.log" && exit 0
    tail -5 "$run/up.log"
    echo "failed: logs are in $run; down.sh cleans up"
    exit 1
fi

echo $$ >"$run/ns.pid"
trap 'echo "GIVING UP (line $LINENO)"' ERR
address=10.200.0.1 node=node1 pki=$run/pki
mount --make-rshared /
mkdir -p /run/netns
mount -t tmpfs none /run/netns
mount --make-shared /run/netns
ip link set lo up
ip link add node0 type bridge
ip addr add $address/24 dev node0
ip link set node0 up
ip route add default via 10.200.0.254 dev node0
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 || true
mkdir -p "$run"/{kubelet,cni,pv,manifests,ctd/root,ctd/state}
mount --bind "$run/kubelet" "$run/kubelet"
mount --make-shared "$run/kubelet"
# Without masquerading: every node has a route to the pods of every other, so that pods see each other's own addresses.
cat >"$run/cni/10-lab.conflist" <<J
{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "promiscMode": false,
   "ipam": {"type": "host-local", "dataDir": "$run/ipam", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
# Containers ask for more open files than a machine without CAP_SYS_RESOURCE may grant.
ctr oci spec >"$run/ctd/spec.json"
python3 - "$run/ctd/spec.json" "$(ulimit -Hn)" <<'Y'
import json, sys
path, hard = sys.argv[1:]
hard = 1048576 if hard == "unlimited" else min(int(hard), 1048576)
spec = json.load(open(path))
spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": hard, "hard": hard}]
json.dump(spec, open(path, "w"))
Y
cat >"$run/ctd/config.toml" <<T
version = 3
root = "$run/ctd/root"
state = "$run/ctd/state"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "$run/ctd.sock"
[ttrpc]
  address = "$run/ctd.ttrpc.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  ignore_rdt_not_enabled_errors = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$run/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "$run/ctd/spec.json"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
[plugins."io.containerd.nri.v1.nri"]
  disable = true
T
start() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >"$run/$name.log" 2>&1 &
    echo $! >"$run/$name.pid"
}
# The same, started again when it ends, as a kubelet does: a controller manager that is short of processors may panic (1.36.3).
restarted() {
    local name=$1
    shift
    (
        trap 'kill "$child" 2>/dev/null; exit' TERM
        while :; do
            "$@" &
            child=$!
            wait "$child" || true
            sleep 1
        done
    ) >"$run/$name.log" 2>&1 &
    echo $! >"$run/$name.pid"
}
start containerd "$bin/containerd" -c "$run/ctd/config.toml"
for _ in $(seq 300); do ctr -a "$run/ctd.sock" version >/dev/null 2>&1 && break; sleep 0.1; done
for image in "$images"/*.tar; do ctr -a "$run/ctd.sock" -n k8s.io images import "$image" >/dev/null || echo "no import of $image"; done
bash "$scripts/api-server.sh" "$run" $address $node 6443 2379 --endpoint-reconciler-type=lease \
    --kubelet-preferred-address-types=InternalIP
kube() { kubectl --kubeconfig "$pki/admin.kubeconfig" "$@"; }
config() { printf -- '--kubeconfig=%s --authentication-kubeconfig=%s --authorization-kubeconfig=%s' "$1" "$1" "$1"; }
# shellcheck disable=SC2046,SC2086
restarted controller "$bin/kube-controller-manager" $(config "$pki/controller.kubeconfig") --bind-address=$address \
    --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --use-service-account-credentials=true --leader-elect=false --allocate-node-cidrs=false ${CONTROLLER_FLAGS:-}
# shellcheck disable=SC2046
restarted scheduler "$bin/kube-scheduler" $(config "$pki/scheduler.kubeconfig") --bind-address=$address --leader-elect=false
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/carillon-lab
    echo 800 >/sys/fs/cgroup/carillon-lab/cpu.weight 2>/dev/null || true
else
    for controller in cpu cpuacct cpuset memory pids blkio devices freezer systemd; do
        mkdir -p /sys/fs/cgroup/$controller/carillon-lab 2>/dev/null || true
    done
    for file in cpus mems; do cat /sys/fs/cgroup/cpuset/cpuset.$file >/sys/fs/cgroup/cpuset/carillon-lab/cpuset.$file; done
    # Otherwise all pods together have the share of one process of the machine.
    echo 8192 >/sys/fs/cgroup/cpu/carillon-lab/cpu.shares
fi
: >"$run/resolv.conf"
echo "nameserver $address" >"$run/host-resolv.conf"
mount --bind "$run/host-resolv.conf" /etc/resolv.conf
cat >"$run/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
containerRuntimeEndpoint: unix://$run/ctd.sock
cgroupDriver: cgroupfs
cgroupRoot: /carillon-lab
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: [pods]
clusterDNS: [$address]
clusterDomain: cluster.local
resolvConf: $run/resolv.conf
staticPodPath: $run/manifests
# Of its own: a kubelet removes the logs of pods that it does not know.
podLogsDir: $run/pod-logs
healthzBindAddress: $address
evictionHard: {memory.available: 200Mi, nodefs.available: 1Gi}
imageGCHighThresholdPercent: 100
registerWithTaints: []
serverTLSBootstrap: false
volumePluginDir: $run/kubelet/volumeplugins
shutdownGracePeriod: 0s
Y
start kubelet "$bin/kubelet" --config="$run/kubelet.yaml" --kubeconfig="$pki/kubelet.kubeconfig" --hostname-override=$node \
    --node-ip=$address --root-dir="$run/kubelet" --cert-dir="$pki" --v=2
cat >"$run/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
hostnameOverride: $node
clusterCIDR: 10.244.0.0/16
bindAddress: $address
healthzBindAddress: $address:10256
metricsBindAddress: $address:10249
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
start proxy "$bin/kube-proxy" --config="$run/proxy.yaml" --v=2
cat >"$run/Corefile" <<Y
.:53 {
  bind $address
  errors
  ready $address:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $pki/admin.kubeconfig
    pods insecure
    ttl 5
  }
}
Y
start coredns "$bin/coredns" -conf "$run/Corefile"
# The default StorageClass; volumes.sh makes its volumes.
kube apply -f - >/dev/null <<'Y'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
Y
ready() { kube get node $node 2>/dev/null | grep -q ' Ready'; }
for _ in $(seq 400); do ready && break; sleep 0.5; done
ready && echo "READY after $(($(date +%s) - $(cat "$run/began"))) s" || echo "GIVING UP"
trap - ERR
exec -a "carillon-lab $CARILLON_LAB" sleep infinity
