#!/usr/bin/env bash
# outside.sh: a machine outside of the cluster, on the nodes' network: `k.sh -n outside COMMAND`. It reaches the addresses of Services of
# type LoadBalancer (10.201.0.0/24 in the lab) by node1, as a provider's load balancer would lead it there.
set -eu
. "$(dirname "$0")/lib.sh"
own=$run/nodeoutside
[ -f "$own/ns.pid" ] && [ -d "/proc/$(cat "$own/ns.pid")" ] && exit 0
rm -rf "$own"
mkdir -p "$own"
printf '127.0.0.1 localhost\n10.201.0.20 chat.example.org grpc.chat.example.org\n' >"$own/hosts"
first=$(cat "$run/ns.pid")
setsid nsenter -t "$first" -m unshare -n -m --propagation private bash -c "mount --bind '$own/hosts' /etc/hosts
    echo \$\$ >'$own/ns.pid'
    exec -a 'carillon-lab $CARILLON_LAB' sleep infinity" >"$own/up.log" 2>&1 </dev/null &
for _ in $(seq 100); do [ -s "$own/ns.pid" ] && break; sleep 0.1; done
pid=$(cat "$own/ns.pid")
nsenter -t "$first" -n sh -c "ip link add jo type veth peer name e0 netns $pid && ip link set jo master node0 up"
nsenter -t "$pid" -n sh -c 'ip link set lo up && ip addr add 10.200.0.200/24 dev e0 && ip link set e0 up && ip route add 10.201.0.0/24 via 10.200.0.1'
