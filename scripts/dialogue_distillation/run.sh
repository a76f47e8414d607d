#!/usr/bin/env bash
# Distils an invented dialogue into the weights of a real model: who did what, when, and what has changed, asked without it, after
# it, and after distilling it; three dialogues. scripts/get_model.sh installs the model.
source "$(dirname "$0")/../common.sh"
source "$(dirname "$0")/../with_and_without.sh"

setting OUTPUT_DIR logfiles/dialogues
setting MODEL models/Qwen2.5-Coder-0.5B-Instruct
setting SEEDS '0 1 2'
setting METHODS 'none dialogue lora'
setting EPOCHS 4
setting RATE 1e-3
begin
split "$SEEDS" seeds
split "$METHODS" methods

for seed in "${seeds[@]}"; do
    folder=$OUTPUT_DIR/files/$seed
    prepare scripts/dialogue_distillation/make_dialogue.py "$folder" --seed "$seed"
    common=(--task questions --validation_file "$folder/validation.jsonl" --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR"
        --chat --pattern '{text1}' --system_prompt 'Answer with the fact alone, in as few words as possible.' --max_new_tokens 16
        --seed "$seed" --data_seed "$seed" --max_batch_tokens 1024)
    context=(--context dialogue --context_file "$folder/turns.jsonl")
    compare dialogue "$folder/train.jsonl" "$EPOCHS"
done
finish report
