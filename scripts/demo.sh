#!/usr/bin/env bash
# The whole comparison on the embedded worlds, in minutes on any machine, with three seeds each. The last line names the report.
# Labels: a model that needs 16 demonstrations to answer, the same model fine-tuned on them, and the same model after distillation,
# answering without them; each seed has its own latent rule. Then the same on a task with confounded demonstrations, which two
# rules explain equally well.
# Text answers: a model that needs a document to answer questions about it, the same model trained on questions with their
# answers, or on the document itself, and the same model after distillation; each seed has its own document.
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
    common=(--task notes --output_dir "$OUTPUT_DIR" --seed "$seed" --data_seed "$seed")
    run eval.py "${common[@]}" --context none
    run eval.py "${common[@]}"
    run ft.py "${common[@]}"
    run ft.py "${common[@]}" --train_on document --num_train_epochs 100 # until it knows the document by heart
    run distill.py "${common[@]}"
    run distill.py "${common[@]}" --use_adapter
done
finish report
