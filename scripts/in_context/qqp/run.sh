#!/usr/bin/env bash
# In-context learning on QQP: patterns, shots and ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS icl
setting PATTERNS 'minimal eval-harness'
setting SHOTS '2 16 32'
grid qqp
