"""What other tools do with text answers, with the same prompts, model and tokenizer; see also `peers`.

`peft_targets` and `own_loss` reproduce behaviour: the first is what the teacher in PEFT's cartridge example does for each sample
and step, the second what transformers does with labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from benchmarks.text_ours import Texts


@torch.no_grad()
def peft_targets(model: torch.nn.Module, prompts: Sequence[list[int]], answers: Sequence[list[int]], topk: int = 20) -> Any:
    """The teacher's k largest log-probabilities along each answer: document, query and answer go through the model one sample
    at a time, with logits at all of their positions."""
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, len(prompt) - 1 :]
        largest = logits.topk(topk).indices
        found.append((logits.log_softmax(-1).gather(-1, largest), largest))
    return found


@torch.no_grad()
def generate(model: torch.nn.Module, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """What transformers writes after whole prompts, padded on the left: `tokens` tokens, greedily."""
    from benchmarks.ours import left_padded

    batch = left_padded(prompts)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    written = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return written[:, inputs["input_ids"].shape[1] :].tolist()


class SdftTeacher:
    """The teacher of TRL's self-distillation trainer, through the trainer's own methods.

    Args:
        trainer: from `peers.sdft_trainer`.
    """

    def __init__(self, trainer: Any, texts: Texts) -> None:
        self.trainer = trainer
        completions = torch.tensor([row["answer_ids"] for row in texts.queries])
        contexts = [texts.teacher.prompter.context] * len(completions)
        mask = torch.ones_like(completions)
        self.batch = trainer.teacher_context_builder.build(texts.prompt_texts(), contexts, completions, mask)
        self.keep = completions.shape[1]

    @torch.no_grad()
    def targets(self) -> torch.Tensor:
        """Its logits (B, tokens, V) along the answers, all in one batch, each after the document."""
        inputs = (self.batch["teacher_input_ids"], self.batch["teacher_attention_mask"])
        return self.trainer._forward_logits(self.trainer.teacher_model, *inputs, self.keep)


def own_loss(model: torch.nn.Module, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The loss of transformers itself for one padded batch, with labels at the answers."""
    from benchmarks.ours import left_padded

    texts = [[*example["input_ids"], example["answer"][-1]] for example in examples]
    batch = left_padded(texts)
    counts = torch.tensor([len(example["answer"]) for example in examples])
    places = torch.arange(batch["input_ids"].shape[1], 0, -1)
    labels = batch["input_ids"].masked_fill(places > counts[:, None], -100)
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False).loss
