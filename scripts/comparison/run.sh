#!/usr/bin/env bash
# The comparison on real models: zero-shot, in-context learning, distillation of the same context into LoRA on unlabelled queries, and
# LoRA fine-tuning on its demonstrations with the language-modelling head or a new one. The most informative runs come first, so that
# even an interrupted sweep has a report. Patterns and calibration: choose.sh. Results: docs/comparison/README.md.
source "$(dirname "$0")/../common.sh"
setting OUTPUT_DIR logfiles/comparison
source scripts/comparison/grid.sh
setting METHODS 'distill zero-shot icl pbft vanilla'
setting DATA_SEEDS '0 1 2'
setting ROWS 100
setting QUERIES 256
setting EPOCHS 2
setting RATE 2e-4
setting TUNE_EPOCHS 20
setting TUNE_RATE 2e-4
begin
split "$METHODS" methods
split "$DATA_SEEDS" data_seeds
[ -r "$CHOICES" ] || fail "CHOICES=$CHOICES: cannot be read; bash scripts/comparison/choose.sh makes it"
known='distill zero-shot icl pbft vanilla'
for method in "${methods[@]}"; do [[ " $known " = *" $method "* ]] || fail "METHODS=$METHODS: $method is none of $known"; done
known='mnli qqp ag_news sst2 rte cola'
for task in "${tasks[@]}"; do [[ " $known " = *" $task "* ]] || fail "TASKS=$TASKS: $task is none of $known"; done

lora=(--use_adapter --adapter_dim 16 --lora_alpha 32 --per_device_train_batch_size 8 --no_save_final_model
    --save_strategy steps --save_steps 0.25)

# add METHODS TASKS: add the requested runs, all of one draw before the next.
add() {
    local seed model task method
    for seed in "${data_seeds[@]}"; do
        for model in "${models[@]}"; do
            for task in $2; do
                for method in $1; do
                    if [[ " ${methods[*]} " = *" $method "* && " ${tasks[*]} " = *" $task "* ]]; then add_run; fi
                done
            done
        done
    done
}

# add_run: add a run of one method; reads the variables of `add`.
add_run() {
    local pattern calibrated calibrate=() shots common
    IFS=, read -r pattern calibrated < <(awk -F, -v model="${model##*/}" -v task="$task" \
        '$1 == model && $2 == task && $NF == 1 { print $3 "," $4 }' "$CHOICES") ||
        fail "CHOICES=$CHOICES: has no choice for ${model##*/} on $task; make it with bash scripts/comparison/choose.sh"
    [ "$calibrated" = 0 ] || calibrate=(--calibrate)
    shots=$(shots_of "$task")
    common=(--task "$task" --model_name_or_path "$model" --pattern_name "$pattern" --max_eval_samples "$ROWS"
        --data_seed "$seed" --output_dir "$OUTPUT_DIR")
    [ -z "$DATA_DIR" ] || common+=(--data_dir "$DATA_DIR")
    case $method in
        zero-shot) # nothing to draw
            if [ "$seed" = "${data_seeds[0]}" ]; then run eval.py "${common[@]}" "${calibrate[@]}" --num_shots 0; fi
            ;;
        icl) run eval.py "${common[@]}" "${calibrate[@]}" --num_shots "$shots" ;;
        distill)
            run distill.py "${common[@]}" "${calibrate[@]}" --num_shots "$shots" "${lora[@]}" --learning_rate "$RATE" \
                --max_train_samples "$QUERIES" --num_train_epochs "$EPOCHS" --no_evaluate_with_context
            ;;
        pbft | vanilla)
            run ft.py "${common[@]}" "${lora[@]}" --method "$method" --train_on demonstrations --num_shots "$shots" \
                --num_train_epochs "$TUNE_EPOCHS" --learning_rate "$TUNE_RATE"
            ;;
    esac
}

add 'distill zero-shot icl' 'mnli qqp ag_news sst2'
add 'pbft vanilla' 'mnli qqp ag_news sst2'
add 'distill zero-shot icl pbft vanilla' 'rte cola'
finish report
