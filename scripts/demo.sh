#!/usr/bin/env bash
# The whole question on the embedded world, in minutes on any machine: a model that needs 16 demonstrations to answer, the same
# model fine-tuned on them, and the same model after distillation, answering without them. Three seeds, each another latent rule.
source "$(dirname "$0")/common.sh"

OUTPUT_DIR=${OUTPUT_DIR:-logfiles/demo}
SEEDS=${SEEDS:-0 1 2}
printf 'OUTPUT_DIR=%s SEEDS=%s\n' "$OUTPUT_DIR" "$SEEDS"

lora=(--use_adapter --adapter_dim 16 --lora_alpha 32 --learning_rate 1e-2)
few=(--train_on demonstrations --per_device_train_batch_size 16 --num_train_epochs 50)
many=(--max_train_samples 256 --per_device_train_batch_size 32 --num_train_epochs 20)
for seed in $SEEDS; do
    common=(--task toy --output_dir "$OUTPUT_DIR" --seed "$seed" --data_seed "$seed")
    run eval.py "${common[@]}" --num_shots 0
    run eval.py "${common[@]}" --num_shots 16
    run ft.py "${common[@]}" "${few[@]}" --learning_rate 1e-3
    run ft.py "${common[@]}" "${few[@]}" "${lora[@]}"
    run distill.py "${common[@]}" "${many[@]}" --learning_rate 1e-3
    run distill.py "${common[@]}" "${many[@]}" "${lora[@]}"
done
finish
[ "${DRY_RUN:-0}" = 1 ] || "$python" -m llmft.report "$OUTPUT_DIR"
