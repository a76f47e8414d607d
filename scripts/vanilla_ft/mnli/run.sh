#!/usr/bin/env bash
# Fine-tuning with a classification head on MNLI without its neutral rows: 2 to 128 rows, ten draws.
source "$(dirname "$0")/../../grid.sh"
setting METHODS vanilla
grid mnli
