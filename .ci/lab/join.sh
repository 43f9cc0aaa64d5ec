#!/usr/bin/env bash
# join.sh N: one more node, 2 to 9, in namespaces of its own. Its cable is jN in the namespace of node1: `k.sh ip link set j2 down`.
set -eu
. "$(dirname "$0")/lib.sh"
number=$1 own=$run/node$1 pki=$run/pki address=10.200.0.$1 node=node$1
if [ -z "${INSIDE:-}" ]; then
    [ -f "$own/ns.pid" ] && [ -d "/proc/$(cat "$own/ns.pid")" ] && { echo "$node is up already"; exit 0; }
    rm -rf "$own"
    mkdir -p "$own"
    date +%s >"$own/began"
    first=$(cat "$run/ns.pid")
    setsid nsenter -t "$first" -m --wd="$PWD" unshare -n -m --propagation private env INSIDE=1 \
        bash "$scripts/join.sh" "$number" "$CARILLON_LAB" >"$own/up.log" 2>&1 </dev/null &
    for _ in $(seq 300); do [ -s "$own/ns.pid" ] && break; sleep 0.1; done
    pid=$(cat "$own/ns.pid")
    nsenter -t "$first" -n sh -c "ip link add j$number type veth peer name e0 netns $pid && ip link set j$number master node0 up &&
        ip route replace 10.244.$number.0/24 via $address"
    for _ in $(seq 400); do grep -q '^READY\|^GIVING' "$own/up.log" && break; sleep 0.5; done
    tail -1 "$own/up.log"
    grep -q '^READY' "$own/up.log"
    exit
fi

echo $$ >"$own/ns.pid"
trap 'echo "GIVING UP (line $LINENO)"' ERR
mount --make-rshared /
mount -t tmpfs none /run/netns
mount --make-shared /run/netns
for _ in $(seq 300); do ip link show e0 >/dev/null 2>&1 && break; sleep 0.1; done
ip link set lo up
ip addr add "$address/24" dev e0
ip link set e0 up
ip route add default via 10.200.0.1
for other in 1 2 3 4 5 6 7 8 9; do [ $other = "$number" ] || ip route add 10.244.$other.0/24 via 10.200.0.$other; done
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 || true
mkdir -p "$own"/{kubelet,cni,ctd/root,ctd/state,manifests}
mount --bind "$own/kubelet" "$own/kubelet"
mount --make-shared "$own/kubelet"
sed "s#10.244.1.0/24#10.244.$number.0/24#; s#$run/ipam#$own/ipam#" "$run/cni/10-lab.conflist" >"$own/cni/10-lab.conflist"
sed "s#$run/ctd.sock#$own/ctd.sock#; s#$run/ctd.ttrpc#$own/ctd.ttrpc#; s#$run/ctd/root#$own/ctd/root#
     s#$run/ctd/state#$own/ctd/state#; s#$run/cni#$own/cni#" "$run/ctd/config.toml" >"$own/ctd/config.toml"
start() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >"$own/$name.log" 2>&1 &
    echo $! >"$own/$name.pid"
}
start containerd "$bin/containerd" -c "$own/ctd/config.toml"
for _ in $(seq 300); do ctr -a "$own/ctd.sock" version >/dev/null 2>&1 && break; sleep 0.1; done
for image in "$images"/*.tar; do ctr -a "$own/ctd.sock" -n k8s.io images import "$image" >/dev/null || echo "no import of $image"; done
cd "$own"
openssl genrsa -out kubelet.key 2048 2>/dev/null
openssl req -new -key kubelet.key -subj "/O=system:nodes/CN=system:node:$node" -out kubelet.csr 2>/dev/null
openssl x509 -req -in kubelet.csr -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAserial "$pki/ca.srl" -days 30 -out kubelet.crt \
    -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:%s,DNS:%s' "$address" "$node") 2>/dev/null
sed "s#$pki/kubelet\.#$own/kubelet.#g" "$pki/kubelet.kubeconfig" >"$own/kubelet.kubeconfig"
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/carillon-lab/n$number"
else
    for controller in cpu cpuacct cpuset memory pids blkio devices freezer systemd; do
        mkdir -p "/sys/fs/cgroup/$controller/carillon-lab/n$number" 2>/dev/null || true
    done
    for file in cpus mems; do
        cat /sys/fs/cgroup/cpuset/cpuset.$file >"/sys/fs/cgroup/cpuset/carillon-lab/n$number/cpuset.$file"
    done
fi
sed "s#^address: .*#address: $address#; s#^healthzBindAddress: .*#healthzBindAddress: $address#; s#$pki/kubelet\.#$own/kubelet.#
     s#$run/ctd.sock#$own/ctd.sock#; s#^cgroupRoot: .*#cgroupRoot: /carillon-lab/n$number#; s#$run/manifests#$own/manifests#
     s#$run/kubelet/vol#$own/kubelet/vol#; s#$run/pod-logs#$own/pod-logs#" "$run/kubelet.yaml" >"$own/kubelet.yaml"
start kubelet "$bin/kubelet" --config="$own/kubelet.yaml" --kubeconfig="$own/kubelet.kubeconfig" --hostname-override="$node" \
    --node-ip="$address" --root-dir="$own/kubelet" --cert-dir="$own" --v=2
sed "s#^hostnameOverride: .*#hostnameOverride: $node#; s#10\.200\.0\.1\b#$address#g" "$run/proxy.yaml" >"$own/proxy.yaml"
start proxy "$bin/kube-proxy" --config="$own/proxy.yaml" --v=2
ready() { kubectl --kubeconfig "$pki/admin.kubeconfig" get node "$node" 2>/dev/null | grep -q ' Ready'; }
for _ in $(seq 300); do ready && break; sleep 0.5; done
ready && echo "READY after $(($(date +%s) - $(cat "$own/began"))) s" || echo "GIVING UP"
trap - ERR
exec -a "carillon-lab $CARILLON_LAB" sleep infinity
