"""What soft prompts and cartridges share: peft's parameters and file format, with a forward of our own.

peft's own forward knows no position ids, and puts the virtual tokens in front of the padding: there, results depend on how a
batch is padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from peft import PeftConfig, PeftModelForCausalLM

from llmft.errors import InputError
from llmft.models.parts.head import classification_head, output_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMMON = 5000
"""Random tokens are among the vocabulary's first 5000. Lester et al. (section 3.2) sample the 5000 most common tokens, and a
byte-pair vocabulary is ordered by how early, that is how often, a token was merged. The rows that pad a vocabulary's size, which
were never trained, are left out that way too."""


class PromptLearningModel(PeftModelForCausalLM):
    """A frozen causal language model that reads trained virtual tokens in front of every prompt; a subclass says how."""

    @classmethod
    def wrap(cls, model: PreTrainedModel, config: PeftConfig) -> Self:
        """The model with new virtual tokens, and everything else but a classification head frozen."""
        if classification_head(model) is not None:
            config.modules_to_save = [output_name(model)]  # no field of these configs, but peft reads it
        return cls(model, config)

    @classmethod
    def restore(cls, model: PreTrainedModel, folder: Path) -> Self:
        """The model with the virtual tokens that peft saved in `folder`.

        Raises:
            InputError: they are not there.
        """
        wrapped = cls.wrap(model, PeftConfig.from_pretrained(str(folder)))
        missing = wrapped.load_adapter(str(folder), "default").missing_keys
        if missing:
            raise InputError(f"--model_name_or_path {folder}: its weights lack {missing[0]}; give a folder that peft saved")
        return wrapped

    def get_prompt_embedding_to_save(self, adapter_name: str) -> torch.Tensor:
        """The virtual tokens, as peft saves them. peft's own would run their module for it, on the rank that saves alone, and
        DeepSpeed ZeRO-3 would then wait for the others."""
        return self.prompt_encoder[adapter_name].embedding.weight.detach().cpu()

    def virtual_cache(self) -> Any:
        """The base model's cache of the virtual tokens (a batch of one)."""
        none = torch.empty(1, 0, dtype=torch.long, device=self.word_embeddings.weight.device)
        return self(none, use_cache=True, logits_to_keep=1).past_key_values


def random_tokens(vocabulary: int, count: int, seed: int) -> torch.Tensor:
    """Ids (count,) of tokens that virtual tokens may start as, where nothing better is known."""
    return torch.randint(min(COMMON, vocabulary), (count,), generator=torch.Generator().manual_seed(seed))
