"""Base of soft prompts and cartridges: peft's parameters and file format, with our own forward.

peft's forward ignores position ids, and puts the virtual tokens before the padding, so its results depend on how a batch is
padded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from peft import PeftConfig, PeftModelForCausalLM

from llmft.errors import InputError
from llmft.models.parts.head import classification_head, output_name
from llmft.models.parts.layers import peft_config_in, peft_config_of, save_peft
from llmft.models.parts.part import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMMON = 5000
"""Random tokens are among the vocabulary's first 5000. Lester et al. (section 3.2) sample the 5000 most common tokens, and a
byte-pair vocabulary is ordered by how early, that is how often, a token was merged. This also leaves out rows that pad a
vocabulary's size, which were never trained."""


class PromptLearningModel(PeftModelForCausalLM, ABC):
    """A frozen causal language model that reads trained virtual tokens before every prompt; a subclass says how."""

    @classmethod
    def wrap(cls, model: PreTrainedModel, config: PeftConfig) -> Self:
        """The model with new virtual tokens, and everything else except a classification head frozen."""
        if classification_head(model) is not None:
            config.modules_to_save = [output_name(model)]  # not a field of these configs, but peft uses it
        return cls(model, config)

    @classmethod
    def restore(cls, model: PreTrainedModel, folder: Path) -> Self:
        """The model with the virtual tokens that peft saved in `folder`.

        Raises:
            InputError: they are missing.
        """
        wrapped = cls.wrap(model, PeftConfig.from_pretrained(str(folder)))
        missing = wrapped.load_adapter(str(folder), "default").missing_keys
        if missing:
            raise InputError(f"--model_name_or_path {folder}: its weights lack {missing[0]}; give a folder that peft saved")
        return wrapped

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's output on prompts after the n virtual tokens.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 on padding, which is on the left; None for no padding.
            position_ids: ignored: positions follow from the mask and the virtual tokens.
            kwargs: passed on.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.base_model(**self.inputs_behind(self.get_prompt(len(input_ids)), input_ids, mask), **kwargs)

    @abstractmethod
    def inputs_behind(self, virtual: Any, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """Arguments with which the base model reads the prompts after the virtual tokens, which come from `get_prompt`."""

    def get_prompt_embedding_to_save(self, adapter_name: str) -> torch.Tensor:
        """The virtual tokens, as peft saves them. peft's own method would run their module, but only on the saving rank, and
        DeepSpeed ZeRO-3 would then wait for the others."""
        return self.prompt_encoder[adapter_name].embedding.weight.detach().cpu()

    def virtual_cache(self) -> Any:
        """The base model's cache of the virtual tokens (a batch of one)."""
        none = torch.empty(1, 0, dtype=torch.long, device=self.word_embeddings.weight.device)
        return self(none, use_cache=True, logits_to_keep=1).past_key_values


def virtual_tokens_adapter(noun: str, peft_type: str, model_class: type[PromptLearningModel]) -> Adapter:
    """Virtual tokens before every prompt.

    Args:
        peft_type: the name of this kind in peft's settings.
        model_class: the class of the model that reads them.
    """
    return Adapter(
        is_in=lambda model: getattr(peft_config_of(model), "peft_type", None) == peft_type,
        left_out=lambda model: nullcontext(),  # they are not part of the bare model
        save=save_peft,
        is_saved_in=lambda folder: getattr(peft_config_in(folder), "peft_type", None) == peft_type,
        restore=model_class.restore,
        noun=noun,
    )


def random_tokens(vocabulary: int, count: int, seed: int) -> torch.Tensor:
    """Ids (count,) of tokens for initialising virtual tokens, if nothing better is known."""
    return torch.randint(min(COMMON, vocabulary), (count,), generator=torch.Generator().manual_seed(seed))
