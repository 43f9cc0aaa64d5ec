#!/usr/bin/env bash
# metrics.sh: metrics-server as a plain process beside the API server, for `kubectl top` and autoscalers.
set -eu
. "$(dirname "$0")/lib.sh"
missing metrics-server
pki=$run/pki
if ! { [ -f "$run/metrics.pid" ] && [ -d "/proc/$(cat "$run/metrics.pid")" ]; }; then
    config="--kubeconfig=$pki/admin.kubeconfig --authentication-kubeconfig=$pki/admin.kubeconfig --authorization-kubeconfig=$pki/admin.kubeconfig"
    # shellcheck disable=SC2086
    setsid nsenter -t "$(cat "$run/ns.pid")" -n -m "$bin/metrics-server" $config --bind-address=10.200.0.1 --secure-port=4443 \
        --cert-dir="$run/metrics" --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$pki/ca.crt" \
        --metric-resolution=10s --kubelet-request-timeout=5s --requestheader-client-ca-file="$pki/ca.crt" --client-ca-file="$pki/ca.crt" \
        >"$run/metrics.log" 2>&1 </dev/null &
    echo $! >"$run/metrics.pid"
fi
bash "$scripts/k.sh" kubectl apply -f - >/dev/null <<'Y'
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {ports: [{name: https, port: 443, targetPort: 4443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server-1, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{name: https, port: 4443, protocol: TCP}]
endpoints: [{addresses: [10.200.0.1]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  service: {name: metrics-server, namespace: kube-system}
  group: metrics.k8s.io
  version: v1beta1
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 100
  versionPriority: 100
Y
for _ in $(seq 120); do bash "$scripts/k.sh" kubectl top nodes 2>/dev/null | grep -q '^node1 .*%' && exit 0; sleep 1; done
echo "metrics-server has no figures:"
tail -3 "$run/metrics.log"
exit 1
