# Sourced by the job scripts: a command that Slurm may preempt. SIGTERM reaches it in time to save a checkpoint, and the job
# returns to the queue.
# shellcheck shell=bash
set -euo pipefail

# terminate PID: how SIGTERM is passed on to a command; a job script may define another way.
terminate() { kill -TERM "$1" 2>/dev/null; }

# preemptible WORD...: run the command; its exit status is the job's.
preemptible() {
    local status=0 cut_short=0 pid
    "$@" &
    pid=$!
    trap 'cut_short=1; terminate "$pid" || true' TERM
    wait "$pid" || status=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal interrupts `wait`, not the command
        status=0
        wait "$pid" || status=$?
    done
    if [ "$cut_short" = 1 ] && [ "$status" != 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$status"
}
