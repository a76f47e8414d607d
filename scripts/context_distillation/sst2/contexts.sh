#!/usr/bin/env bash
# SST-2: which context is worth distilling? An instruction, 8 demonstrations (calibrated or not), or the mean of several
# contexts of 8 demonstrations. The LoRA student is the same for all and reads only "{text1} ?".
#
#   DATA_DIR=... MODEL=... bash scripts/context_distillation/sst2/contexts.sh       (empty DATA_DIR: from the hub)
source "$(dirname "$0")/../../common.sh"

setting MODEL models/SmolLM2-135M-Instruct
setting DATA_DIR "${LLMFT_DATA_DIR:-}"
setting OUTPUT_DIR logfiles/sst2-contexts
setting DATA_SEEDS '0 1 2'
setting CONTEXTS 'instruction demonstrations calibrated mean'
setting NUM_CONTEXTS 4
setting QUERIES 128
setting EPOCHS 3
setting EVAL_ROWS 200
begin
split "$DATA_SEEDS" data_seeds
split "$CONTEXTS" contexts

common=(--task sst2 --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR"
    --teacher_pattern 'Review: {text1}\nSentiment:' --teacher_target_tokens 'negative,positive'
    --student_pattern '{text1} ?' --student_target_tokens 'No,Yes'
    --max_train_samples "$QUERIES" --max_eval_samples "$EVAL_ROWS" --num_train_epochs "$EPOCHS" --per_device_train_batch_size 16
    --learning_rate 5e-4 --use_adapter --adapter_dim 16 --lora_alpha 32 --no_evaluate_with_context)
[ -z "$DATA_DIR" ] || common+=(--data_dir "$DATA_DIR")

for data_seed in "${data_seeds[@]}"; do
    for context in "${contexts[@]}"; do
        case $context in
            instruction) own=(--context instruction --instruction "Decide whether a film review is positive or negative.") ;;
            demonstrations) own=(--num_shots 8) ;;
            calibrated) own=(--num_shots 8 --calibrate) ;;
            mean) own=(--num_shots 8 --calibrate --num_contexts "$NUM_CONTEXTS") ;;
            *) fail "CONTEXTS: no context $context; give instruction, demonstrations, calibrated or mean" ;;
        esac
        run distill.py "${common[@]}" "${own[@]}" --data_seed "$data_seed"
    done
done
finish report
