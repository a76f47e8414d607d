#!/usr/bin/env bash
# In-context learning, distillation of the same context, and fine-tuning on its demonstrations: same rows, shots and patterns.
source "$(dirname "$0")/../grid.sh"
setting TASKS 'rte mnli qqp cola'
setting METHODS 'icl distill distill-lora pbft'
setting TRAIN_ON demonstrations
setting SHOTS '2 16'
split "$TASKS" tasks
grid "${tasks[@]}"
