#!/usr/bin/env bash
# In-context learning on CoLA: patterns, shots and ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS icl
setting PATTERNS 'minimal gpt-3'
setting SHOTS '2 16 32'
grid cola
