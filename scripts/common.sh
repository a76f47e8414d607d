# Sourced by every sweep: settings, the list of runs, and how runs are started, watched and stopped. README.md in this folder
# lists the variables. Nothing here evaluates text: a value stays one word, whatever it contains.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sweep=${0##*scripts/}
sweep=${sweep%.sh}
commands=() # each is a line that `split` splits into words
declare -A shown=() extra_names=() running=() slots=()

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# setting NAME DEFAULT: keep the variable's value from the environment (even an empty one), else set the default; print it.
setting() {
    printf -v "$1" '%s' "${!1-$2}"
    if [ -n "${shown[$1]:-}" ]; then return; fi
    quote line "${!1}"
    printf '%s=%s\n' "$1" "$line" >&2
    shown[$1]=1
}

# whole_numbers NAME VALUE...: fail unless all values are whole numbers; bash would execute other text in arithmetic.
whole_numbers() {
    local value
    for value in "${@:2}"; do
        [[ $value =~ ^(0|[1-9][0-9]{0,8})$ ]] || fail "$1=$value: must be a whole number"
    done
}

# quote NAME WORD...: set the variable NAME to a line that a shell, or `split`, reads as exactly these words.
quote() {
    local word all='' mark="'\\''"
    for word in "${@:2}"; do
        if [[ $word = *[[:cntrl:]]* ]]; then fail "$(printf '%q' "$word"): a command is one line of text; write \\n for a line break"; fi
        [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/$mark}'"
        all+=" $word"
    done
    printf -v "$1" '%s' "${all:1}"
}

# split TEXT ARRAY: put the words of TEXT into ARRAY. Blanks separate words, quotation marks keep one together; a backslash before
# one of these, or before another backslash, makes it ordinary text, and is itself ordinary text elsewhere (\n in a pattern).
split() {
    local rest=$1 part word='' open=0
    local part_of=$'^([^[:blank:]\\\\\'"]+|[[:blank:]]+|\'[^\']*\'|"[^"]*"|\\\\[[:blank:]\\\\\'"]?)'
    local -n words=$2
    words=()
    while [[ $rest =~ $part_of ]]; do
        part=${BASH_REMATCH[0]} rest=${rest:${#BASH_REMATCH[0]}}
        case $part in
            [[:blank:]]*)
                [ "$open" = 0 ] || words+=("$word")
                word='' open=0
                continue
                ;;
            [\'\"]*) part=${part:1:-1} ;;
            \\?) part=${part:1} ;;
        esac
        word+=$part open=1
    done
    [ -z "$rest" ] || fail "$1: cannot be split into words; is a quotation mark missing?"
    [ "$open" = 0 ] || words+=("$word")
}

# find_python: set `python` to the interpreter: PYTHON, or that of the active environment, or else of .venv.
find_python() {
    if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}" ] && [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
    python=${PYTHON:-$(command -v python >/dev/null && echo python || echo python3)}
}

# begin: the settings that all sweeps share; a sweep sets its own defaults before it calls this.
begin() {
    local word
    ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || fail "bash $BASH_VERSION: sweeps need 5.1 or later"
    find_python
    setting OUTPUT_DIR logfiles
    setting JOBS 1
    setting NUM_GPUS 1
    setting LAUNCHER "$([ "$NUM_GPUS" = 1 ] && echo python || echo torchrun)"
    setting EXTRA_ARGS ''
    setting GRACE 60
    for word in JOBS NUM_GPUS GRACE; do whole_numbers "$word" "${!word}"; done
    ((JOBS > 0 && NUM_GPUS > 0)) || fail "JOBS=$JOBS NUM_GPUS=$NUM_GPUS: both must be 1 or more"
    case $LAUNCHER in
        python) launcher=("$python") ;;
        torchrun) launcher=("$python" -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS") ;;
        deepspeed) launcher=("$python" -m deepspeed.launcher.runner --num_gpus "$NUM_GPUS") ;;
        *) fail "LAUNCHER=$LAUNCHER: use python, torchrun or deepspeed" ;;
    esac
    [ "$NUM_GPUS" = 1 ] || [ "$LAUNCHER" != python ] || fail "NUM_GPUS=$NUM_GPUS: LAUNCHER=python starts one process; use torchrun"
    [ "$NUM_GPUS" = 1 ] || [ "$JOBS" = 1 ] || fail "JOBS=$JOBS: with NUM_GPUS=$NUM_GPUS only one run at a time is possible; use JOBS=1"
    split "$EXTRA_ARGS" extra
    for word in "${extra[@]}"; do
        if [[ $word = --* ]]; then name_of "$word"; extra_names[$name]=1; fi
    done
    trap 'stop 130' INT
    trap 'stop 143' TERM
    trap 'stop 129' HUP
    trap end_jobs EXIT
}

# name_of WORD: set `name` to the argument that WORD sets; --no_shuffle sets --shuffle.
name_of() {
    name=${1%%=*}
    name=${name/#--no_/--}
}

# run SCRIPT ARGUMENT...: add a run of an entry script, or with `-m MODULE` of a module. EXTRA_ARGS go last and replace arguments
# of the same names.
run() {
    local word keep=1 own=() script=("$1")
    if [ "$1" = -m ] && [ "$LAUNCHER" = deepspeed ]; then script=(--module --no_local_rank); fi # its words for a module
    for word in "${@:2}"; do
        if [[ $word = --* ]]; then name_of "$word"; keep=1; [ -z "${extra_names[$name]:-}" ] || keep=0; fi
        if [ "$keep" = 1 ]; then own+=("$word"); fi
    done
    if [[ $NUM_GPUS != 1 && $1 = @(ft|distill).py && " ${own[*]} ${!extra_names[*]} " != *' --gradient_accumulation_steps '* ]]; then
        fail "NUM_GPUS=$NUM_GPUS: would multiply the batches of this sweep; use JOBS for several GPUs, or set --per_device_train_batch_size\
 and --gradient_accumulation_steps in EXTRA_ARGS"
    fi
    quote line "${launcher[@]}" "${script[@]}" "${own[@]}" "${extra[@]}"
    commands+=("$line")
}

# compute WORD...: run python in the background, in its own process group, and wait: bash handles a signal at once while it waits,
# but only after a command in the foreground.
compute() {
    setsid "$python" "$@" &
    wait "$!"
}

# prepare WORD...: have python make files that the runs read; with DRY_RUN=1 too, as the commands in the list read them. What it
# prints is no part of the list.
prepare() {
    compute "$@" >&2
}

# prepare_with_model WORD...: the same for a step that loads a model; with DRY_RUN=1, only say that it comes before the list.
prepare_with_model() {
    quote line "$python" "$@"
    if [ "${DRY_RUN:-0}" = 1 ]; then printf 'run this first: %s\n' "$line" >&2; else prepare "$@"; fi
}

# finish [report]: execute all runs, JOBS at a time, or with DRY_RUN=1 print them. If a run fails, the others continue; it is listed
# at the end, and the sweep's exit status is 1. With `report`, write the report then, whether or not runs have failed.
finish() {
    local number status=0
    total=${#commands[@]}
    [ "$total" -gt 0 ] || fail "$sweep: there is nothing to run; a list of settings is empty"
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%s\n' "${commands[@]}"
        return
    fi
    trap 'exit 141' PIPE # who reads the output has gone
    failures=()
    finished=0 skipped=0 failed=0 # a sweep may call this several times
    find_gpus
    check_gpus
    mkdir -p "$OUTPUT_DIR/sweeps"
    logs=$(mktemp -d "$OUTPUT_DIR/sweeps/${sweep//\//-}-$(date +%Y%m%d-%H%M%S)-XXXX") # several machines may write to OUTPUT_DIR
    chmod +rx "$logs" # as umask allows
    for ((number = 1; number <= total; number++)); do
        if [ "${#running[@]}" -ge "$JOBS" ]; then collect; fi
        start "$number"
    done
    while [ "${#running[@]}" -gt 0 ]; do collect; done
    summary
    commands=() logs=''
    if [ "${1:-}" = report ]; then compute -m llmft.report "$OUTPUT_DIR" || status=$?; fi
    [ "$failed" = 0 ] || exit 1
    return "$status"
}

# find_gpus: set `gpus` to those of CUDA_VISIBLE_DEVICES; if that is unset and there are several runs at a time, to the machine's.
find_gpus() {
    gpus=()
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    elif [ "$JOBS" -gt 1 ]; then
        mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -x '[0-9]*')
    fi
}

# check_gpus: fail where the launcher of a run could not give each of its processes a GPU of its own.
check_gpus() {
    local line number most=${#gpus[@]} asks='(deepspeed\.launcher\.runner --num_gpus|--nproc_per_node) ([1-9][0-9]*) '
    [ "$JOBS" = 1 ] || most=1
    for line in "${commands[@]}"; do
        [[ $line =~ $asks ]] || continue
        number=${BASH_REMATCH[2]}
        if [[ ${BASH_REMATCH[1]} = deepspeed* ]]; then
            [ "$JOBS" = 1 ] || [ "${#gpus[@]}" -gt 0 ] ||
                fail "JOBS=$JOBS: no GPUs are known, so DeepSpeed would use GPU 0 for all runs; name them in CUDA_VISIBLE_DEVICES, or use JOBS=1"
            whole_numbers CUDA_VISIBLE_DEVICES "${gpus[@]}" # DeepSpeed knows no other names
        fi
        [[ $line = *' --use_cpu'* ]] || [ "${#gpus[@]}" = 0 ] || [ "$number" -le "$most" ] ||
            fail "NUM_GPUS=$number: JOBS=$JOBS and CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-} leave $most for a run; change one of them"
    done
}

# start NUMBER: start a command in its own process group, with its own log.
start() {
    local slot=0 visible=("${gpus[@]}") list
    printf '[%s/%s] %s\n' "$1" "$total" "${commands[$1 - 1]}"
    split "${commands[$1 - 1]}" command
    while [[ " ${slots[*]} " = *" $slot "* ]]; do slot=$((slot + 1)); done
    if [ "$JOBS" -gt 1 ] && [ "${#gpus[@]}" -gt 0 ]; then visible=("${gpus[slot % ${#gpus[@]}]}"); fi
    case ${command[2]-} in # arguments that are known only now
        torch.distributed.run) command=("${command[@]:0:3}" --shutdown_timeout "$GRACE" "${command[@]:3}") ;; # default: 30 s
        deepspeed.launcher.runner)
            if [ "${command[3]}" = --num_gpus ] && [ "${#visible[@]}" -gt 0 ]; then # --num_gpus makes it ignore CUDA_VISIBLE_DEVICES
                visible=("${visible[@]:0:command[4]}")
                command=("${command[@]:0:3}" "${command[@]:5}")
            fi
            command=("${command[@]:0:3}" --master_port "$(free_port)" "${command[@]:3}") # default: a fixed one
            ;;
    esac
    if [ "${#visible[@]}" -gt 0 ]; then
        printf -v list ',%s' "${visible[@]}"
        command=(env "CUDA_VISIBLE_DEVICES=${list:1}" "${command[@]}")
    fi
    setsid "${command[@]}" >"$logs/$1.log" 2>&1 </dev/null &
    running[$!]=$1
    slots[$!]=$slot
}

free_port() {
    "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# collect: wait until a run ends, and print how it ended.
collect() {
    local pid='' status=0 number how=finished
    wait -n -p pid "${!running[@]}" || status=$?
    number=${running[$pid]}
    unset "running[$pid]" "slots[$pid]"
    if [ "$status" != 0 ]; then
        kill -s KILL -- "-$pid" 2>/dev/null || true # kill processes that it may have left behind
        how="failed (status $status)"
        failed=$((failed + 1))
        failures+=("$number $status")
    elif grep -q '^already finished: ' "$logs/$number.log" && ! grep -q '^record: ' "$logs/$number.log"; then
        how="skipped (already finished)"
        skipped=$((skipped + 1))
    else
        finished=$((finished + 1))
    fi
    printf '[%s/%s] %s; %s\n' "$number" "$total" "$how" "$(counts)"
}

counts() {
    printf '%s finished, %s skipped, %s failed of %s' "$finished" "$skipped" "$failed" "$total"
}

# summary: print the counts, and each failed run with the last line of its log.
summary() {
    local entry number
    printf '%s; logs: %s\n' "$(counts)" "$logs"
    for entry in "${failures[@]}"; do
        number=${entry% *}
        printf 'failed (status %s): %s\n    %s\n    log: %s\n' "${entry#* }" "${commands[number - 1]}" \
            "$(tail -n 1 "$logs/$number.log")" "$logs/$number.log" >&2
    done
}

# stop STATUS: end the sweep before all is done.
stop() {
    end_jobs
    printf 'stopped; run the same command again to continue\n' >&2
    [ -z "${logs:-}" ] || summary
    exit "$1"
}

# end_jobs: stop what was started in the background. It has GRACE seconds to save; a second signal kills it at once.
end_jobs() {
    local pids tenths
    mapfile -t pids < <(jobs -p) # not `running`: a signal may have come before a new run was added to it
    trap 'signal KILL "${pids[@]}" || true' INT TERM HUP
    signal TERM "${pids[@]}" || return 0
    for ((tenths = 0; tenths < GRACE * 10; tenths++)); do
        signal 0 "${pids[@]}" || return 0
        sleep 0.1
    done
    signal KILL "${pids[@]}" || true
}

# signal NAME PID...: signal the process groups of these runs; succeed if any of them exists.
signal() {
    local pid there=1
    for pid in "${@:2}"; do
        if kill -s "$1" -- "-$pid" 2>/dev/null || kill -s "$1" "$pid" 2>/dev/null; then there=0; fi
    done
    return "$there"
}

# diversity STEPS [ARGUMENT...]: distil contexts of the task-diversity runs with this many steps in OUTPUT_DIR; write tables and
# figures of all. Further arguments (--device cuda) go to all that computes.
diversity() {
    local task
    for task in new pool; do
        compute -m llmft.worlds.regression.distill --pretrained "$OUTPUT_DIR" --pretraining_steps "$1" --context_task "$task" \
            --output_dir "$OUTPUT_DIR" "${@:2}"
    done
    compute -m llmft.worlds.regression.measure "$OUTPUT_DIR" "${@:2}"
    compute -m llmft.report diversity "$OUTPUT_DIR/task_diversity"
}
