#!/usr/bin/env bash
# Context distillation on MNLI without its neutral rows, into all weights and LoRA: patterns, shots and ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS 'distill distill-lora'
setting PATTERNS 'minimal gpt-3 eval-harness'
setting SHOTS '2 16 32'
grid mnli
