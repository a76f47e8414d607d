#!/usr/bin/env bash
# SST-2: can a small model that needs eight demonstrations and an informative prompt learn to answer from the bare text?
# Teacher: 8 demonstrations, "Review: ... Sentiment:", calibrated. Student: "{text1} ?", Yes or No, no context.
#
#   DATA_DIR=... MODEL=... bash scripts/context_distillation/sst2/run.sh       (empty DATA_DIR: from the hub)
source "$(dirname "$0")/../../common.sh"

setting MODEL models/SmolLM2-135M-Instruct
setting DATA_DIR "${LLMFT_DATA_DIR:-}"
setting OUTPUT_DIR logfiles/sst2
setting DATA_SEEDS '0 1 2'
setting METHODS 'full lora'
setting QUERIES 384
setting EPOCHS 4
begin
split "$DATA_SEEDS" data_seeds
split "$METHODS" methods

common=(--task sst2 --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR" --num_shots 8 --calibrate
    --teacher_pattern 'Review: {text1}\nSentiment:' --teacher_target_tokens 'negative,positive'
    --student_pattern '{text1} ?' --student_target_tokens 'No,Yes'
    --max_train_samples "$QUERIES" --num_train_epochs "$EPOCHS" --per_device_train_batch_size 16)
[ -z "$DATA_DIR" ] || common+=(--data_dir "$DATA_DIR")

for method in "${methods[@]}"; do
    case $method in
        full) own=(--learning_rate 2e-5) ;;
        lora) own=(--learning_rate 5e-4 --use_adapter --adapter_dim 16 --lora_alpha 32) ;;
        *) fail "METHODS: no method $method; give full or lora" ;;
    esac
    for data_seed in "${data_seeds[@]}"; do run distill.py "${common[@]}" --data_seed "$data_seed" "${own[@]}"; done
done
finish report
