#!/usr/bin/env bash
# In-context learning on RTE: patterns, shots and ten draws; 32 shots do not fit in OPT's window.
source "$(dirname "$0")/../../grid.sh"
setting METHODS icl
setting PATTERNS 'minimal gpt-3 eval-harness'
setting SHOTS '2 16'
grid rte
