#!/usr/bin/env bash
# k.sh [-n N] COMMAND...: runs COMMAND in the namespaces of node1 (or node N), where kubectl knows the cluster.
. "$(dirname "$0")/lib.sh"
node=$run
[ "$1" = -n ] && { [ "$2" = 1 ] || node=$run/node$2; shift 2; }
[ -f "$node/ns.pid" ] || { echo "the lab is not up" >&2; exit 1; }
exec nsenter -t "$(cat "$node/ns.pid")" -n -m --wd="$PWD" env KUBECONFIG="$run/pki/admin.kubeconfig" PATH="$PATH" "$@"
