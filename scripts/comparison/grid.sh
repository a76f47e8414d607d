# Sourced by choose.sh and run.sh after common.sh: shared settings.
# shellcheck shell=bash
setting MODELS 'models/Qwen2.5-Coder-0.5B-Instruct models/SmolLM2-135M-Instruct models/gemma-3-270m'
setting TASKS 'mnli qqp ag_news sst2 rte cola'
setting DATA_DIR "${LLMFT_DATA_DIR:-}"
setting CHOICES scripts/comparison/choices.csv
split "$MODELS" models
models=("${models[@]%/}")
split "$TASKS" tasks

# shots_of TASK: rows of AG News are long, and have one of four labels.
shots_of() {
    if [ "$1" = ag_news ]; then echo 8; else echo 16; fi
}
