# Sourced after common.sh by sweeps over several contexts.
# shellcheck shell=bash

# compare BEHIND TRAIN_FILE EPOCHS: add the runs of METHODS for a context: `none`, without it; BEHIND, with it in the prompt; `lora`,
# distilled into LoRA on the teacher's answers to TRAIN_FILE. Reads the arrays `common` (flags of all) and `context` (its own).
compare() {
    local method
    for method in "${methods[@]}"; do
        case $method in
            none) run eval.py "${common[@]}" --context none ;;
            "$1") run eval.py "${common[@]}" "${context[@]}" ;;
            lora)
                run distill.py "${common[@]}" "${context[@]}" --train_file "$2" --num_train_epochs "$3" --per_device_train_batch_size 4 \
                    --lr_scheduler_type linear --no_save_final_model --use_adapter --adapter_dim 16 --learning_rate "$RATE"
                ;;
            *) fail "METHODS=$METHODS: $method is none of none, $1, lora" ;;
        esac
    done
}
