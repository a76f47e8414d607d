# Sourced by the sweeps: where things lie, and runs one after the other (or JOBS at a time) with their failures collected.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

# run SCRIPT ARGUMENT...: prints the command and starts it once fewer than JOBS are under way; with DRY_RUN=1 only prints it.
run() {
    printf '+ %s' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
    if [ "${DRY_RUN:-0}" = 1 ]; then return; fi
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do sleep 0.2; done
    { "$python" "$@" || printf '%s\n' "$*" >>"$failures"; } &
}

# Waits for all runs and lists what failed; the sweep's exit status says whether anything did.
finish() {
    wait
    if [ -s "$failures" ]; then
        sed 's/^/failed: /' "$failures" >&2
        exit 1
    fi
}
