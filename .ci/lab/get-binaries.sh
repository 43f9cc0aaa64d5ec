#!/usr/bin/env bash
# get-binaries.sh [full|network-policies|metrics|prometheus|ingress|cert-manager|s3|clean]... : the programs of a Kubernetes cluster, built
# from Go modules into $CARILLON_LAB/bin, and the Debian packages that they need. Some 15 minutes on two cores for `full`, once; what is
# there is not built again. CARILLON_LAB_JOBS is how many packages are compiled at once.
#   full              etcd, the Kubernetes programs, kubectl, containerd, CoreDNS, pause (default)
#   network-policies  kube-router, which enforces NetworkPolicies
#   metrics           metrics-server, which autoscalers ask for CPU, and prometheus-adapter, which they ask for the gateways' connections
#   prometheus        the Prometheus Operator and its definitions, for PodMonitors, and a Prometheus that finds pods: Debian's does not
#   s3                gofakes3, a storage that speaks S3, for backups
#   ingress           Traefik, for Ingress and the Gateway API
#   cert-manager      its controller, webhook and injector of authorities, from its Git repository: they are no modules of the proxy
#   clean             removes the caches of the Go builds (8 GB); the programs stay
set -eu
. "$(dirname "$0")/lib.sh"
kubernetes=${KUBERNETES:-v1.36.3}
etcd=v3.6.16 containerd=v2.3.7 coredns=v1.14.7 kube_router=v2.1.0
metrics_server=v0.9.0 prometheus_adapter=v0.12.0 cert_manager=v1.21.1 prometheus_operator=v0.85.0 prometheus=v0.316.0 traefik=v3.7.13 gofakes3=v1.2.0
work=$CARILLON_LAB/build
mkdir -p "$bin" "$work"
exec 9>"$CARILLON_LAB/.lock"
flock 9
# Caches of their own, so that `clean` frees all of it.
export GOMODCACHE=${GOMODCACHE:-$CARILLON_LAB/go/mod} GOCACHE=${GOCACHE:-$CARILLON_LAB/go/cache}
export GOFLAGS="-mod=mod -modcacherw -trimpath -buildvcs=false" CGO_ENABLED=0
jobs=${CARILLON_LAB_JOBS:-2}

say() { printf '%4ds  %s\n' "$SECONDS" "$*"; }
has() { [ -x "$bin/$1" ] && [ "$(cat "$work/$1.version" 2>/dev/null)" = "$2" ]; }
built() { # VERSION PROGRAM...
    local version=$1 program
    shift
    for program in "$@"; do
        [ -x "$bin/$program" ] || { echo "there is no $bin/$program" >&2; exit 1; }
        echo "$version" >"$work/$program.version"
    done
}
build() { nice -n 10 go build -p "$jobs" -o "$bin/" -ldflags "-s -w ${flags:-}" "$@"; }
go_mod_of() { (cd / && GOFLAGS=-modcacherw go mod download -json "$1") | sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p'; }

# module NAME MODULE VERSION: a small module that requires MODULE, with MODULE's own replacements by other modules, which Go ignores in
# what is only required.
module() {
    local folder=$work/$1 source
    [ -f "$folder/go.mod" ] && grep -q "$2 $3" "$folder/go.mod" && { cd "$folder"; return; }
    rm -rf "$folder"
    mkdir -p "$folder"
    cd "$folder"
    source=$(go_mod_of "$2@$3")
    { echo "module lab/$1"; grep -E '^go ' "$source"; grep -E '^godebug ' "$source" || true; echo "require $2 $3"; } >go.mod
    go mod edit -json "$source" | python3 -c '
import json, sys
for one in json.load(sys.stdin).get("Replace") or []:
    if one["New"]["Path"][0] not in "./":
        print("replace", one["Old"]["Path"], one["Old"].get("Version", ""), "=>", one["New"]["Path"], one["New"].get("Version", ""))
' >>go.mod
}

of_kubernetes() { # PROGRAM...
    local wanted=() program version=k8s.io/component-base/version
    for program in "$@"; do has "$program" "$kubernetes" || wanted+=("k8s.io/kubernetes/cmd/$program"); done
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "kubernetes $kubernetes: $*"
    module kubernetes k8s.io/kubernetes "$kubernetes"
    # Its parts are folders in its own repository, and modules of version v0.MINOR.PATCH outside of it.
    grep -q staged go.mod || {
        echo "// staged" >>go.mod
        sed -nE 's#^\t(k8s.io/[a-z0-9-]+) v0\.0\.0( .*)?$#\1#p' "$(go_mod_of "k8s.io/kubernetes@$kubernetes")" |
            while read -r part; do echo "replace $part => $part v0.${kubernetes#v1.}"; done >>go.mod
    }
    local minor=${kubernetes#v1.}
    flags="-X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*} -X $version.gitTreeState=clean" \
        build "${wanted[@]}"
    built "$kubernetes" "$@"
}

# one NAME MODULE VERSION PACKAGE...: programs that are named as the last part of each package.
one() {
    local name=$1 of=$2 version=$3 package all=1
    shift 3
    for package in "$@"; do has "${package##*/}" "$version" || all=; done
    [ -z "$all" ] || return 0
    say "$name $version"
    module "$name" "$of" "$version"
    build "$@"
    for package in "$@"; do built "$version" "${package##*/}"; done
}

get_full() {
    get_etcd
    of_kubernetes kube-apiserver kubectl
    flags="-X github.com/containerd/containerd/v2/version.Version=$containerd" \
        one containerd github.com/containerd/containerd/v2 "$containerd" \
        github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
    of_kubernetes kube-controller-manager kube-scheduler kubelet kube-proxy
    get_coredns
    get_pause
}
get_etcd() {
    has etcd "$etcd" && return
    say "etcd $etcd"
    module etcd go.etcd.io/etcd/server/v3 "$etcd"
    nice -n 10 go build -p "$jobs" -o "$bin/etcd" -ldflags "-s -w" go.etcd.io/etcd/server/v3
    built "$etcd" etcd
}
# With the few plugins that the DNS of a cluster needs.
get_coredns() {
    has coredns "$coredns" && return
    say "coredns $coredns"
    module coredns github.com/coredns/coredns "$coredns"
    local of=github.com/coredns/coredns plugins="bind ready health log errors cache loadbalance kubernetes forward"
    {
        printf 'package main\n\nimport (\n\t"%s/core/dnsserver"\n\t"%s/coremain"\n' $of $of
        # shellcheck disable=SC2086
        printf "\t_ \"$of/plugin/%s\"\n" $plugins
        printf ')\n\nfunc main() {\n\tdnsserver.Directives = []string{'
        # shellcheck disable=SC2086
        printf '"%s", ' $plugins
        printf '}\n\tcoremain.Run()\n}\n'
    } >main.go
    nice -n 10 go build -p "$jobs" -o "$bin/coredns" -ldflags "-s -w" .
    built "$coredns" coredns
}
get_pause() {
    has pause 1 && return
    say pause
    mkdir -p "$work/pause"
    cd "$work/pause"
    cat >main.go <<'G'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	<-c
}
G
    printf 'module lab/pause\n\ngo 1.21\n' >go.mod
    go build -o "$bin/pause" -ldflags "-s -w" .
    built 1 pause
}
get_network_policies() {
    one kube-router github.com/cloudnativelabs/kube-router/v2 "$kube_router" github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
}
get_metrics() {
    local of=sigs.k8s.io/prometheus-adapter
    one metrics-server sigs.k8s.io/metrics-server "$metrics_server" sigs.k8s.io/metrics-server/cmd/metrics-server
    has prometheus-adapter "$prometheus_adapter" && return
    say "prometheus-adapter $prometheus_adapter"
    module prometheus-adapter $of "$prometheus_adapter"
    nice -n 10 go build -p "$jobs" -o "$bin/prometheus-adapter" -ldflags "-s -w" $of/cmd/adapter
    built "$prometheus_adapter" prometheus-adapter
}
get_prometheus() {
    local of=github.com/prometheus-operator/prometheus-operator
    one prometheus-operator $of "$prometheus_operator" $of/cmd/operator $of/cmd/prometheus-config-reloader
    has prometheus "$prometheus" || {
        say "prometheus $prometheus"
        module prometheus github.com/prometheus/prometheus "$prometheus"
        flags="-X github.com/prometheus/common/version.Version=3.${prometheus#v0.3}" \
            build -tags remove_all_sd,enable_kubernetes_sd github.com/prometheus/prometheus/cmd/prometheus
        built "$prometheus" prometheus
    }
    # What kubectl has to know before there can be a PodMonitor. Without the caches, which `clean` removes, it is there still.
    [ ! -f "$CARILLON_LAB/definitions/prometheus/monitoring.coreos.com_podmonitors.yaml" ] || return 0
    mkdir -p "$CARILLON_LAB/definitions/prometheus"
    module prometheus-operator $of "$prometheus_operator"
    go mod download $of
    cp "$(go list -m -f '{{.Dir}}' $of)"/example/prometheus-operator-crd/*.yaml "$CARILLON_LAB/definitions/prometheus/"
}
get_s3() { one gofakes3 github.com/johannesboyne/gofakes3 "$gofakes3" github.com/johannesboyne/gofakes3/cmd/gofakes3; }
# Its module lacks the pages of its dashboard, and a folder that is a module of its own with two empty structures. It is built without what
# is most of it: the providers of DNS for ACME, and the standard library for plugins.
get_ingress() {
    has traefik "$traefik" && return
    say "traefik $traefik"
    local of=github.com/traefik/traefik/v3 folder ext=github.com/traefik/traefik/dynamic/ext
    # Anew, since an earlier attempt has replaced the module by its copy.
    rm -rf "$work/traefik"
    module traefik $of "$traefik"
    go mod download $of
    folder=$(go list -m -f '{{.Dir}}' $of)
    cp -r "$folder" source
    chmod -R u+w source
    mkdir -p source/webui/static source/pkg/config/dynamic/ext
    echo none >source/webui/static/index.html
    printf 'module %s\n\ngo 1.24\n' $ext >source/pkg/config/dynamic/ext/go.mod
    printf 'package ext\n\ntype HTTP struct{}\n\ntype Router struct{}\n' >source/pkg/config/dynamic/ext/ext.go
    sed -i '/lego\/v5\/providers\/dns"$/d; s/= dns\.NewDNSChallengeProviderByName(.*/= challenge.Provider(nil), errors.New("not in the lab")/' \
        source/pkg/provider/acme/provider.go
    sed -i '/yaegi\/stdlib/d; s/i\.Use([a-z]*\.Symbols)/i.Use(interp.Exports{})/' source/pkg/plugins/middlewareyaegi.go
    # Its fork of this module is not in each proxy; what the other one lacks is for middlewares that the lab does not use.
    sed -i 's/goauth\.CheckSecret,/func(_, _ string) bool { return false },/' source/pkg/middlewares/auth/basic_auth.go
    sed -i 's/d\.auth\.RequireAuthStale(/d.auth.RequireAuth(/' source/pkg/middlewares/auth/digest_auth.go
    go mod edit -replace "$of=./source" -replace "$ext=./source/pkg/config/dynamic/ext" -replace github.com/abbot/go-http-auth=github.com/abbot/go-http-auth@v0.4.0
    build $of/cmd/traefik
    mkdir -p "$CARILLON_LAB/definitions/gateway-api"
    cp "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)"/config/crd/standard/gateway.*.yaml "$CARILLON_LAB/definitions/gateway-api/"
    built "$traefik" traefik
}
# With the issuers that need nobody outside: those for ACME, Vault and Venafi are most of its size.
get_cert_manager() {
    local of=github.com/cert-manager/cert-manager source=$work/cert-manager program wanted=()
    for program in controller webhook cainjector; do has "cert-manager-$program" "$cert_manager" || wanted+=("$program"); done
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "cert-manager $cert_manager: ${wanted[*]}"
    rm -rf "$source"
    git -c advice.detachedHead=false clone -q --depth 1 --branch "$cert_manager" "https://$of" "$source"
    sed -i -E '/_ ".*\/pkg\/(issuer\/(acme|vault|venafi)|controller\/acme[a-z]+)"$/d' "$source/cmd/controller/app/start.go"
    sed -i -E '/\b(challengescontroller|orderscontroller|cr(acme|vault|venafi)controller|csr[a-z]+controller)\b/d' \
        "$source/internal/apis/config/controller/v1alpha1/defaults.go"
    for program in "${wanted[@]}"; do
        cd "$source/cmd/$program"
        nice -n 10 go build -p "$jobs" -o "$bin/cert-manager-$program" -ldflags "-s -w" .
        built "$cert_manager" "cert-manager-$program"
    done
    mkdir -p "$CARILLON_LAB/definitions/cert-manager"
    cp "$source"/deploy/crds/*.yaml "$CARILLON_LAB/definitions/cert-manager/"
}
get_clean() { [ "$GOMODCACHE" != "$CARILLON_LAB/go/mod" ] || rm -rf "$CARILLON_LAB/go"; }

packages=()
for package in openssl curl ca-certificates iproute2 util-linux procps python3 buildah runc mmdebstrap zstd \
    containernetworking-plugins iptables nftables ipset conntrack ethtool socat; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || packages+=("$package")
done
[ ${#packages[@]} -eq 0 ] || {
    say "apt: ${packages[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "${packages[@]}" >"$work/apt.log" 2>&1
}
command -v go >/dev/null || { echo "there is no Go toolchain" >&2; exit 1; }
[ $# -gt 0 ] || set -- full
for what in "$@"; do
    case $what in
    full | network-policies | metrics | prometheus | ingress | cert-manager | s3 | clean) "get_${what//-/_}" ;;
    *) echo "what is $what?" >&2; exit 2 ;;
    esac
done
say "ready in $bin"
