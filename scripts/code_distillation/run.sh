#!/usr/bin/env bash
# Distils code into the weights of a real model: an invented library, whose answers are checked by running them, and a part of this
# project; each without it, with it in the prompt, and distilled. scripts/get_model.sh installs the model.
source "$(dirname "$0")/../common.sh"
source "$(dirname "$0")/../with_and_without.sh"

setting OUTPUT_DIR logfiles/code
setting MODEL models/Qwen2.5-Coder-0.5B-Instruct
setting LIBRARIES 'invented real'
setting SEEDS '0 1 2'
setting METHODS 'none file lora'
setting EPOCHS 8
setting REAL_EPOCHS 3
setting RATE 1e-3
setting FOLDER llmft
setting CONTEXT_GLOB models/wrapping.py
setting TRAIN_GLOB 'models/*/*.py'
setting VALIDATION_GLOB 'distillation/*.py,evaluation/*.py,training/*.py,pipelines/*.py'
setting QUERY_CHARACTERS 700
begin
split "$LIBRARIES" libraries
split "$SEEDS" seeds
split "$METHODS" methods

for seed in "${seeds[@]}"; do
    model=(--model_name_or_path "$MODEL" --output_dir "$OUTPUT_DIR" --seed "$seed" --data_seed "$seed" --max_batch_tokens 1024)
    for library in "${libraries[@]}"; do
        rows=$OUTPUT_DIR/rows/$library-$seed
        common=(--task code --validation_file "$rows/validation.jsonl" "${model[@]}")
        case $library in
            invented)
                prepare scripts/code_distillation/make_library.py "$rows" --seed "$seed"
                common+=(--out_of_domain_file "$rows/unasked.jsonl" --run_code "$rows/library" --max_new_tokens 16)
                context=(--context file --context_dir "$rows/library" --context_glob '*.py')
                compare file "$rows/train.jsonl" "$EPOCHS"
                ;;
            real)
                [ "$seed" = "${seeds[0]}" ] || continue # its rows are the same for all seeds
                prepare -m llmft.tasks.completions "$FOLDER" --context_glob "$CONTEXT_GLOB" --train_glob "$TRAIN_GLOB" \
                    --validation_glob "$VALIDATION_GLOB" --query_characters "$QUERY_CHARACTERS" --output_dir "$rows"
                common+=(--max_new_tokens 64)
                context=(--context file --context_dir "$FOLDER" --context_glob "$CONTEXT_GLOB")
                compare file "$rows/train.jsonl" "$REAL_EPOCHS"
                ;;
            *) fail "LIBRARIES=$LIBRARIES: $library is none of invented, real" ;;
        esac
    done
done
finish report
