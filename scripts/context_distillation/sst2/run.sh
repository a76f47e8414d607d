#!/usr/bin/env bash
# SST-2: can a small model that needs eight demonstrations and an informative prompt answer behind the bare text?
# Teacher: 8 demonstrations, "Review: ... Sentiment:", calibrated. Student: "{text1} ?", Yes or No, no context.
#
#   DATA_DIR=... MODEL=... bash scripts/context_distillation/sst2/run.sh       (empty DATA_DIR: from the hub)
source "$(dirname "$0")/../../common.sh"

MODEL=${MODEL:-models/SmolLM2-135M-Instruct}
DATA_DIR=${DATA_DIR:-${LLMFT_DATA_DIR:-}}
OUTPUT_DIR=${OUTPUT_DIR:-logfiles/sst2}
DATA_SEEDS=${DATA_SEEDS:-0 1 2}
METHODS=${METHODS:-full lora}
QUERIES=${QUERIES:-384}
EPOCHS=${EPOCHS:-4}
printf 'MODEL=%s DATA_DIR=%s OUTPUT_DIR=%s DATA_SEEDS=%s METHODS=%s QUERIES=%s EPOCHS=%s\n' \
    "$MODEL" "$DATA_DIR" "$OUTPUT_DIR" "$DATA_SEEDS" "$METHODS" "$QUERIES" "$EPOCHS"

common=(--task sst2 --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR" --num_shots 8 --calibrate
    --teacher_pattern 'Review: {text1}\nSentiment:' --teacher_target_tokens negative,positive
    --student_pattern '{text1} ?' --student_target_tokens No,Yes
    --max_train_samples "$QUERIES" --num_train_epochs "$EPOCHS" --per_device_train_batch_size 16)
[ -n "$DATA_DIR" ] && common+=(--data_dir "$DATA_DIR")
declare -A method=(
    [full]="--learning_rate 2e-5"
    [lora]="--learning_rate 5e-4 --use_adapter --adapter_dim 16 --lora_alpha 32"
)

for name in $METHODS; do
    for data_seed in $DATA_SEEDS; do
        # shellcheck disable=SC2086  # several words on purpose
        run distill.py "${common[@]}" --data_seed "$data_seed" ${method[$name]}
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || "$python" -m llmft.report "$OUTPUT_DIR"
