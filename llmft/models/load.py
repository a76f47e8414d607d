"""Loading models and tokenizers, from the hub, a local folder, or the package itself."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, one_line
from llmft.runs.model_folder import HEAD_SETTINGS, base_named_in
from llmft.worlds.nli import CHECKPOINT as TOY_CHECKPOINT
from llmft.worlds.notes import CHECKPOINT as NOTES_CHECKPOINT

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

BUNDLED = {"toy": TOY_CHECKPOINT, "notes": NOTES_CHECKPOINT}
"""Model names that mean a folder inside the package."""

OTHER_PLACES = frozenset(
    """bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart rwkv trocr whisper xlstm
    camembert data2vec-text roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod""".split()
)
"""Model types whose positions or states run through padding, or whose positions do not start at 0 (`tests/all_families.py`)."""

ATTENTION = re.compile("attn_implementation|FlashAttention|flash_attn|attention implementation")
"""What transformers' errors about an implementation of attention contain."""


def resolve(name: str) -> str:
    """The hub name or folder that `--model_name_or_path` means."""
    return str(BUNDLED.get(name, name))


def short_name(name: str) -> str:
    """A name for tables and folders: the last part of a hub name or path; of a run's student, its model and method."""
    run = run_of(name)
    return f"{run['model']}-{run['method']}" if run else Path(name).name or name


def run_of(name: str) -> dict[str, Any] | None:
    """`config.json` of the run whose student is at `name`; None where it is no run's."""
    path = Path(name)
    if path.name != "model" or not (path.parent / "config.json").is_file():
        return None
    try:
        run = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not one of ours
        return None
    return run if isinstance(run, dict) and {"model", "method"} <= run.keys() else None


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    revision: str = "main",
    cache_dir: str | None = None,
    gguf_file: str | None = None,
    tokenizer_name: str | None = None,
    trust_remote_code: bool = False,
    flag: str = "--model_name_or_path",
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """Load a causal language model, or a student of one that a run has saved, and its tokenizer.

    Args:
        name: hub name, folder, or a bundled name; the folder may hold an adapter or a classifier (`llmft.models.parts.saving`).
        dtype: `float32`, `bfloat16`, `float16` or `auto` (as stored); adapters are float32 whatever the model is.
        attn_implementation: what transformers calls it, or None for its choice.
        gguf_file: file within the folder or hub repository (an adapter's base, if it is one) that holds the weights.
        tokenizer_name: hub name or folder of the tokenizer; None for the model's own.
        trust_remote_code: run code that comes with the model.
        flag: the flag that names it, for messages.

    Returns:
        The model in eval mode, a transformers model or one of peft's, and the tokenizer.

    Raises:
        InputError: there is no such model, or it is not a causal language model, or of a kind that batches change.
    """
    from transformers import AutoTokenizer

    how = {"revision": revision, "cache_dir": cache_dir, "trust_remote_code": trust_remote_code}
    weights = {"dtype": dtype, "attn_implementation": attn_implementation}
    remedy = "a folder saved by transformers, peft or a run, or one of: " + ", ".join(BUNDLED)
    with _loading(flag, name, remedy, attention=attn_implementation):
        model = _load(name, {**how, **weights}, gguf_file)
        _check_kind(model, name)
        tokenizer = None if tokenizer_name else _tokenizer(name, how, gguf_file)
    if tokenizer_name:
        with _loading("--tokenizer_name", tokenizer_name, "a folder with a tokenizer that transformers saved"):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, **how)
    check_tokenizer(model, tokenizer, f"--tokenizer_name {tokenizer_name}" if tokenizer_name else f"{flag} {name}")
    return model, tokenizer


@contextmanager
def _loading(flag: str, name: str, remedy: str, *, attention: str | None = None) -> Iterator[None]:
    """Context: libraries read the user's files and may raise anything; whatever they raise is the files' fault, not a bug."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("--model_name_or_path", flag)) from error
    except Exception as error:
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        reason = kind + one_line(error)
        if isinstance(error, pickle.UnpicklingError):
            reason = "its weights are a pickle that holds more than tensors, which could run any code"
        elif "ignore_mismatched_sizes" in reason:
            reason = "its weights are not of the sizes that its config says"
        elif "trust_remote_code" in str(error):
            reason, remedy = "it needs code that comes with it", "add --trust_remote_code if you trust that code"
            raise InputError(f"{flag} {name}: cannot be loaded ({reason}); {remedy}") from error
        elif attention and (ATTENTION.search(str(error)) or ("/" in attention and "kernels" in str(error))):
            remedy = "leave it out for the model's own choice" + ("" if attention == "eager" else ", or use eager")
            raise InputError(f"--attn_implementation {attention}: cannot be used ({reason}); {remedy}") from error
        raise InputError(f"{flag} {name}: cannot be loaded ({reason}); give a hub name, {remedy}") from error


def _check_kind(model: torch.nn.Module, name: str) -> None:
    from llmft.models.wrapping import bare_model

    kind = bare_model(model).config.model_type
    if kind in OTHER_PLACES:
        raise InputError(
            f"--model_name_or_path {name}: is of the kind {kind}, which counts places by rules of its own: a prompt would get "
            "other scores in a batch than alone; give a model of another kind"
        )


def check_tokenizer(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, flag: str) -> None:
    """Model and tokenizer must be of one vocabulary, or a token has no embedding.

    Tokens that were added behind the vocabulary (a pad token, as a rule) do not occur in text and may have none; prompts are
    checked for those that a chat template writes, and the token that ends answers (`Prompter.prompts`).

    Raises:
        InputError: they are not, or the tokenizer is empty.
    """
    if not tokenizer("a", add_special_tokens=False).input_ids:
        raise InputError(f"{flag}: has no tokenizer; name a folder or hub name that has with --tokenizer_name")
    highest = max(set(tokenizer.get_vocab().values()) - set(tokenizer.get_added_vocab().values()), default=0)
    rows = vocabulary_size(model)
    if highest >= rows:
        raise InputError(
            f"{flag}: its tokens go up to {highest}, and the model has embeddings for {rows}; give the model's own tokenizer"
        )


def _whole(loaded: tuple[torch.nn.Module, dict[str, Any]], name: str) -> torch.nn.Module:
    """The model that was loaded, with every weight it needs: transformers would draw those that are missing at random."""
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"--model_name_or_path {name}: {len(missing)} of its weights are missing, the first being {missing[0]}; "
            "give it its own config and all its files"
        )
    return model


def _load(name: str, how: dict[str, Any], gguf_file: str | None, *, headless: bool = False) -> torch.nn.Module:
    """The model; with `headless`, it may lack its output layer: a classification head takes its place."""
    path = resolve(name)
    if _missing(name):
        raise InputError(f"--model_name_or_path {name}: there is no such folder; give one saved by transformers, or a hub name")
    if not Path(path).is_dir():
        return _whole(_from_pretrained(path, how, gguf_file), name)
    from llmft.models.parts.saving import restore_student, start_of

    folder = Path(path).resolve()  # adapters trained on it will name it by this
    base = base_named_in(folder)
    if base is None:
        needed = gguf_file or "config.json"
        if not (folder / needed).is_file():
            raise InputError(f"--model_name_or_path {name}: the folder has no {needed}; give a folder saved by transformers")
        loaded = _from_pretrained(str(folder), how, gguf_file)
        headless = headless or (folder / HEAD_SETTINGS).is_file()  # a classifier is saved without its old head
        model = loaded[0] if headless else _whole(loaded, name)
    elif _missing(base.name):
        raise InputError(
            f"--model_name_or_path {name}: its base {base.name} is not there; write where it is into its {base.named_in}"
        )
    else:
        how = {**how, "revision": base.revision}
        headless = (folder / HEAD_SETTINGS).is_file()
        model = start_of(_load(base.name, how, gguf_file or base.gguf_file, headless=headless), base.name)
    return restore_student(model, folder)


@contextmanager
def _no_report() -> Iterator[None]:
    """Context: transformers prints no table of weights that did not fit; what matters of it becomes an error of one line."""
    logger = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@_no_report()
def _from_pretrained(path: str, how: dict[str, Any], gguf_file: str | None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, and what transformers noted while loading it. Weights of a .gguf file become ordinary ones."""
    from transformers import AutoModelForCausalLM, GgufConfig

    gguf = {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)} if gguf_file else {}
    model, info = AutoModelForCausalLM.from_pretrained(path, **how, **gguf, output_loading_info=True)
    model.gguf_file = gguf_file
    return model, info


def _tokenizer(name: str, how: dict[str, Any], gguf_file: str | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    path = resolve(name)
    base = base_named_in(Path(path))
    if base is not None and not (Path(path) / "tokenizer_config.json").is_file():
        return _tokenizer(base.name, {**how, "revision": base.revision}, gguf_file)
    gguf = {"gguf_file": gguf_file} if gguf_file and base is None else {}
    return AutoTokenizer.from_pretrained(path, **how, **gguf)


def _missing(name: str) -> bool:
    """Whether this is plainly a path and there is no folder."""
    return name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir()


def vocabulary_size(model: torch.nn.Module) -> int:
    """Number of tokens that the model has embeddings for."""
    return model.config.get_text_config().vocab_size


def window(model: torch.nn.Module) -> int | None:
    """Longest text in tokens that the model's positions reach, None where its config names no limit.

    GPT-2's and GPT-J's `n_positions` go by the common name in transformers; MPT's `max_seq_len` does not. With LongRoPE (Phi-3
    and 4), whose frequencies change for a whole pass once a position is beyond those of its first training, the limit is there:
    past it, scores would depend on what is read together.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(of_layers for of_layers in rope.values() if isinstance(of_layers, dict))]
    trained = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(filter(None, [limit, *trained]), default=None)
