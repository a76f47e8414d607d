# Sourced by the sweeps: where things lie, and runs one after the other (or JOBS at a time) with their failures collected.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
commands=()
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; exit 130' INT TERM # a background run does not hear the keyboard's interrupt itself

# run SCRIPT ARGUMENT...: prints the command and starts it when fewer than JOBS are under way; with DRY_RUN=1 only prints it.
run() {
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do sleep 0.2; done
    printf '+ %s' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
    if [ "${DRY_RUN:-0}" = 1 ]; then return; fi
    "$python" "$@" &
    pids+=($!)
    commands+=("$*")
}

# Waits for all runs and lists what failed; the sweep's exit status says whether anything did.
finish() {
    local failed=0 i
    for i in "${!pids[@]}"; do
        wait "${pids[$i]}" || { failed=1; printf 'failed: %s\n' "${commands[$i]}" >&2; }
    done
    [ "$failed" = 0 ] || exit 1
}
