#!/usr/bin/env bash
# An embedded document, learnt from answers of the teacher, given ones, the student's own, and mixed ones; and from the teacher's
# with a share of the loss that keeps the student unchanged elsewhere. Three documents; docs/results.md has the table, and the
# commands for its rows with another divergence.
source "$(dirname "$0")/../common.sh"

setting OUTPUT_DIR logfiles/on-policy
setting SEEDS '0 1 2'
setting METHODS 'teacher given student mixed retain'
setting EPOCHS 6
setting THRESHOLD 0.3
setting RETAIN_WEIGHT 0.05
begin
split "$SEEDS" seeds
split "$METHODS" methods

for seed in "${seeds[@]}"; do
    prompts=$OUTPUT_DIR/unrelated/$seed.jsonl
    [ "${DRY_RUN:-0}" = 1 ] || "$python" scripts/document_distillation/make_unrelated.py "$prompts" --seed "$seed" --number 300
    common=(--task notes --output_dir "$OUTPUT_DIR" --use_cpu --seed "$seed" --data_seed "$seed" --num_train_epochs "$EPOCHS"
        --eval_strategy steps --eval_steps 0.25 --no_evaluate_with_context --no_save_final_model)
    for method in "${methods[@]}"; do
        case $method in
            teacher | given | student) run distill.py "${common[@]}" --answers "$method" ;;
            mixed) run distill.py "${common[@]}" --answers mixed --mixed_threshold "$THRESHOLD" ;;
            retain) run distill.py "${common[@]}" --retain_weight "$RETAIN_WEIGHT" --retain_file "$prompts" ;;
            *) fail "METHODS=$METHODS: $method is none of teacher, given, student, mixed, retain" ;;
        esac
    done
done
finish
report
