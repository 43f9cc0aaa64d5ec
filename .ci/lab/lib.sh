# Where things are, for the other scripts, which read this file. CARILLON_LAB is the one folder for programs, images and state.
CARILLON_LAB=${CARILLON_LAB:-/tmp/carillon-lab}
mkdir -p "$CARILLON_LAB"
CARILLON_LAB=$(cd "$CARILLON_LAB" && pwd)
export CARILLON_LAB
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$CARILLON_LAB/bin
run=$CARILLON_LAB/run
images=$CARILLON_LAB/images
export PATH=$bin:$PATH:/usr/sbin

buildah_() {
    CONTAINERS_REGISTRIES_CONF=$scripts/registries.conf command buildah --root "$CARILLON_LAB/ctr/root" \
        --runroot "$CARILLON_LAB/ctr/run" --storage-driver overlay "$@"
}

missing() {
    local program
    for program in "$@"; do
        [ -x "$bin/$program" ] || { echo "there is no $bin/$program: run .ci/lab/get-binaries.sh first" >&2; exit 1; }
    done
}

# ends PIDFILE...: TERM to all, KILL to those that are there 5 s later; only to a process whose command line names the lab's folder.
ends() {
    local file pid left=()
    for file in "$@"; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        rm -f "$file"
        { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$CARILLON_LAB" && kill "$pid" 2>/dev/null && left+=("$pid")
    done
    for _ in $(seq 50); do
        for pid in ${left[@]+"${left[@]}"}; do
            grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null && { sleep 0.1; continue 2; }
        done
        return 0
    done
    for pid in "${left[@]}"; do kill -9 "$pid" 2>/dev/null; done
    return 0
}
