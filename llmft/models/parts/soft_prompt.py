"""Soft prompts (Lester et al. 2021, arXiv:2104.08691): trained embeddings in front of every prompt, nothing else trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import PromptTuningConfig, TaskType

from llmft.models.distributed import whole_weights
from llmft.models.parts.prompt_learning import PromptLearningModel, random_tokens
from llmft.models.wrapping import forward_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SoftPromptModel(PromptLearningModel):
    """Virtual tokens are embeddings; they stand between padding and prompt, at explicit positions."""

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
    """The model with `tokens` virtual tokens to train, which start as embeddings of random tokens.

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
    wrapped = SoftPromptModel.wrap(model, config)
    ids = random_tokens(embeddings.num_embeddings, tokens, seed)
    start = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad(), whole_weights(embeddings.parameters()):
        start.copy_(embeddings(ids.to(start.device)))  # by its forward: Gemma scales its embeddings there
    return wrapped
