# Sourced by the job scripts: a command that Slurm may preempt. SIGTERM (or SIGUSR1, which some sites use with --signal) reaches it
# in time to save a checkpoint, and the job returns to the queue.
# shellcheck shell=bash
source scripts/common.sh
setting MAX_RESTARTS 10
whole_numbers MAX_RESTARTS "$MAX_RESTARTS"

# terminate PID: how SIGTERM is passed on to a command; a job script may define another way.
terminate() { kill -TERM "$1" 2>/dev/null; }

# preemptible WORD...: run the command; its exit status is the job's.
preemptible() {
    local status=0 cut_short=0 pid
    "$@" &
    pid=$!
    trap 'cut_short=1; terminate "$pid" || true' TERM USR1
    wait "$pid" || status=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal interrupts `wait`, not the command
        status=0
        wait "$pid" || status=$?
    done
    if [ "$cut_short" = 1 ] && [ "$status" != 0 ]; then requeue; fi
    exit "$status"
}

# requeue: return the job to the queue, unless it has been there so often that it may never end.
requeue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    else
        printf 'not requeued: restarted %s times, MAX_RESTARTS=%s; --time may be too short for a run that cannot save: raise one of them\n' \
            "${SLURM_RESTART_COUNT:-0}" "$MAX_RESTARTS" >&2
    fi
}
