#!/usr/bin/env bash
# Run lines of a sweep's list of commands as a sweep:
#
#   DRY_RUN=1 bash scripts/pattern_verbalizer_ft/rte/run.sh > commands.txt
#   bash scripts/run_lines.sh commands.txt [FIRST [COUNT]]         the first line is 1, blank lines do not count; default: all
file=$(realpath "${1:?name the file with the commands}")
source "$(dirname "$0")/common.sh"
for name in EXTRA_ARGS NUM_GPUS LAUNCHER PYTHON; do
    [ -z "${!name:-}" ] || fail "$name=${!name}: each line has its own; unset it here, and set it where the lines are made (DRY_RUN=1)"
    shown[$name]=1 # its default says nothing about the lines
done
begin
mapfile -t commands < <(grep -v '^[[:blank:]]*$' "$file")
whole_numbers FIRST "${2:-1}"
whole_numbers COUNT "${3:-0}"
first=${2:-1} count=${3:-${#commands[@]}}
((first > 0 && first <= ${#commands[@]})) || fail "FIRST=$first: $file has ${#commands[@]} lines; name one of them"
commands=("${commands[@]:first - 1:count}")
for line in "${commands[@]}"; do split "$line" command; done # a line that cannot be read is found before any is started
finish
