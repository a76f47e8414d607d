#!/usr/bin/env bash
# Fine-tuning with a classification head on QQP: 2 to 128 rows, ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS vanilla
grid qqp
