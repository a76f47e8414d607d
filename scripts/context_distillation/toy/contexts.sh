#!/usr/bin/env bash
# The embedded world: each kind of context, several contexts, and more demonstrations than fit in the window; three seeds.
source "$(dirname "$0")/../../common.sh"

setting OUTPUT_DIR logfiles/toy-contexts
setting SEEDS '0 1 2'
begin
split "$SEEDS" seeds

common=(--task toy --output_dir "$OUTPUT_DIR" --use_cpu --max_train_samples 256 --max_eval_samples 150 --learning_rate 1e-3
    --num_train_epochs 10 --per_device_train_batch_size 32 --no_evaluate_with_context --no_save_final_model)

for seed in "${seeds[@]}"; do
    seeded=(--seed "$seed" --data_seed "$seed")
    run distill.py "${common[@]}" "${seeded[@]}" --context demonstrations --num_shots 16
    run distill.py "${common[@]}" "${seeded[@]}" --context instruction
    run distill.py "${common[@]}" "${seeded[@]}" --context label
    run distill.py "${common[@]}" "${seeded[@]}" --context instruction,demonstrations --num_shots 2
    run distill.py "${common[@]}" "${seeded[@]}" --num_shots 2
    run distill.py "${common[@]}" "${seeded[@]}" --num_shots 2 --num_contexts 8
    run distill.py "${common[@]}" "${seeded[@]}" --num_shots 16 --num_contexts 4
    run distill.py "${common[@]}" "${seeded[@]}" --num_shots 16 --num_contexts 4 --context_schedule cycle
    run distill.py "${common[@]}" "${seeded[@]}" --num_shots 16 --targets hard
done
finish report
