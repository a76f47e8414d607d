#!/usr/bin/env bash
# The paper's sizes (Raventos et al. 2023), on GPUs: base and small models with two batch sizes, and the large one at D = 8, 16, 32.
# Budgets of different steps are `STEPS='500000 1000000' BATCH_SIZES=256`; contexts are distilled after the last of STEPS.
# The flags are the paper's and its example configuration's; peak rates of single models and weight decays are in appendices that
# were not available. Estimated, not measured: base 8e10 FLOP a step and pool, so about 5e17 for its twelve pools in 500,000 steps,
# 8 to 12 hours on one H200 in float32; small a quarter of that; the large model 4 to 6 times as long as base for each D.
source "$(dirname "$0")/../common.sh"

setting OUTPUT_DIR logfiles/task-diversity-paper
setting SIZES 'base small large'
setting STEPS 500000
setting BATCH_SIZES '256 512'
setting SEEDS '0'
setting POOLS '1 4 16 64 256 1024 4096 16384 32768 65536 1048576 0'
begin
split "$SIZES" sizes
split "$STEPS" steps
split "$BATCH_SIZES" batches
split "$SEEDS" seeds
split "$POOLS" pools
whole_numbers STEPS "${steps[@]}"
whole_numbers BATCH_SIZES "${batches[@]}"
whole_numbers SEEDS "${seeds[@]}"
whole_numbers POOLS "${pools[@]}"

common=(--num_pretraining_tasks "${pools[@]}" --tokens paper --optimizer adam --learning_rate 1e-3 --beta2 0.999 --warmup_share 0.5
    --init_std 0.02 --read_in_std 0.02 --eval_every 10000 --eval_sequences 1048576 --save_every 10000 --device cuda
    --output_dir "$OUTPUT_DIR")
for size in "${sizes[@]}"; do
    case $size in
        base) dimensions=(8) shape=(--layers 8 --width 128 --heads 2) ;;
        small) dimensions=(8) shape=(--layers 4 --width 64 --heads 2) ;;
        large) dimensions=(8 16 32) shape=(--layers 12 --width 256 --heads 4) ;;
        *) fail "SIZES=$SIZES: $size is none of base, small, large" ;;
    esac
    for dimension in "${dimensions[@]}"; do
        for batch in "${batches[@]}"; do
            for budget in "${steps[@]}"; do
                for seed in "${seeds[@]}"; do
                    run -m llmft.worlds.regression.pretrain "${common[@]}" "${shape[@]}" --dimension "$dimension" \
                        --batch_size "$batch" --steps "$budget" --seeds "$seed"
                done
            done
        done
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || diversity "${steps[-1]}" --device cuda
