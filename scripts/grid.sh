# Sourced by the sweeps over tasks: models x patterns x shots x methods x draws. The default is the grid of Mosbach et al. 2023;
# environment variables narrow it.
# shellcheck shell=bash
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OPT='facebook/opt-125m facebook/opt-350m facebook/opt-1.3b facebook/opt-2.7b facebook/opt-6.7b facebook/opt-13b facebook/opt-30b'
PYTHIA='EleutherAI/pythia-410m EleutherAI/pythia-1.4b EleutherAI/pythia-2.8b EleutherAI/pythia-6.9b EleutherAI/pythia-12b'

# grid TASK...: execute all runs. Each sweep sets its own METHODS, named as in the records.
grid() {
    local task model method pattern shots
    setting MODELS "$OPT $PYTHIA"
    setting SHOTS '2 16 32 64 128'
    setting PATTERNS minimal
    setting DATA_SEEDS '0 1 2 3 4 5 6 7 8 9'
    setting SEED 0
    setting TRAIN_ON train
    setting QUERIES 512
    setting NUM_CONTEXTS 1
    setting BATCH_SIZE ''
    setting DEVICE_BATCH_SIZE ''
    setting PRECISION fp16
    setting DEEPSPEED_CONFIG ''
    setting SAVE_STEPS 0.25
    setting DATA_DIR "${LLMFT_DATA_DIR:-}"
    begin
    [ -z "${extra_names[--fp16]:-}${extra_names[--bf16]:-}" ] || fail "EXTRA_ARGS=$EXTRA_ARGS: set the precision with PRECISION"
    split "$MODELS" models
    split "$METHODS" methods
    split "$PATTERNS" patterns
    split "$SHOTS" all_shots
    split "$DATA_SEEDS" data_seeds
    whole_numbers DATA_SEEDS "${data_seeds[@]}"
    whole_numbers BATCH_SIZE "${BATCH_SIZE:-1}"
    whole_numbers DEVICE_BATCH_SIZE "${DEVICE_BATCH_SIZE:-1}"
    for task; do
        for model in "${models[@]}"; do
            for pattern in "${patterns[@]}"; do
                for shots in "${all_shots[@]}"; do
                    for method in "${methods[@]}"; do add_runs; done
                done
            done
        done
    done
    finish
}

# add_runs: add the runs of one method, one for each draw; reads the variables of `grid`.
add_runs() {
    local common=(--task "$task" --model_name_or_path "$model" --output_dir "$OUTPUT_DIR" --seed "$SEED") seed
    case $pattern in
        *'{text1}'*) common+=(--pattern "$pattern") ;;
        *) common+=(--pattern_name "$pattern") ;;
    esac
    case $PRECISION in
        fp16 | bf16) common+=("--$PRECISION") ;;
        fp32) ;;
        *) fail "PRECISION=$PRECISION: give fp16, bf16 or fp32" ;;
    esac
    [ -z "$DATA_DIR" ] || common+=(--data_dir "$DATA_DIR")
    [ -z "$DEEPSPEED_CONFIG" ] || common+=(--deepspeed "$DEEPSPEED_CONFIG")
    if [ "$method" = icl ]; then
        in_context
        return
    fi
    for seed in "${data_seeds[@]}"; do
        case $method in
            vanilla | vanilla-*) fine_tune --method vanilla ;;
            pbft | pbft-*) fine_tune ;;
            distill | distill-*) distill ;;
            *) fail "METHODS: no method $method; give icl, vanilla, pbft, distill, the last three also with -lora or -bitfit" ;;
        esac
    done
}

# in_context: draws with consecutive seeds share one command, which loads model and data once.
in_context() {
    local first='' count=0
    for seed in "${data_seeds[@]}" ''; do
        if [ -n "$first" ] && [ "$seed" = "$((first + count))" ]; then
            count=$((count + 1))
            continue
        fi
        [ -z "$first" ] || run eval.py "${common[@]}" --num_shots "$shots" --data_seed "$first" --num_data_seeds "$count"
        first=$seed count=1
    done
}

# fine_tune ARGUMENT...: train on upstream's draw of training rows, or with TRAIN_ON=demonstrations on the rows of the context.
fine_tune() {
    local own=("$@" --eval_strategy epoch --no_save_final_model)
    case $TRAIN_ON in
        train) own+=(--max_train_samples "$shots") ;;
        demonstrations) own+=(--train_on demonstrations --num_shots "$shots") ;;
        *) fail "TRAIN_ON=$TRAIN_ON: give train or demonstrations" ;;
    esac
    case ${method#*-} in
        lora) own+=(--use_adapter --adapter_dim 8 --lora_alpha 8 --lora_targets query-value
            --learning_rate 2e-4 --num_train_epochs 80 --warmup_steps 0.25) ;;
        bitfit) own+=(--bitfit --learning_rate 1e-4 --num_train_epochs 100 --warmup_steps 0.25) ;;
        "$method") ;; # all weights: ft.py's defaults are the paper's
        *) fail "METHODS: no method $method; give the part as -lora or -bitfit" ;;
    esac
    train ft.py 32 "${own[@]}"
}

# distill: the same demonstrations as in-context learning (shots, pattern, draw), into a student that reads only queries.
distill() {
    local own=(--num_shots "$shots" --num_contexts "$NUM_CONTEXTS" --max_train_samples "$QUERIES" --no_save_final_model)
    case ${method#*-} in
        lora) own+=(--use_adapter --adapter_dim 16 --lora_alpha 32 --learning_rate 5e-4) ;;
        bitfit) own+=(--bitfit --learning_rate 1e-4) ;;
        "$method") ;;
        *) fail "METHODS: no method $method; give the part as -lora or -bitfit" ;;
    esac
    train distill.py 16 "${own[@]}"
}

# train SCRIPT BATCH_SIZE ARGUMENT...: split the batch among the processes, so that its size does not depend on their number.
train() {
    local batch=${BATCH_SIZE:-$2} device saving=()
    device=${DEVICE_BATCH_SIZE:-$((batch / NUM_GPUS))}
    ((device > 0 && batch % (device * NUM_GPUS) == 0)) ||
        fail "BATCH_SIZE=$batch: is not a multiple of NUM_GPUS=$NUM_GPUS x DEVICE_BATCH_SIZE=$device"
    [ "$SAVE_STEPS" = 0 ] || saving=(--save_strategy steps --save_steps "$SAVE_STEPS" --save_total_limit 1)
    run "$1" "${common[@]}" "${saving[@]}" --data_seed "$seed" --per_device_train_batch_size "$device" \
        --gradient_accumulation_steps $((batch / device / NUM_GPUS)) "${@:3}"
}
