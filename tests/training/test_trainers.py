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

from llmft.arguments.objective import Objective
from llmft.distillation.targets import support_targets
from llmft.distillation.trainer import ContextDistillationTrainer, OnPolicyTrainer, Retained
from llmft.evaluation.labels import Labels
from llmft.evaluation.texts import Texts
from llmft.models.parts import head
from llmft.models.reading.continuations import LabelSequences
from llmft.models.reading.packing import can_pack
from llmft.training.ft_trainer import REAL, FtTrainer, collate
from llmft.training.losses import label_cross_entropy, t_few_loss
from tests.conftest import adapted, tiny_model

LABELS = [17, 99]
ANSWERS = Labels(LabelSequences.create([[token] for token in LABELS]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_signals_to_their_main_process(monkeypatch, number):
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        collate([{"input_ids": [1, 2]}])
        assert signal.getsignal(number) == before[number]
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker's")
        collate([{"input_ids": [1, 2]}])
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def examples(n=16):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        ids = torch.randint(2, 600, (4 + i % 5,), generator=generator).tolist()
        rows.append(
            {
                "input_ids": ids,
                "answer": LABELS[i % 2],
                "teacher_logprobs": torch.randn(1, 2, generator=generator).log_softmax(-1),
            }
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
    more = {"train_dataset": examples(), "data_collator": collate, **more}
    return trainer_class(model=model, args=arguments, **more)


def train(*args, **kwargs):
    trainer = make_trainer(*args, **kwargs)
    trainer.train()
    return trainer


KINDS = [
    (FtTrainer, {}),
    (
        ContextDistillationTrainer,
        {"answers": ANSWERS, "choices": Objective(temperature=2.0)},
    ),
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
    plain = {"optim": "sgd", "learning_rate": 0.1, **more}  # AdamW would amplify a difference of 1e-9 in a gradient near 0 to lr
    at_once = train(tmp_path, trainer_class, tiny_model("opt"), 8, 1, **plain)
    one_by_one = train(tmp_path, trainer_class, tiny_model("opt"), 1, 8, **plain)
    start = tiny_model("opt")
    assert max((a - b).abs().max() for a, b in zip(at_once.model.parameters(), start.parameters(), strict=True)) > 1e-3
    for a, b in zip(at_once.model.parameters(), one_by_one.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("trainer_class", "more"), KINDS)
def test_frozen_weights_are_bit_equal_under_lora(tmp_path, trainer_class, more):
    model = adapted(tiny_model("llama"), "lora", adapter_dim=4, lora_alpha=8, lora_dropout=0.0)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(tmp_path, trainer_class, model, **more)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_a_student_that_answers_as_the_teacher_has_nothing_to_learn(tmp_path):
    model = tiny_model("opt")
    rows = examples()
    batch = collate(rows)
    from llmft.models.reading.batches import answer_logits

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
    assert set(collate(rows)) == {"input_ids", "attention_mask", "position_ids", "size", "teacher_logprobs"}


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


def test_an_epoch_without_batches_does_not_wait_for_one(monkeypatch):
    trainer, asked = object.__new__(OnPolicyTrainer), iter(range(3))
    trainer.accelerator = SimpleNamespace(gradient_state=SimpleNamespace(end_of_dataloader=False))
    monkeypatch.setattr(FtTrainer, "get_batch_samples", lambda *_: ([], next(asked)))
    assert trainer._fetched(iter(()), 2, "cpu") == [] == [*asked][2:]


def test_work_is_counted(tmp_path):
    trainer = train(tmp_path, FtTrainer, tiny_model("opt"), epochs=2)
    lengths = [len(row["input_ids"]) for row in examples()]
    assert trainer.examples_seen == 2 * len(lengths)
    assert int(trainer.tokens_seen) == 2 * sum(lengths)
    assert trainer.positions_seen >= int(trainer.tokens_seen)


def texts(n=16):
    """Examples that end in texts of 1 to 6 tokens, and the tokens asked about in them."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        asked = 1 + i * 5 % 6
        ids, answer = (torch.randint(2, 600, (length,), generator=generator) for length in (3 + i % 5 + asked - 1, asked))
        target = torch.randn(asked, 8, generator=generator).log_softmax(-1)
        largest = torch.stack([torch.randperm(600, generator=generator)[:7] for _ in range(asked)])
        rows.append(
            {"input_ids": ids.tolist(), "asked": asked, "answer": answer, "teacher_logprobs": target, "teacher_tokens": largest}
        )
    return rows


TEXT_KINDS = [
    (FtTrainer, {}),
    (
        ContextDistillationTrainer,
        {"answers": Texts(None, None, None), "choices": Objective(support="topk", topk=7, ce_weight=0.5)},
    ),
]
COLLATORS = {"padded": collate, "packed": partial(collate, packed=True)}


def by_hand(trainer_class, model, rows, loss_mean, ce_weight=0.5):
    """The loss of texts, each read alone, in float64."""
    losses = []
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, -row["asked"] :].double()
        logprobs = logits.log_softmax(-1)
        loss = -logprobs.gather(1, row["answer"][:, None])[:, 0]
        if trainer_class is ContextDistillationTrainer:
            classes = logprobs.gather(1, row["teacher_tokens"])
            classes = torch.cat([classes, (1 - classes.exp().sum(1, keepdim=True)).log()], 1)
            target = row["teacher_logprobs"].double()
            loss = ce_weight * loss + (target.exp() * (target - classes)).sum(1)
        losses.append(loss)
    return torch.cat(losses).mean() if loss_mean == "tokens" else torch.stack([loss.mean() for loss in losses]).mean()


@pytest.mark.parametrize(("trainer_class", "more"), TEXT_KINDS)
@pytest.mark.parametrize("loss_mean", ("tokens", "examples"))
@pytest.mark.parametrize("how", COLLATORS)
def test_texts_of_a_step_count_alike_however_it_is_parted(tmp_path, trainer_class, more, loss_mean, how):
    rows, start = texts(), tiny_model("llama")
    assert can_pack(start)
    with torch.no_grad():
        expected = by_hand(trainer_class, start, rows, loss_mean)
        reference = {"train_dataset": rows, "data_collator": COLLATORS[how], "loss_mean": loss_mean, **more}
    students = []
    for batch, accumulation in ((16, 1), (5, 4)):  # the last of four has one example
        trainer = make_trainer(
            tmp_path, trainer_class, copy.deepcopy(start), batch, accumulation, 1, optim="sgd", learning_rate=0.1, **reference
        )
        trainer.train()
        (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert loss == pytest.approx(expected.item(), rel=1e-4)  # as it is logged
        assert trainer.examples_seen == len(rows)
        assert int(trainer.tokens_seen) == sum(len(row["input_ids"]) for row in rows)
        students.append(trainer.model)
    for one, other, before in zip(*(model.parameters() for model in (*students, start)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert not torch.equal(one, before) or one.ndim == 1


@pytest.mark.parametrize(("trainer_class", "more"), TEXT_KINDS)
@pytest.mark.parametrize("loss_mean", ("tokens", "examples"))
def test_ranks_count_each_text_once(tmp_path, loss_mean, trainer_class, more):
    """Two ranks with batches of four, of which the second's has two repeats; their mean is the loss of the six."""
    rows, model = texts(6), tiny_model("opt")
    losses = []
    for real, batch in ((4, rows[:4]), (2, [*rows[4:], *rows[:2]])):
        trainer = make_trainer(tmp_path, trainer_class, model, loss_mean=loss_mean, **more)
        trainer.current_gradient_accumulation_steps = 1
        items = torch.tensor(sum(row["asked"] for row in rows) if loss_mean == "tokens" else 6)
        trainer.args = SimpleNamespace(world_size=2, device=torch.device("cpu"))
        losses.append(trainer.compute_loss(model, {**collate(batch), REAL: (real, 6)}, num_items_in_batch=items))
        assert trainer.examples_seen == real
    assert torch.stack(losses).mean().item() == pytest.approx(by_hand(trainer_class, model, rows, loss_mean).item(), rel=1e-5)


RETAINED = Retained(0.3, texts(20)[16:], Objective(support="topk", topk=7), seed=0)
"""As many as sixteen queries come with, with answers of 3, 2, 1 and 6 tokens."""


def with_retained(model, loss_mean):
    """Arguments of a trainer that also retains, and the loss of a step of sixteen queries."""
    (trainer_class, more), weight = TEXT_KINDS[1], RETAINED.weight
    with torch.no_grad():
        learnt = by_hand(trainer_class, model, texts(), loss_mean)
        kept = by_hand(trainer_class, model, RETAINED.examples, loss_mean, ce_weight=0)
    return {"retained": RETAINED, "loss_mean": loss_mean, **more}, ((1 - weight) * learnt + weight * kept).item()


@pytest.mark.parametrize("loss_mean", ("tokens", "examples"))
def test_prompts_to_retain_count_alike_however_a_step_is_parted(tmp_path, loss_mean):
    start, students = tiny_model("llama"), []
    more, expected = with_retained(start, loss_mean)
    for batch, accumulation in ((16, 1), (8, 2), (1, 16)):  # of these sixteen, four read a prompt
        trainer = train(
            *(tmp_path, ContextDistillationTrainer, copy.deepcopy(start), batch, accumulation, 1),
            **{"optim": "sgd", "learning_rate": 0.1, "train_dataset": texts(), **more},
        )
        (loss,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert loss == pytest.approx(expected, rel=1e-4) and trainer.retained_read == 4
        students.append(trainer.model)
    for whole, *parted in zip(*(model.parameters() for model in students), strict=True):
        for one in parted:
            torch.testing.assert_close(one, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss_mean", ("tokens", "examples"))
def test_prompts_to_retain_count_alike_on_all_ranks(tmp_path, loss_mean):
    model, ranks = tiny_model("llama"), []
    more, expected = with_retained(model, loss_mean)
    for rank, rows in enumerate((texts()[:8], texts()[8:])):
        trainer, batch = make_trainer(tmp_path, ContextDistillationTrainer, model, **more), collate(rows)
        trainer.args = SimpleNamespace(world_size=2, process_index=rank, device=torch.device("cpu"))
        trainer.current_gradient_accumulation_steps = 1
        ranks.append((trainer, batch, trainer.items_of([batch], "cpu")))
    losses, items = [], sum(own for *_, own in ranks)
    retained_items = sum(trainer.retained_items for trainer, *_ in ranks)
    for trainer, batch, _ in ranks:
        trainer.retained_items = retained_items
        losses.append(trainer.compute_loss(model, batch, num_items_in_batch=items).item())
    assert sum(losses) / 2 == pytest.approx(expected, rel=1e-4)


TEXT_OBJECTIVES = [
    Objective(support=support, divergence=divergence, temperature=temperature, **more)
    for support, more in (("topk", {"topk": 7}), ("vocab", {}))
    for divergence in ("forward", "reverse", "jsd")
    for temperature in (1.0, 2.0)
]


def in_float64(objective, teacher, student):
    """T^2 D at each position, from logits (P, V), by the definitions in float64."""
    teacher, student = (logits.double() / objective.temperature for logits in (teacher, student))
    p, q = teacher.softmax(-1), student.softmax(-1)
    if objective.support == "topk":  # the temperature acts on the bucket as on one class
        p, q = (logits.double().mul(objective.temperature).softmax(-1) for logits in (teacher, student))
        largest = p.topk(objective.topk).indices
        p, q = (torch.cat([one.gather(1, largest), 1 - one.gather(1, largest).sum(1, keepdim=True)], 1) for one in (p, q))
        p, q = ((one.log() / objective.temperature).softmax(-1) for one in (p, q))
    middle = (p + q) / 2
    kl = {
        "forward": lambda: (p * (p / q).log()).sum(-1),
        "reverse": lambda: (q * (q / p).log()).sum(-1),
        "jsd": lambda: ((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2,
    }
    return objective.temperature**2 * kl[objective.divergence]()


PARTS = (slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 6))
"""How two ranks read six texts in a step of two batches each."""


def parted_loss(trainer, student, batches):
    """The mean over ranks and batches of the results for their parts of a step."""
    asked = [count for batch in batches for count in batch["asked"]]
    items = torch.tensor(sum(asked) if trainer.loss_mean == "tokens" else len(asked))
    trainer.args, before = SimpleNamespace(world_size=2, device=torch.device("cpu")), trainer.args
    trainer.current_gradient_accumulation_steps = 2
    with torch.no_grad():
        losses = [trainer.compute_loss(student, batch, num_items_in_batch=items).item() for batch in batches]
    trainer.args = before
    return sum(losses) / len(losses)


@pytest.mark.parametrize("objective", TEXT_OBJECTIVES, ids=lambda one: f"{one.support}-{one.divergence}-{one.temperature:g}")
def test_the_loss_of_texts_is_that_of_float64_and_nothing_where_both_agree(tmp_path, objective):
    student, teacher = (tiny_model("llama") for _ in range(2))
    assert can_pack(student)
    with torch.no_grad():
        for model, scale in ((student, 10), (teacher, -7)):
            model.lm_head.weight *= scale  # distributions far from uniform, and from each other
    rows = texts(6)
    rows[3] = {
        **rows[3],
        "input_ids": [*range(5, 45)],
        "asked": 30,
        "answer": torch.arange(30),
    }  # one long and many short answers
    logits = {}
    for who, model in (("teacher", teacher), ("student", student)):
        with torch.no_grad():
            logits[who] = [model(torch.tensor([row["input_ids"]])).logits[0, -row["asked"] :] for row in rows]
    each = [in_float64(objective, *pair) for pair in zip(logits["teacher"], logits["student"], strict=True)]
    expected = {"tokens": torch.cat(each).mean(), "examples": torch.stack([one.mean() for one in each]).mean()}
    more = {"answers": Texts(None, None, None), "choices": objective}
    for how, collator in COLLATORS.items():
        for loss_mean, value in expected.items():
            trainer = make_trainer(tmp_path, ContextDistillationTrainer, student, loss_mean=loss_mean, **more)
            sizes = {}
            for who in ("teacher", "student"):
                targets = [support_targets(one, objective.support, label_ids=(), topk=7) for one in logits[who]]
                for row, target in zip(rows, targets, strict=True):
                    row |= {"teacher_logprobs": target.logprobs, "teacher_tokens": target.tokens}
                kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
                batch = collator(kept)
                student.zero_grad()
                loss = trainer.compute_loss(student, batch)
                loss.backward()
                parted = parted_loss(trainer, student, [collator(kept[part]) for part in PARTS])
                sizes[who] = max(p.grad.abs().max() for p in student.parameters())
                expected_loss = {"teacher": pytest.approx(value.item(), rel=2e-4), "student": pytest.approx(0, abs=1e-6)}
                assert loss.item() == expected_loss[who], (how, loss_mean)
                assert parted == expected_loss[who], (how, loss_mean)
            assert sizes["student"] < 1e-3 * sizes["teacher"]  # rounding: batches are of other sizes than single rows


@pytest.mark.parametrize(("trainer_class", "more"), TEXT_KINDS)
@pytest.mark.parametrize("how", COLLATORS)
@pytest.mark.parametrize("family", ["opt", "llama", "gemma2"])  # tied to the embeddings, not, and with capped logits
@pytest.mark.parametrize("part", [None, "lora"])  # whose output layer is frozen
def test_logits_of_texts_are_made_in_pieces_where_they_are_many(tmp_path, monkeypatch, trainer_class, more, how, family, part):
    model, made, gradients = adapted(tiny_model(family), part), [], []
    assert can_pack(model)
    batch = COLLATORS[how](texts(6))
    trainer = make_trainer(tmp_path, trainer_class, model, **more)
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: made.append(logits.shape[-2]))
    for most in (head.LOGITS, 4 * 600):
        monkeypatch.setattr(head, "LOGITS", most)
        model.zero_grad()
        loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        gradients.append((loss, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    assert made[1:] == [1]  # the part that the model itself gets
    (loss, whole), (other, pieces) = gradients
    torch.testing.assert_close(other, loss, rtol=1e-6, atol=0)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize(("trainer_class", "more"), TEXT_KINDS)
@pytest.mark.parametrize("part", [None, "lora"])
def test_pieces_are_summed_in_float32_also_within_autocast(tmp_path, monkeypatch, trainer_class, more, part):
    trainer = make_trainer(tmp_path, trainer_class, adapted(tiny_model("llama"), part), bf16=True, **more)
    model, losses = trainer.accelerator.prepare_model(trainer.model), []
    for most in (head.LOGITS, 4 * 600):
        monkeypatch.setattr(head, "LOGITS", most)
        losses.append(trainer.compute_loss(model, collate(texts(6))))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)  # and of one kind
    assert losses[0].dtype == torch.float32
