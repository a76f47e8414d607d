"""Every kind of causal language model in transformers, small and random: do queries after a context get their own scores?

    python -m tests.all_families [KIND ...]

Each kind is made with three small layers, with windows shorter than the context where it has any. It reads queries as `eval.py`
does (in one row behind an encoded context, or padded, as it can), and then each prompt alone; and it writes answers, behind the
context or padded whole prompts, and behind each prompt alone. Printed are how it reads them, the greatest difference of logits
over their spread, and how many answers differ. Exit status 1 if a kind differs that `llmft.models.load` does not refuse. Kinds
that cannot be made from these sizes are only listed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import warnings
from collections.abc import Sequence

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmft.models.load import OTHER_PLACES
from llmft.models.reading.batches import BatchSize
from llmft.models.reading.continuations import Continued
from llmft.models.reading.generation import Generation
from llmft.models.reading.reader import PrefixReader, reading
from llmft.models.reading.shared_prefix import open_prefix
from llmft.prompts.tokens import TokenizedPrompts

LARGEST = 60_000_000
"""Kinds whose sizes have other names would have their full size, so they are left out."""
COMMON = {
    "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "is_decoder": True,
    "ffn_dim": 64, "d_model": 32, "word_embed_proj_dim": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_layers": 1, "decoder_layers": 3, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "n_shared_experts": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "rotary_dim": 8, "default_language": "en_XX",
}  # fmt: skip
OLDER = {"num_layers": 3, "num_heads": 4, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": None}
ALIKE = {"num_key_value_heads": 4, "sliding_window": 16}
LATENT = {"num_key_value_heads": 4, "v_head_dim": 16}
SIZES = [
    {**COMMON, **OLDER, **GROUPED},
    {**COMMON, **GROUPED},
    {**COMMON, **OLDER, **ALIKE},
    {**COMMON, **ALIKE},
    {**COMMON, **LATENT},
]
"""Tried in order, until one gives a model that can read."""

WINDOW = {"sliding_window": 12, "use_sliding_window": True, "max_window_layers": 1}

RANDOM = random.Random(0)
PREFIX = [RANDOM.randrange(3, 200) for _ in range(23)]
QUERIES = [[RANDOM.randrange(3, 200) for _ in range(RANDOM.randrange(1, 9))] for _ in range(13)]


def main(argv: Sequence[str] | None = None) -> int:
    """Check all kinds, or the named ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.all_families", description=__doc__)
    parser.add_argument("kinds", nargs="*", help="transformers' model types; default: all")
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    kinds = parser.parse_args(argv).kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    counts = dict.fromkeys(("in one row", "padded", "refused", "WRONG", "not made"), 0)
    for kind in kinds:
        how, found = look_at(kind)
        counts[how] += 1
        print(f"{kind:24} {how:13} {found}", flush=True)
    print(", ".join(f"{count} {how}" for how, count in counts.items()))
    return 1 if counts["WRONG"] else 0


def look_at(kind: str) -> tuple[str, str]:
    """How a kind reads, and the resulting difference, or why it could not be built."""
    reason = ""
    windowed = [{**sizes, **WINDOW} for sizes in SIZES] if hasattr(CONFIG_MAPPING[kind], "sliding_window") else []
    for sizes in windowed + SIZES:
        try:
            model = make(kind, sizes)
            packs, error = difference(model)
            answers = differing_answers(model)
        except Exception as problem:  # whatever a model's own code raises for sizes it was not made for
            reason = reason or f"{type(problem).__name__}: {' '.join(str(problem).split())[:80]}"
            continue
        right = error < 1e-4 and not answers
        how = "refused" if kind in OTHER_PLACES else ("WRONG" if not right else "in one row" if packs else "padded")
        return how, f"{error:.1e} {answers}"
    return "not made", reason


def make(kind: str, sizes: dict[str, object]) -> torch.nn.Module:
    """A random model of a kind.

    Raises:
        ValueError: it is too large.
    """
    config = AutoConfig.for_model(kind, **sizes)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} weights")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 4 if weight.ndim > 1 else 1  # so that answers depend on what is read and where it stands
    return model


@torch.no_grad()
def difference(model: torch.nn.Module) -> tuple[bool, float]:
    """Whether queries are in one row after an encoded context, and the largest difference from prompts read alone, over the
    logits' spread."""
    prompts = Continued(PREFIX, QUERIES, [1] * len(QUERIES), [()] * len(QUERIES))
    with reading(model):
        reader = PrefixReader(model, PREFIX, BatchSize(64))
        found = reader.read(prompts, range(len(QUERIES)), lambda logits, _: {"logits": logits})["logits"]
        alone = torch.cat([model(input_ids=torch.tensor([PREFIX + query]), use_cache=False).logits[:, -1] for query in QUERIES])
    return not reader.padding_tokens, float((found - alone).abs().max() / alone.std())


@torch.no_grad()
def differing_answers(model: torch.nn.Module) -> int | None:
    """How many answers of several tokens differ from those of `generate` on each prompt alone; None if that fails."""
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    try:
        alone = [model.generate(torch.tensor([PREFIX + query]), **settings)[0].tolist() for query in QUERIES]
    except Exception:  # whatever a model's own code raises at sizes it was not made for
        return None
    with open_prefix(model, PREFIX, BatchSize(64)) as behind:
        written = behind.generate(TokenizedPrompts(PREFIX, QUERIES), Generation(max_new_tokens=6), tokenizer=None).ids
    return sum(PREFIX + query + answer != whole for query, answer, whole in zip(QUERIES, written, alone, strict=True))


if __name__ == "__main__":
    sys.exit(main())
