#!/usr/bin/env bash
# The whole comparison on the embedded world, in minutes on any machine: a model that needs 16 demonstrations to answer, the same
# model fine-tuned on them, and the same model after distillation, answering without them. Three seeds, each with its own latent
# rule. Then the same on a task with confounded demonstrations, which two rules explain equally well. The last line names the
# report.
source "$(dirname "$0")/common.sh"

setting OUTPUT_DIR logfiles/demo
setting SEEDS '0 1 2'
setting JOBS 2
begin
split "$SEEDS" seeds

tune=(--train_on demonstrations --num_train_epochs 20 --per_device_train_batch_size 8 --learning_rate 1e-3)
tune_lora=(--train_on demonstrations --num_train_epochs 20 --per_device_train_batch_size 4 --learning_rate 3e-3 --use_adapter)
distil=(--max_train_samples 256 --num_train_epochs 10 --per_device_train_batch_size 32 --learning_rate 1e-3)
distil_lora=(--max_train_samples 256 --num_train_epochs 10 --per_device_train_batch_size 16 --learning_rate 1e-3 --use_adapter)
for seed in "${seeds[@]}"; do
    common=(--task toy --output_dir "$OUTPUT_DIR" --seed "$seed" --data_seed "$seed")
    run eval.py "${common[@]}" --num_shots 0
    run eval.py "${common[@]}" --num_shots 16
    run ft.py "${common[@]}" "${tune[@]}"
    run ft.py "${common[@]}" "${tune_lora[@]}"
    run distill.py "${common[@]}" "${distil[@]}"
    run distill.py "${common[@]}" "${distil_lora[@]}"
    common+=(--task_variant 'passive,flipped,confounded')
    run eval.py "${common[@]}" --num_shots 16
    run ft.py "${common[@]}" "${tune[@]}"
    run distill.py "${common[@]}" "${distil[@]}"
done
finish
report
