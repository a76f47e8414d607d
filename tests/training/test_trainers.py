import copy
import dataclasses
import signal
from functools import partial
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from llmft.models.adapt import adapt
from llmft.objective import Objective
from llmft.training.context_distillation_trainer import ContextDistillationTrainer
from llmft.training.ft_trainer import REAL, FtTrainer, collate
from llmft.training.losses import label_cross_entropy, t_few_loss
from tests.conftest import tiny_model

LABELS = [17, 99]


def test_workers_leave_sigterm_to_their_main_process(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        collate([{"input_ids": [1, 2]}])
        assert signal.getsignal(signal.SIGTERM) == before
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker's")
        collate([{"input_ids": [1, 2]}])
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def examples(n=16):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        ids = torch.randint(2, 600, (4 + i % 5,), generator=generator).tolist()
        rows.append(
            {"input_ids": ids, "answer": LABELS[i % 2], "teacher_logprobs": torch.randn(2, generator=generator).log_softmax(-1)}
        )
    return rows


def make_trainer(
    tmp_path, trainer_class, model, batch=8, accumulation=1, epochs=2, learning_rate=1e-2, optim="adamw_torch", **more
):
    """`more`: arguments of the trainer, or of TrainingArguments."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        optim=optim,
        **{
            "report_to": "none",
            "save_strategy": "no",
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "logging_steps": 1,
            **{name: value for name, value in more.items() if name in known},
        },
    )
    more = {name: value for name, value in more.items() if name not in known}
    return trainer_class(model=model, args=arguments, train_dataset=examples(), data_collator=collate, **more)


def train(*args, **kwargs):
    trainer = make_trainer(*args, **kwargs)
    trainer.train()
    return trainer


KINDS = [
    (FtTrainer, {}),
    (ContextDistillationTrainer, {"label_sequences": [[i] for i in LABELS], "choices": Objective(temperature=2.0)}),
]


OBJECTIVES = [(FtTrainer, {"objective": partial(loss, label_ids=LABELS)}) for loss in (label_cross_entropy, t_few_loss)]


@pytest.mark.parametrize(("trainer_class", "more"), KINDS + OBJECTIVES)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_loss_falls(tmp_path, trainer_class, more, family):
    trainer = train(tmp_path, trainer_class, tiny_model(family), epochs=20, **more)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(("trainer_class", "more"), KINDS)
def test_eight_at_once_equals_one_by_one_accumulated(tmp_path, trainer_class, more):
    plain = {"optim": "sgd", "learning_rate": 0.1, **more}  # AdamW would blow a difference of 1e-9 in a gradient near 0 up to lr
    at_once = train(tmp_path, trainer_class, tiny_model("opt"), 8, 1, **plain)
    one_by_one = train(tmp_path, trainer_class, tiny_model("opt"), 1, 8, **plain)
    start = tiny_model("opt")
    assert max((a - b).abs().max() for a, b in zip(at_once.model.parameters(), start.parameters(), strict=True)) > 1e-3
    for a, b in zip(at_once.model.parameters(), one_by_one.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("trainer_class", "more"), KINDS)
def test_frozen_weights_are_bit_equal_under_lora(tmp_path, trainer_class, more):
    model = adapt(tiny_model("llama"), "lora", dim=4, alpha=8, dropout=0.0)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(tmp_path, trainer_class, model, **more)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_a_student_that_answers_as_the_teacher_has_nothing_to_learn(tmp_path):
    model = tiny_model("opt")
    rows = examples()
    batch = collate(rows)
    from llmft.models.label_scores import answer_logits

    with torch.no_grad():
        batch["teacher_logprobs"] = answer_logits(model, batch)[:, LABELS].log_softmax(-1)
    trainer = train(tmp_path, ContextDistillationTrainer, tiny_model("opt"), epochs=0.1, **KINDS[1][1])
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    rounding = torch.finfo(torch.float32).eps  # the teacher's log-probabilities are divided by the temperature, not its logits
    assert abs(loss.item()) < rounding
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.abs().max() < 10 * rounding for gradient in gradients)


def test_labels_are_not_needed_for_distillation():
    rows = [{name: value for name, value in row.items() if name != "answer"} for row in examples()]
    assert set(collate(rows)) == {"input_ids", "attention_mask", "position_ids", "teacher_logprobs"}


def test_places_of_queries_stay_on_the_host():
    batch = collate([{"input_ids": [1], "query": 7, "position": 0}, {"input_ids": [2], "query": 3, "position": 1}])
    assert batch["query"] == [7, 3]
    assert batch["position"].tolist() == [0, 1]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_rows_that_are_no_repeats_are_told_as_ranks_get_them(monkeypatch, split, drop_last):
    rows, ranks = 42, 2
    seen = []
    for rank in range(ranks):
        sampler = BatchSampler(SequentialSampler(range(rows)), 16, drop_last)
        batches = list(BatchSamplerShard(sampler, ranks, rank, split_batches=split))
        trainer = object.__new__(FtTrainer)
        trainer.train_dataset = range(rows)
        trainer.args = SimpleNamespace(train_batch_size=16, world_size=ranks, process_index=rank, dataloader_drop_last=drop_last)
        trainer.accelerator = SimpleNamespace(split_batches=split, gradient_state=SimpleNamespace(end_of_dataloader=True))
        monkeypatch.setattr(Trainer, "get_batch_samples", lambda *_, found=batches: ([{"rows": rows} for rows in found], None))
        found, _ = trainer.get_batch_samples(iter(()), len(batches), "cpu")
        assert not any(REAL in batch for batch in found[:-1])
        real, _ = found[-1].get(REAL, (len(batches[-1]), None))
        seen += [*chain(*batches[:-1]), *batches[-1][:real]]
    assert sorted(seen) == list(range(32 if drop_last else rows))


def test_work_is_counted(tmp_path):
    trainer = train(tmp_path, FtTrainer, tiny_model("opt"), epochs=2)
    lengths = [len(row["input_ids"]) for row in examples()]
    assert trainer.examples_seen == 2 * len(lengths)
    assert int(trainer.tokens_seen) == 2 * sum(lengths)
    assert trainer.positions_seen >= int(trainer.tokens_seen)
