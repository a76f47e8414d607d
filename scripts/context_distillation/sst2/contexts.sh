#!/usr/bin/env bash
# SST-2: which context is worth distilling? An instruction, 8 demonstrations (calibrated or not), or the mean of several
# contexts of 8 demonstrations, each into the same LoRA student that reads "{text1} ?" alone.
#
#   DATA_DIR=... MODEL=... bash scripts/context_distillation/sst2/contexts.sh       (empty DATA_DIR: from the hub)
source "$(dirname "$0")/../../common.sh"

MODEL=${MODEL:-models/SmolLM2-135M-Instruct}
DATA_DIR=${DATA_DIR:-${LLMFT_DATA_DIR:-}}
OUTPUT_DIR=${OUTPUT_DIR:-logfiles/sst2-contexts}
DATA_SEEDS=${DATA_SEEDS:-0 1 2}
CONTEXTS=${CONTEXTS:-instruction demonstrations calibrated mean}
NUM_CONTEXTS=${NUM_CONTEXTS:-4}
QUERIES=${QUERIES:-128}
EPOCHS=${EPOCHS:-3}
EVAL_ROWS=${EVAL_ROWS:-200}
printf 'MODEL=%s DATA_DIR=%s OUTPUT_DIR=%s DATA_SEEDS=%s CONTEXTS=%s NUM_CONTEXTS=%s QUERIES=%s EPOCHS=%s EVAL_ROWS=%s\n' \
    "$MODEL" "$DATA_DIR" "$OUTPUT_DIR" "$DATA_SEEDS" "$CONTEXTS" "$NUM_CONTEXTS" "$QUERIES" "$EPOCHS" "$EVAL_ROWS"

common=(--task sst2 --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR"
    --teacher_pattern 'Review: {text1}\nSentiment:' --teacher_target_tokens negative,positive
    --student_pattern '{text1} ?' --student_target_tokens No,Yes
    --max_train_samples "$QUERIES" --max_eval_samples "$EVAL_ROWS" --num_train_epochs "$EPOCHS" --per_device_train_batch_size 16
    --learning_rate 5e-4 --use_adapter --adapter_dim 16 --lora_alpha 32 --no_evaluate_with_context)
[ -n "$DATA_DIR" ] && common+=(--data_dir "$DATA_DIR")

for data_seed in $DATA_SEEDS; do
    for context in $CONTEXTS; do
        case $context in
            instruction) own=(--context instruction --instruction "Decide whether a film review is positive or negative.") ;;
            demonstrations) own=(--num_shots 8) ;;
            calibrated) own=(--num_shots 8 --calibrate) ;;
            mean) own=(--num_shots 8 --calibrate --num_contexts "$NUM_CONTEXTS") ;;
            *) echo "CONTEXTS: no context $context" >&2 && exit 2 ;;
        esac
        run distill.py "${common[@]}" "${own[@]}" --data_seed "$data_seed"
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || "$python" -m llmft.report "$OUTPUT_DIR"
