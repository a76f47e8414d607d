#!/usr/bin/env bash
# An embedded document, learnt from answers of the teacher, given ones, the student's own, and mixed ones; and from the teacher's
# with a share of the loss that keeps the student unchanged elsewhere. With METHODS=self-study, from queries that a real model
# writes (WRITER, by scripts/get_model.sh) and the teacher answers. Three documents; docs/results.md has the table, and the
# commands for its rows with another divergence.
source "$(dirname "$0")/../common.sh"

setting OUTPUT_DIR logfiles/on-policy
setting SEEDS '0 1 2'
setting METHODS 'teacher given student mixed retain'
setting EPOCHS 6
setting THRESHOLD 0.3
setting RETAIN_WEIGHT 0.05
setting WRITER models/Qwen2.5-Coder-0.5B-Instruct
setting NUM_QUERIES 200
setting STUDY_EPOCHS 6
begin
split "$SEEDS" seeds
split "$METHODS" methods

# study SEED PAIRS: let the writer ask about the document of a seed, and the embedded model answer.
study() {
    prepare scripts/document_distillation/make_notes.py "$OUTPUT_DIR/documents" --seed "$1"
    prepare_with_model -m llmft.self_study --model_name_or_path notes --pattern 'Question: {text1} Answer:' \
        --writer_model_name_or_path "$WRITER" --context_file "$OUTPUT_DIR/documents/notes-$1" --num_queries "$NUM_QUERIES" \
        --max_new_tokens 8 --max_query_tokens 32 --data_seed "$1" --output_file "$2" --output_dir "$OUTPUT_DIR" --use_cpu --bf16
}

for seed in "${seeds[@]}"; do
    prompts=$OUTPUT_DIR/unrelated/$seed.jsonl
    prepare scripts/document_distillation/make_unrelated.py "$prompts" --seed "$seed" --number 300
    common=(--task notes --output_dir "$OUTPUT_DIR" --use_cpu --seed "$seed" --data_seed "$seed"
        --eval_strategy steps --eval_steps 0.25 --no_evaluate_with_context --no_save_final_model)
    as_given=("${common[@]}" --num_train_epochs "$EPOCHS")
    for method in "${methods[@]}"; do
        case $method in
            teacher | given | student) run distill.py "${as_given[@]}" --answers "$method" ;;
            mixed) run distill.py "${as_given[@]}" --answers mixed --mixed_threshold "$THRESHOLD" ;;
            retain) run distill.py "${as_given[@]}" --retain_weight "$RETAIN_WEIGHT" --retain_file "$prompts" ;;
            self-study)
                pairs=$OUTPUT_DIR/pairs/$seed.jsonl
                study "$seed" "$pairs"
                run distill.py "${common[@]}" --query_file "$pairs" --answers given --num_train_epochs "$STUDY_EPOCHS"
                ;;
            *) fail "METHODS=$METHODS: $method is none of teacher, given, student, mixed, retain, self-study" ;;
        esac
    done
done
finish report
