# Shared by the entry scripts: where things are, and how they speak. Sourced, never run.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export ULEI_STATE=${ULEI_STATE:-$ROOT/var} ULEI_PORT=${ULEI_PORT:-8100}
case $ULEI_STATE in /*) ;; *) ULEI_STATE=$PWD/$ULEI_STATE ;; esac
VENV=$ROOT/var/venv
BUILD=$ROOT/var/build # stamps and logs of what is made from the checkout, shared by all demos of it
cd "$ROOT" || exit 1

say() { printf '%s\n' "$*"; }

# fail WHAT HINT: the last words of a failed step.
fail() {
    printf 'FAILED: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '  %s\n' "$2" >&2
    exit 1
}

# step NAME HINT INPUTS PRODUCT -- COMMAND: runs COMMAND unless it succeeded before with the same INPUTS (a string,
# usually made by `digest`) and the file PRODUCT is still there. Its output goes to a log.
step() {
    local name=$1 hint=$2 inputs=$3 product=$4 began=$SECONDS status=0 ticker
    shift 5
    local stamp=$BUILD/$name.stamp log=$BUILD/$name.log
    mkdir -p "$BUILD"
    [ ! -e "$product" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$inputs" ] || return 0
    printf '  %-10s ... ' "$name"
    : >"$log"
    tick "$log" &
    ticker=$!
    # A subshell by itself: as the condition of an `if` it would go on after a command that failed.
    set +e
    (set -e; "$@") >"$log" 2>&1
    status=$?
    set -e
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    # shellcheck disable=SC2059  # a control sequence of ours
    if [ -t 1 ]; then printf "\r$CLEAR"; elif [ -e "$log.ticked" ]; then printf '\n'; fi
    { [ ! -t 1 ] && [ ! -e "$log.ticked" ]; } || printf '  %-10s ... ' "$name"
    rm -f "$log.ticked"
    if [ $status = 0 ]; then
        printf '%s\n' "$inputs" >"$stamp"
        printf '%d s\n' $((SECONDS - began))
    else
        printf 'failed\n'
        tail -n 15 "$log" >&2
        fail "step '$name' (log: $log)" "$hint"
    fi
}

# tick LOG: says every few seconds that a long step still works, and at what: the last line of its log.
CLEAR='\033[K'
tick() {
    local log=$1 starter=$$ began=$SECONDS every=20 line
    [ ! -t 1 ] || every=1
    trap 'kill $!; exit' TERM
    while true; do
        sleep "$every" >/dev/null & # waited for, so that the signal is heard at once
        wait $!
        kill -0 "$starter" 2>/dev/null || exit # interrupted by hand
        line=$(tail -n 1 "$log" | tr -d '\r' | cut -c1-60)
        if [ -t 1 ]; then
            printf "\r  %s s: %s$CLEAR" $((SECONDS - began)) "$line"
        else
            touch "$log.ticked"
            printf '\n    %s s: %s' $((SECONDS - began)) "$line"
        fi
    done
}

# digest FILES: one hash over names and contents; a missing file counts as missing.
digest() { sha256sum -- "$@" 2>/dev/null | sha256sum | cut -c1-32; }
