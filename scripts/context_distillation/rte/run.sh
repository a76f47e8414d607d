#!/usr/bin/env bash
# Context distillation on RTE, into all weights and LoRA: patterns, shots and ten draws; 32 shots do not fit in OPT's window.
source "$(dirname "$0")/../../grid.sh"
setting METHODS 'distill distill-lora'
setting PATTERNS 'minimal gpt-3 eval-harness'
setting SHOTS '2 16'
grid rte
