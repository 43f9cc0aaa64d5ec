#!/usr/bin/env bash
# network-policies.sh: enforces NetworkPolicies, by the firewall of kube-router on each node. To be run again after join.sh.
set -eu
. "$(dirname "$0")/lib.sh"
missing kube-router
for folder in "$run" "$run"/node[2-9]; do
    [ -f "$folder/ns.pid" ] || continue
    [ -f "$folder/network-policies.pid" ] && [ -d "/proc/$(cat "$folder/network-policies.pid")" ] && continue
    node=node1
    [ "$folder" = "$run" ] || node=$(basename "$folder")
    setsid nsenter -t "$(cat "$folder/ns.pid")" -n -m env PATH="$PATH" "$bin/kube-router" --run-router=false --run-service-proxy=false \
        --run-firewall=true --kubeconfig="$run/pki/admin.kubeconfig" --hostname-override="$node" \
        --service-cluster-ip-range=10.96.0.0/16 --iptables-sync-period=30s --health-port=0 --metrics-port=0 \
        >"$folder/network-policies.log" 2>&1 </dev/null &
    echo $! >"$folder/network-policies.pid"
done
sleep 3
for folder in "$run" "$run"/node[2-9]; do
    [ -f "$folder/network-policies.pid" ] || continue
    [ -d "/proc/$(cat "$folder/network-policies.pid")" ] || { echo "kube-router has ended:"; tail -3 "$folder/network-policies.log"; exit 1; }
done
