"""Soft prompts (Lester et al. 2021, arXiv:2104.08691): trained embeddings before every prompt, nothing else trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import PromptTuningConfig, TaskType

from llmft.errors import InputError
from llmft.models.distributed import whole_weights
from llmft.models.parts.part import Part, base_of
from llmft.models.parts.prompt_learning import PromptLearningModel, random_tokens, virtual_tokens_adapter
from llmft.models.structure import named
from llmft.models.wrapping import forward_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmft.arguments.methods import AdapterArguments


class SoftPromptModel(PromptLearningModel):
    """Virtual tokens are embeddings; they come between padding and prompt, at explicit positions."""

    def inputs_behind(self, virtual: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
        """Embeddings (B, n + T): padding on the left (if any), n virtual tokens, the prompt."""
        (batch, width), count = input_ids.shape, self.active_peft_config.num_virtual_tokens
        embeds = self.word_embeddings(input_ids)
        virtual = virtual.to(embeds.dtype)
        padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)  # (B, 1) before the prompt
        place = torch.arange(count + width, device=mask.device).expand(batch, -1)
        # indices into the virtual tokens followed by the original row: the padding, the virtual tokens, the rest
        order = torch.where(place < padding, place + count, torch.where(place < padding + count, place - padding, place))
        embeds = torch.cat([virtual, embeds], dim=1).gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
        mask = torch.cat([mask.new_ones(batch, count), mask], dim=1).gather(1, order)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask}
        if "position_ids" in forward_parameters(self):
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        return inputs


def _add(model: PreTrainedModel, flags: AdapterArguments, _: Any, seed: int) -> SoftPromptModel:
    embeddings, tokens = model.get_input_embeddings(), flags.num_soft_prompt_tokens
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=tokens,
        token_dim=embeddings.embedding_dim,  # not the hidden size: OPT-350m's embeddings are narrower
        **base_of(model),
    )
    wrapped = SoftPromptModel.wrap(model, config)
    ids = random_tokens(embeddings.num_embeddings, tokens, seed)
    start = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad(), whole_weights(embeddings.parameters()):
        start.copy_(embeddings(ids.to(start.device)))  # through its forward, where Gemma scales its embeddings
    return wrapped


def _check(model: PreTrainedModel, _: AdapterArguments) -> None:
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):  # Gemma 3n, Gemma 4
        raise InputError(
            f"--use_soft_prompt: {named(model)} embeds every token in each layer, and virtual tokens are no tokens; "
            "use --use_adapter"
        )


SOFT_PROMPT = Part(_add, _check, adapter=virtual_tokens_adapter("a soft prompt", "PROMPT_TUNING", SoftPromptModel))
"""Virtual tokens, initialised with embeddings of random tokens."""
