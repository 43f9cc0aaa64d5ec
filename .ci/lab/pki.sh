#!/usr/bin/env bash
# pki.sh FOLDER API_ADDRESS NODE SERVICE_ADDRESS PORT: an authority, certificates and kubeconfigs for 30 days, with openssl alone.
set -eu
folder=$1 api=$2 node=$3 service=$4 port=$5
mkdir -p "$folder"
cd "$folder"
openssl genrsa -out ca.key 2048 2>/dev/null
openssl req -x509 -new -key ca.key -subj /CN=lab-ca -days 30 -out ca.crt 2>/dev/null
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
certificate() { # NAME SUBJECT [NAMES]
    openssl genrsa -out "$1.key" 2048 2>/dev/null
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
    local usage='keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n'
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
        -extfile <(printf "$usage%s" "${3:+subjectAltName=$3}") 2>/dev/null
}
of_service=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
certificate apiserver /CN=kube-apiserver "IP:$api,IP:127.0.0.1,IP:$service,$of_service"
certificate admin /O=system:masters/CN=admin
certificate controller /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate proxy /CN=system:kube-proxy
certificate apiclient /O=system:masters/CN=apiserver-kubelet-client
certificate front /CN=front-proxy-client
certificate kubelet "/O=system:nodes/CN=system:node:$node" "IP:$api,DNS:$node"
for name in admin controller scheduler proxy kubelet; do
    cat >"$name.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$api:$port", certificate-authority: $folder/ca.crt}}]
users: [{name: lab, user: {client-certificate: $folder/$name.crt, client-key: $folder/$name.key}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
K
done
