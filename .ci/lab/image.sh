#!/usr/bin/env bash
# image.sh build CONTEXT NAME:TAG [buildah build options]   builds a Dockerfile with images of the lab, pulls nothing, loads the result
# image.sh stage CONTEXT NAME:TAG [buildah build options]   the same for an image that other images are built with, and no pod
# image.sh base SUITE NAME:TAG PACKAGE,...                  an image of a few Debian packages and nothing else
# image.sh pause                                            the image that holds a pod's namespaces
set -eu
. "$(dirname "$0")/lib.sh"
mkdir -p "$images"
save() { # NAME
    local file
    file=$images/$(tr '/:' '__' <<<"$1").tar
    rm -f "$file"
    buildah_ push -q "$1" "docker-archive:$file:$1"
    local node
    for node in "$run" "$run"/node[2-9]; do
        [ -S "$node/ctd.sock" ] || continue
        ctr -a "$node/ctd.sock" -n k8s.io images import "$file" >/dev/null
    done
}
case $1 in
build | stage)
    what=$1
    context=$2 name=$3
    shift 3
    buildah_ bud --pull-never --isolation=chroot -t "$name" "$@" "$context"
    [ "$what" = stage ] || save "$name"
    ;;
base)
    suite=$2 name=$3 packages=$4
    buildah_ inspect --type image "$name" >/dev/null 2>&1 && exit 0
    temporary=$(mktemp -d -p "$CARILLON_LAB" base.XXX)
    trap 'rm -rf "$temporary"' EXIT
    mirror=$(awk '/^URIs:/{print $2;exit} /^deb /{for(i=2;i<=NF;i++)if($i!~/^\[|\]$|=/){print $i;exit}}' \
        /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | head -1)
    nice -n 10 mmdebstrap --quiet --variant="${VARIANT:-minbase}" --include="$packages" --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*' "$suite" "$temporary/base.tar" "$mirror"
    container=$(buildah_ from scratch)
    buildah_ add -q "$container" "$temporary/base.tar" / >/dev/null
    buildah_ config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah_ commit -q --rm "$container" "$name" >/dev/null
    ;;
pause)
    missing pause
    container=$(buildah_ from scratch)
    buildah_ copy -q "$container" "$bin/pause" /pause >/dev/null
    buildah_ config --entrypoint '["/pause"]' --user 65535:65535 "$container"
    buildah_ commit -q --rm "$container" localhost/pause:1 >/dev/null
    rm -f "$images/pause.tar"
    buildah_ push -q localhost/pause:1 "docker-archive:$images/pause.tar:localhost/pause:1"
    ;;
*) sed -n '2,5s/^# \?//p' "$0" >&2; exit 2 ;;
esac
