#!/usr/bin/env bash
# The embedded world: how much of the gap each trained part recovers, by learning rate and epoch (table in docs/defaults.md).
source "$(dirname "$0")/../../common.sh"

setting OUTPUT_DIR logfiles/toy-defaults
setting DATA_SEEDS '0 1 2'
setting METHODS 'full lora ia3 bitfit parallel soft_prompt cartridge head_only'
setting QUERIES 256
setting EPOCHS 12
begin
split "$DATA_SEEDS" data_seeds
split "$METHODS" methods

common=(--task toy --output_dir "$OUTPUT_DIR" --max_train_samples "$QUERIES" --num_train_epochs "$EPOCHS" --max_eval_samples 100
    --eval_strategy epoch --no_evaluate_with_context --no_save_final_model)

for method in "${methods[@]}"; do
    case $method in
        full) own=() rates=(3e-4 1e-3 3e-3) ;;
        lora) own=(--use_adapter) rates=(1e-3 3e-3 1e-2) ;;
        ia3) own=(--use_adapter --adapter_type ia3) rates=(1e-2 3e-2 1e-1) ;;
        bitfit) own=(--bitfit) rates=(3e-3 1e-2 3e-2) ;;
        parallel) own=(--use_adapter --adapter_type parallel) rates=(1e-3 3e-3 1e-2) ;;
        soft_prompt) own=(--use_soft_prompt) rates=(1e-2 3e-2 1e-1) ;;
        cartridge) own=(--use_cartridge) rates=(1e-3 1e-2 3e-2) ;;
        head_only) own=(--head_only) rates=(1e-3 1e-2) ;;
        *) fail "METHODS: no method $method; give full, lora, ia3, bitfit, parallel, soft_prompt, cartridge or head_only" ;;
    esac
    for rate in "${rates[@]}"; do
        for data_seed in "${data_seeds[@]}"; do
            run distill.py "${common[@]}" --data_seed "$data_seed" --learning_rate "$rate" "${own[@]}"
        done
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || "$python" scripts/gap_by_epoch.py "$OUTPUT_DIR"
