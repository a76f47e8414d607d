#!/usr/bin/env bash
# The embedded world: two contexts that contradict each other, one after the other. The second command starts from the student of
# the first; the original model teaches both.
source "$(dirname "$0")/../../common.sh"

setting OUTPUT_DIR logfiles/toy-sequential
begin
[ "${DRY_RUN:-0}" != 1 ] || fail "DRY_RUN=1: the second command starts from the folder that the first one makes; leave DRY_RUN out"

common=(--task toy --task_variant entailment --context instruction --use_cpu --max_train_samples 256 --max_eval_samples 150
    --learning_rate 1e-3 --num_train_epochs 10 --per_device_train_batch_size 32 --no_evaluate_with_context)

run distill.py "${common[@]}" --output_dir "$OUTPUT_DIR/first" --instruction 'entailment means Yes'
finish
first=("$OUTPUT_DIR"/first/*/toy/toy/*/model) # distill, or with EXTRA_ARGS distill-lora and the like
[ "${#first[@]}" = 1 ] || fail "OUTPUT_DIR=$OUTPUT_DIR: has several runs in first/; name another folder"
run distill.py "${common[@]}" --output_dir "$OUTPUT_DIR/second" --instruction 'entailment means No' \
    --model_name_or_path "${first[0]}" --teacher_model_name_or_path toy
finish report
