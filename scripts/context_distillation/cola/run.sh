#!/usr/bin/env bash
# Context distillation on CoLA, into all weights and LoRA: patterns, shots and ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS 'distill distill-lora'
setting PATTERNS 'minimal gpt-3'
setting SHOTS '2 16 32'
grid cola
