#!/usr/bin/env bash
# down.sh: ends what the other scripts have started, by their pid files, then the containers, which are in the lab's control group.
# Programs and images stay; the logs go to $CARILLON_LAB/last-logs.
set -u
. "$(dirname "$0")/lib.sh"
[ -d "$run" ] || { echo "nothing is up"; exit 0; }
shopt -s nullglob
nodes=("$run" "$run"/node[2-9])
files=()
for node in "${nodes[@]}"; do files+=("$node"/{metrics,network-policies,kubelet,proxy,controller,scheduler,coredns}.pid); done
ends "${files[@]}"
files=()
for node in "${nodes[@]}"; do files+=("$node/containerd.pid"); done
ends "${files[@]}"
for process in /proc/[0-9]*; do
    { tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null | grep -q "containerd-shim.*-address $run/" && kill -9 "${process#/proc/}" 2>/dev/null
done
group=/sys/fs/cgroup/pids/carillon-lab
[ ! -f /sys/fs/cgroup/cgroup.controllers ] || group=/sys/fs/cgroup/carillon-lab
[ -d $group ] && for _ in 1 2 3; do
    find $group -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null
    sleep 0.2
done
ends "$run"/{apiserver,etcd}.pid
files=("$run"/node[2-9]/ns.pid "$run"/nodeoutside/ns.pid)
ends ${files[@]+"${files[@]}"} "$run/ns.pid"
sleep 0.3
for folder in /sys/fs/cgroup/carillon-lab /sys/fs/cgroup/*/carillon-lab; do
    [ -d "$folder" ] && find "$folder" -depth -type d -exec rmdir {} \; 2>/dev/null
done
rm -rf "$CARILLON_LAB/last-logs"
mkdir -p "$CARILLON_LAB/last-logs"
for node in "${nodes[@]}"; do
    name=$(basename "$node")
    for log in "$node"/*.log; do mv "$log" "$CARILLON_LAB/last-logs/${name/#run/node1}-$(basename "$log")"; done
done
grep " $run/" /proc/mounts && { echo "these mounts are left"; exit 1; }
# The unpacked images take a slow disk half a minute: in the background.
gone=$CARILLON_LAB/.gone.$$
mv "$run" "$gone" && { setsid nice rm -rf --one-file-system "$gone" >/dev/null 2>&1 </dev/null & }
echo down
