#!/usr/bin/env bash
# api-server.sh FOLDER ADDRESS NODE PORT ETCD_PORT [FLAG...]: etcd and the API server. Called by up.sh.
set -eu
. "$(dirname "$0")/lib.sh"
folder=$1 address=$2 node=$3 port=$4 etcd_port=$5
shift 5
pki=$folder/pki
[ -f "$pki/ca.crt" ] || bash "$scripts/pki.sh" "$pki" "$address" "$node" 10.96.0.1 "$port"
setsid "$bin/etcd" --data-dir "$folder/etcd" --unsafe-no-fsync \
    --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$((etcd_port + 1))" >"$folder/etcd.log" 2>&1 &
echo $! >"$folder/etcd.pid"
setsid "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd_port" \
    --bind-address="$address" --advertise-address="$address" --secure-port="$port" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" --cert-dir="$pki" \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc \
    --kubelet-client-certificate="$pki/apiclient.crt" --kubelet-client-key="$pki/apiclient.key" \
    --kubelet-certificate-authority="$pki/ca.crt" \
    --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$pki/front.crt" --proxy-client-key-file="$pki/front.key" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true "$@" >"$folder/apiserver.log" 2>&1 &
echo $! >"$folder/apiserver.pid"
for _ in $(seq 480); do
    kubectl --kubeconfig "$pki/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1 && exit 0
    sleep 0.25
done
echo "the API server is not ready:"
tail -3 "$folder/apiserver.log"
exit 1
