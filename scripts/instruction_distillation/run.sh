#!/usr/bin/env bash
# Distils an instruction into the weights of a real model: which of its rules the answers follow without it, after it, and after
# distilling it, for requests like those in training and for requests that ask for the opposite; three draws of requests.
# scripts/get_model.sh installs the model.
source "$(dirname "$0")/../common.sh"
source "$(dirname "$0")/../with_and_without.sh"

setting OUTPUT_DIR logfiles/instructions
setting MODEL models/Qwen2.5-Coder-0.5B-Instruct
setting SEEDS '0 1 2'
setting METHODS 'none instruction lora'
setting EPOCHS 4
setting RATE 1e-3
begin
split "$SEEDS" seeds
split "$METHODS" methods

for seed in "${seeds[@]}"; do
    folder=$OUTPUT_DIR/files/$seed
    prepare scripts/instruction_distillation/make_requests.py "$folder" --seed "$seed"
    common=(--task questions --rules "$folder/rules.json" --validation_file "$folder/validation.jsonl"
        --out_of_domain_file "$folder/contradicting.jsonl" --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR" --chat
        --pattern '{text1}' --max_new_tokens 32 --seed "$seed" --data_seed "$seed" --max_batch_tokens 1024)
    context=(--context "instruction,dialogue" --instruction "$folder/instruction.txt" --context_file "$folder/examples.jsonl")
    compare instruction "$folder/train.jsonl" "$EPOCHS"
done
finish report
