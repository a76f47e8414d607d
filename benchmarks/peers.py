"""What other tools do with the same prompts, model and tokenizer. None of it is used by llmft.

`whole_prompts` and `upstream_style` reproduce behaviour: the first is the simplest correct way, the second what
uds-lsv/llmft's evaluation does (two prompts at a time, padded to the model's window, all positions projected to the vocabulary;
its attention was explicit matrix products, transformers' `eager`).
lm-evaluation-harness and TRL are the packages themselves (extra `bench`), used through their own interfaces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from benchmarks.ours import Distillation
    from llmft.prompts.prompter import Prompter


@torch.no_grad()
def whole_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[int]) -> np.ndarray:
    """Label log-probabilities (N, L): every prompt is read whole, at its own length, and only its last position is projected."""
    found = [model(torch.tensor([list(p)]), use_cache=False, logits_to_keep=1).logits[0, -1] for p in prompts]
    return torch.stack(found).log_softmax(-1)[:, list(labels)].numpy()


@torch.no_grad()
def upstream_style(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[int], width: int, batch: int = 2
) -> np.ndarray:
    """Label log-probabilities (N, L) with batches of two padded to the window, and logits at every position."""
    found = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        ids = torch.tensor([[*p, *[model.config.pad_token_id] * (width - len(p))] for p in some])
        mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in some])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, width, V)
        found.append(logits[torch.arange(len(some)), mask.sum(1) - 1])
    return torch.cat(found).log_softmax(-1)[:, list(labels)].numpy()


class Harness:
    """lm-evaluation-harness on a loaded model, with its default batch of one prompt (it does not compute the second label's
    logits again)."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self.model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)

    def scores(self, texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """Log-likelihoods (N, L) of the words after each text."""
        found = self.logprobs([(text, f" {word}") for text in texts for word in words])
        return found.reshape(len(texts), len(words))

    def logprobs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Log-likelihoods (N,) of texts, each after another."""
        from lm_eval.api.instance import Instance

        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        return np.array([score for score, _ in self.model.loglikelihood(requests, disable_tqdm=True)])

    def write(self, texts: Sequence[str], tokens: int) -> list[str]:
        """`tokens` tokens of greedy continuation after each text, as words."""
        from lm_eval.api.instance import Instance

        settings = {"until": [], "max_gen_toks": tokens, "do_sample": False}
        requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate(texts)]
        return self.model.generate_until(requests, disable_tqdm=True)


class RereadingTeacher:
    """An online teacher without a shared prefix: for every query of a batch it reads context and query again, padded."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        self.model, self.prompts, self.labels = model, prompts, list(labels)

    @torch.no_grad()
    def targets(self, queries: Sequence[int]) -> Any:
        """Label log-probabilities, renormalised, of the queries at these places."""
        from benchmarks.ours import left_padded
        from llmft.distillation.targets import Targets

        batch = left_padded([self.prompts[i] for i in queries])
        logits = self.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1, self.labels]
        return Targets(logits.log_softmax(-1), None)

    def count_work(self, phase: Any) -> None:
        """Nothing is counted here."""


def sdft(distillation: Distillation, folder: Path, *, checkpointing: bool = False) -> Callable[[], None]:
    """One epoch of TRL's self-distillation trainer over the same queries after the same context: one completion of one token
    per query; batch and learning rate are ours."""
    run, scorer = distillation.run, distillation.teacher.scorers[0]
    queries = [scorer.prompter.prompt_format.query(row) for row in distillation.queries]
    settings = {
        "per_device_train_batch_size": run.per_device_train_batch_size,
        "learning_rate": run.learning_rate,
        "num_train_epochs": 1,
        "max_completion_length": 1,
        "gradient_checkpointing": checkpointing,
    }

    def train() -> None:
        sdft_trainer(scorer.model, scorer.prompter, queries, folder, **settings).train()

    return train


def sdft_trainer(model: torch.nn.Module, prompter: Prompter, queries: Sequence[str], folder: Path, **settings: Any) -> Any:
    """TRL's self-distillation trainer with the untrained model as teacher, which reads the prompter's context first; with these
    settings and otherwise its defaults, except for bfloat16, one completion per query, and prompts that are not cut."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    rows = Dataset.from_list([{"prompt": query, "privileged_context": prompter.context} for query in queries])
    config = SDFTConfig(
        output_dir=str(folder),
        max_prompt_length=None,
        num_generations=1,
        teacher_prompt_template="{privileged_context}{prompt}",
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    trainer = SDFTTrainer(model=model, args=config, train_dataset=rows, processing_class=prompter.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer
