#!/usr/bin/env bash
# In-context learning on MNLI without its neutral rows: patterns, shots and ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS icl
setting PATTERNS 'minimal gpt-3 eval-harness'
setting SHOTS '2 16 32'
grid mnli
