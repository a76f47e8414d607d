#!/usr/bin/env bash
# Task diversity (Raventos et al. 2023) at a size for CPUs: pretraining with two budgets, tables with M*, distilled contexts, and
# figures. docs/task_diversity.md has the results; paper.sh the paper's sizes.
source "$(dirname "$0")/../common.sh"

setting OUTPUT_DIR logfiles/task-diversity
setting JOBS 2
setting POOLS '4 16 64 256 1024 0'
setting STEPS '2000 4000'
setting SEEDS '0 1'
setting DEVICE cpu
begin
split "$POOLS" pools
split "$STEPS" steps
split "$SEEDS" seeds
whole_numbers POOLS "${pools[@]}"
whole_numbers STEPS "${steps[@]}"
whole_numbers SEEDS "${seeds[@]}"

for budget in "${steps[@]}"; do
    for seed in "${seeds[@]}"; do
        run -m llmft.worlds.regression.pretrain --num_pretraining_tasks "${pools[@]}" --steps "$budget" --seeds "$seed" \
            --device "$DEVICE" --output_dir "$OUTPUT_DIR"
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || diversity "${steps[-1]}" --device "$DEVICE"
