#!/usr/bin/env bash
# Distils an invented document into the weights of a real model: questions about it without it, after it, and after each way of
# training on it; three documents. Table in docs/results.md; scripts/get_model.sh installs the model.
source "$(dirname "$0")/../common.sh"

setting OUTPUT_DIR logfiles/documents
setting MODEL models/Qwen2.5-Coder-0.5B-Instruct
setting SEEDS '0 1 2'
setting METHODS 'none file sft document lora cartridge'
setting EPOCHS 5
setting RATE 1e-3
setting CARTRIDGE_RATE 5e-3
begin
split "$SEEDS" seeds
split "$METHODS" methods

for seed in "${seeds[@]}"; do
    guide=$OUTPUT_DIR/guides/$seed
    prepare scripts/document_distillation/make_guide.py "$guide" --seed "$seed"
    common=(--task questions --validation_file "$guide/validation.jsonl" --model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR"
        --chat --system_prompt 'Answer with the fact alone, in as few words as possible.' --max_new_tokens 24 --seed "$seed"
        --data_seed "$seed" --max_batch_tokens 1024)
    trained=("${common[@]}" --train_file "$guide/train.jsonl" --num_train_epochs "$EPOCHS" --per_device_train_batch_size 4 --lr_scheduler_type linear
        --no_save_final_model)
    lora=(--use_adapter --adapter_dim 16 --learning_rate "$RATE")
    for method in "${methods[@]}"; do
        case $method in
            none) run eval.py "${common[@]}" --context none ;;
            file) run eval.py "${common[@]}" --context file --context_file "$guide/guide.md" ;;
            sft) run ft.py "${trained[@]}" "${lora[@]}" ;;
            document) run ft.py "${trained[@]}" "${lora[@]}" --train_on document --context_file "$guide/guide.md" ;;
            lora) run distill.py "${trained[@]}" "${lora[@]}" --context file --context_file "$guide/guide.md" ;;
            cartridge)
                run distill.py "${trained[@]}" --use_cartridge --cartridge_tokens 128 --learning_rate "$CARTRIDGE_RATE" --context file \
                    --context_file "$guide/guide.md"
                ;;
            *) fail "METHODS=$METHODS: $method is none of none, file, sft, document, lora, cartridge" ;;
        esac
    done
done
finish report
