#!/usr/bin/env bash
# volumes.sh COUNT SIZE [NODE...]: volumes in folders of the nodes (all nodes by default), which claims bind to. As local disks do, they
# stay with their node.
set -eu
. "$(dirname "$0")/lib.sh"
count=$1 size=$2
shift 2
nodes=${*:-$(bash "$scripts/k.sh" kubectl get nodes -o jsonpath='{.items[*].metadata.name}')}
for node in $nodes; do
    for number in $(seq "$count"); do
        name=$node-$(date +%s)-$number
        mkdir -p "$run/pv/$name"
        chmod 0777 "$run/pv/$name"
        cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $name}
spec:
  capacity: {storage: $size}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: $run/pv/$name}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
Y
    done
done | bash "$scripts/k.sh" kubectl apply -f -
