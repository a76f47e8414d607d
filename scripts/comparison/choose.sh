#!/usr/bin/env bash
# Which pattern, and whether to calibrate, for each model and task of the comparison: in-context learning on held-out training rows;
# no evaluation row is read. choose.py has the rule. The choices go to CHOICES, where run.sh reads them.
source "$(dirname "$0")/../common.sh"
setting OUTPUT_DIR logfiles/comparison-choices
source scripts/comparison/grid.sh
setting ROWS 48
begin
rows=$OUTPUT_DIR/rows
prepare scripts/comparison/choose.py split "$DATA_DIR" "$rows" "${tasks[@]}"
for model in "${models[@]}"; do
    for task in "${tasks[@]}"; do
        case $task in
            mnli | rte) patterns=(minimal gpt-3 eval-harness) ;;
            qqp) patterns=(minimal eval-harness) ;;
            cola) patterns=(minimal gpt-3) ;;
            *) patterns=(minimal) ;;
        esac
        for pattern in "${patterns[@]}"; do
            run eval.py --task "$task" --model_name_or_path "$model" --data_dir "$rows" --eval_task_name none --calibrate \
                --num_shots "$(shots_of "$task")" --pattern_name "$pattern" --max_eval_samples "$ROWS" --output_dir "$OUTPUT_DIR"
        done
    done
done
finish
[ "${DRY_RUN:-0}" = 1 ] || compute scripts/comparison/choose.py table "$OUTPUT_DIR/icl" "$CHOICES"
