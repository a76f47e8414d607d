"""Soft prompts (Lester et al. 2021, arXiv:2104.08691): trained embeddings in front of every prompt, nothing else trained.

peft's parameters and file format. peft's own forward knows no position ids and puts the virtual tokens in front of the
padding, so that its results depend on how a batch is padded; here they stand between padding and prompt, at explicit positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModelForCausalLM, PromptTuningConfig, TaskType

from llmft.models.gather import whole_weights
from llmft.models.head import classification_head, output_name
from llmft.models.label_scores import forward_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMMON = 5000
"""Virtual tokens start as embeddings of tokens among the vocabulary's first 5000. Lester et al. (section 3.2) sample the 5000
most common tokens, and a byte-pair vocabulary is ordered by how early, that is how often, a token was merged. The rows that pad a
vocabulary's size, which were never trained, are left out that way too."""


class SoftPromptModel(PeftModelForCausalLM):
    """peft's prompt-tuned causal language model with a forward that does not depend on padding."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's output on (B, n + T) embeddings: padding on the left (if any), n virtual tokens, the prompt.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 0 on padding; None for no padding.
            position_ids: not read: positions follow from the mask and the virtual tokens.
            kwargs: passed on.
        """
        (batch, width), count = input_ids.shape, self.active_peft_config.num_virtual_tokens
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds = self.word_embeddings(input_ids)
        virtual = self.get_prompt(batch).to(embeds.dtype)
        padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)  # (B, 1) in front of the prompt
        place = torch.arange(count + width, device=mask.device).expand(batch, -1)
        # of the virtual tokens followed by the row as it came: the padding, the virtual tokens, the rest
        order = torch.where(place < padding, place + count, torch.where(place < padding + count, place - padding, place))
        embeds = torch.cat([virtual, embeds], dim=1).gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
        mask = torch.cat([mask.new_ones(batch, count), mask], dim=1).gather(1, order)
        if "position_ids" in forward_parameters(self):
            kwargs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return self.base_model(inputs_embeds=embeds, attention_mask=mask, **kwargs)


def add_soft_prompt(model: PreTrainedModel, tokens: int, seed: int, base: dict[str, Any]) -> SoftPromptModel:
    """The model with `tokens` virtual tokens to train, and everything else but a classification head frozen.

    Args:
        base: `base_model_name_or_path` and `revision`, for the saved adapter.
    """
    embeddings = model.get_input_embeddings()
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        token_dim=embeddings.embedding_dim,  # not the hidden size: OPT-350m's embeddings are narrower
        **base,
    )
    wrapped = _wrap(model, config)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(COMMON, embeddings.num_embeddings), (tokens,), generator=generator)
    start = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad(), whole_weights(embeddings.parameters()):
        start.copy_(embeddings(ids.to(start.device)))  # by its forward: Gemma scales its embeddings there
    return wrapped


def restore_soft_prompt(model: PreTrainedModel, folder: Path) -> SoftPromptModel:
    """The model with the soft prompt that peft saved in `folder`."""
    wrapped = _wrap(model, PeftConfig.from_pretrained(str(folder)))
    wrapped.load_adapter(str(folder), "default")
    return wrapped


def _wrap(model: PreTrainedModel, config: PeftConfig) -> SoftPromptModel:
    if classification_head(model) is not None:
        config.modules_to_save = [output_name(model)]  # no field of this config's, but peft reads it
    return SoftPromptModel(model, config)
