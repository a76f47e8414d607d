#!/usr/bin/env bash
# Pattern-based fine-tuning of all weights, LoRA and biases on QQP: 2 to 128 rows, ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS 'pbft pbft-lora pbft-bitfit'
grid qqp
