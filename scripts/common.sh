# Sourced by the sweeps: where things lie, and one run after the other with its failures collected.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
failed=()

# run SCRIPT ARGUMENT...: prints the command and runs it; with DRY_RUN=1 only prints it.
run() {
    printf '+ %s' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
    if [ "${DRY_RUN:-0}" = 1 ]; then return; fi
    "$python" "$@" || failed+=("$*")
}

# Lists what failed; the sweep's exit status says whether anything did.
finish() {
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'failed: %s\n' "${failed[@]}" >&2
        exit 1
    fi
}
