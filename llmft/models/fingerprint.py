"""Exact identification of a loaded model: every byte of its weights, and the settings they are used with."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

from llmft.models.distributed import whole_weights
from llmft.models.wrapping import bare_model, unwrapped

CHUNK = 1 << 26
"""Number of bytes that are copied to the CPU and hashed at a time."""

NO_MATTER = frozenset("_name_or_path transformers_version architectures dtype torch_dtype use_cache".split())
"""Entries of a config about where a model comes from or how it is stored, not what it computes."""
NO_MATTER_IN_ADAPTERS = frozenset("base_model_name_or_path revision inference_mode".split())
"""The same of an adapter's settings."""


def _json(value: object) -> list[str] | str:
    return sorted(map(str, value)) if isinstance(value, set) else str(value)  # a set's order differs between processes


def fingerprint_weights(model: torch.nn.Module) -> str:
    """SHA-256 (64 hex digits) of the architecture, its config, and all weights and kept buffers, in name order.

    It is the same on every device and wherever the model was loaded from, and changes with any change of a weight's bits, type
    or shape, or of code that came with the model. `identity.fingerprint_model` names a run by files, before anything is loaded;
    this reads what was loaded, at about the speed of SHA-256 (1 to 2 GB/s if the processor has instructions for it). At most
    `CHUNK` bytes are copied at a time, except that a tensor that is not contiguous is copied whole.

    Args:
        model: a transformers model, possibly wrapped; adapters, soft prompts and their settings are part of it.
    """
    bare, whole = bare_model(model), unwrapped(model)
    config = {name: value for name, value in bare.config.to_dict().items() if name not in NO_MATTER}
    adapters = {
        adapter: {name: value for name, value in settings.to_dict().items() if name not in NO_MATTER_IN_ADAPTERS}
        for adapter, settings in getattr(whole, "peft_config", {}).items()
    }
    settings = json.dumps([config, adapters], sort_keys=True, default=_json)
    digest = hashlib.sha256(f"{type(bare).__name__} {settings}\n".encode())
    if getattr(bare.config, "auto_map", None):  # its class came with it: that file, and those it imports from the same folder
        from transformers.dynamic_module_utils import get_relative_import_files

        module = sys.modules[type(bare).__module__].__file__
        for file in (module, *sorted(set(get_relative_import_files(module)))):
            digest.update(Path(file).read_bytes())
    for name, tensor in sorted(whole.state_dict(keep_vars=True).items()):
        with whole_weights([tensor]):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            for start in range(0, len(content), CHUNK):
                digest.update(content[start : start + CHUNK].cpu().numpy())
    return digest.hexdigest()
