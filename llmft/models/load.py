"""Loading models and tokenizers, from the hub, a local folder, or the package itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from llmft.errors import InputError
from llmft.tasks.toy import CHECKPOINT as TOY_CHECKPOINT

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = {"toy": TOY_CHECKPOINT}
"""Model names that mean a folder inside the package."""

WEIGHTS = (".safetensors", ".bin", ".gguf")


def resolve(name: str) -> str:
    """The hub name or folder that `--model_name_or_path` means."""
    return str(BUNDLED.get(name, name))


def short_name(name: str) -> str:
    """A name for tables and folders: the last part of a hub name or path."""
    return Path(name).name or name


def load_model(
    name: str, *, dtype: str, attn_implementation: str | None, revision: str, cache_dir: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        name: hub name, folder, or a bundled name.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (as stored).
        attn_implementation: what transformers calls it, or None for its choice.

    Raises:
        InputError: there is no such model, or it is not a causal language model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve(name)
    if name.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        raise InputError(f"--model_name_or_path {name}: there is no such folder; give one saved by transformers, or a hub name")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise InputError(f"--model_name_or_path {name}: the folder has no config.json; give a folder saved by transformers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, cache_dir=cache_dir)
        model = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, cache_dir=cache_dir, dtype=dtype, attn_implementation=attn_implementation
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"--model_name_or_path {name}: cannot be loaded ({reason}); give a hub name, a folder saved by transformers, "
            f"or one of: {', '.join(BUNDLED)}"
        ) from error
    return model, tokenizer


def window(model: PreTrainedModel) -> int | None:
    """Longest text in tokens that the model's positions reach, None where its config names no limit."""
    return getattr(model.config, "max_position_embeddings", None)


def fingerprint_model(name: str, revision: str) -> str:
    """What identifies a model before it is loaded: a folder's content by samples of its files, a hub model's name.

    Weight files are sampled (their size and 4 KiB out of every MiB): any training changes nearly every weight, and a sweep
    must not read all of a large model to learn that it has been there. All other files are read whole.
    """
    path = Path(resolve(name))
    if not path.is_dir():
        return f"{name}@{revision}"
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file() and file.suffix != ".md"):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            for start in range(0, size, 1 << 20):
                stream.seek(start)
                digest.update(stream.read(4096 if file.suffix in WEIGHTS else 1 << 20))
    return digest.hexdigest()[:16]
