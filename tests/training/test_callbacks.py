import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmft.distillation.trainer import ContextDistillationTrainer
from llmft.evaluation.checkpoint_selection import Evaluations
from llmft.evaluation.labels import Labels
from llmft.evaluation.scores import Scores
from llmft.models.reading.continuations import LabelSequences
from llmft.prompts.tokens import TokenizedPrompts
from llmft.training.callbacks import EvaluateThenSave, LogDistances
from llmft.training.ft_trainer import FtTrainer
from tests.conftest import adapted, tiny_model
from tests.scoring import score_answers
from tests.training.test_trainers import KINDS, make_trainer


def log(trainer, key):
    return [entry for entry in trainer.state.log_history if any(name.startswith(key) for name in entry)]


@pytest.mark.parametrize(("adapter", "flags"), [(None, {}), ("lora", {"adapter_dim": 4, "lora_alpha": 8})])
def test_distances_of_all_trained_weights_from_their_start(tmp_path, adapter, flags):
    model = adapted(tiny_model("llama"), adapter, **flags)
    start = copy.deepcopy({name: p for name, p in model.named_parameters() if p.requires_grad})
    trainer = make_trainer(tmp_path, FtTrainer, model)
    trainer.add_callback(LogDistances(model, trainer.log))
    trainer.train()
    losses, distances = log(trainer, "loss"), log(trainer, "l2-dist/")
    assert [entry["step"] for entry in losses] == [entry["step"] for entry in distances] == [1, 2, 3, 4]
    last = {name: value for name, value in distances[-1].items() if name.startswith("l2-dist/")}
    assert set(last) == {f"l2-dist/{name}" for name in start}
    for name, p in model.named_parameters():
        if name in start:
            assert last[f"l2-dist/{name}"] == pytest.approx((p - start[name]).norm().item(), rel=1e-5)
    assert max(last.values()) > 1e-3


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_the_norm_of_the_gradient_is_logged_clipped_or_not(tmp_path, monkeypatch, max_grad_norm):
    norms = []
    original = FtTrainer.training_step

    def watch(self, model, *args, **kwargs):
        loss = original(self, model, *args, **kwargs)
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item())
        return loss

    monkeypatch.setattr(FtTrainer, "training_step", watch)
    trainer = make_trainer(tmp_path, FtTrainer, tiny_model("opt"), max_grad_norm=max_grad_norm)
    trainer.train()
    assert [entry["grad_norm"] for entry in log(trainer, "loss")] == pytest.approx(norms, rel=1e-4)


def generators():
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize(("trainer_class", "more"), KINDS)
def test_evaluation_leaves_weights_and_random_numbers_alone(tmp_path, trainer_class, more):
    def model_with_dropout():
        model = tiny_model("opt")
        model.config.dropout = 0.1
        for module in model.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.1
        return model

    plain = make_trainer(tmp_path, trainer_class, model_with_dropout(), **more)
    plain.train()
    model, states, modes = model_with_dropout(), [], []
    prompts = TokenizedPrompts([5, 6, 7], [[8, 9], [10], [11, 12, 13]])

    def score(stage):
        states.append(generators())
        modes.append(model.training)
        scores = score_answers(model, prompts, [17, 99], queries_per_row=2)
        states.append(generators())
        arrays = {"label_logprobs": scores.label_logprobs, "best_token": scores.best_token}
        return {"some": Scores(labels.columns([{"idx": i, "label": i % 2} for i in range(3)], arrays), 4.0)}

    labels = Labels(LabelSequences.create([[17], [99]]))
    evaluations = Evaluations(score, lambda sets: {"some": labels.metrics(sets["some"])}, labels, {"in_domain": ["some"]})
    evaluated = make_trainer(
        tmp_path, trainer_class, model, evaluations=evaluations, eval_dataset={}, eval_strategy="steps", eval_steps=1, **more
    )
    evaluated.train()
    assert [entry["step"] for entry in evaluations.history] == [1, 2, 3, 4]
    assert states[::2] == states[1::2]
    assert modes == [True] * 4 and model.training
    for a, b in zip(plain.model.parameters(), evaluated.model.parameters(), strict=True):
        assert torch.equal(a, b)
    logged = log(evaluated, "eval_")
    assert [entry["eval_some_loss"] for entry in logged] == [entry["sets"]["some"]["loss"] for entry in evaluations.history]
    assert not any("eval_some_n" in entry for entry in logged)


def test_an_epochs_log_stands_before_the_checkpoint_of_its_last_step(tmp_path):
    """A run that resumes there would lose it: the next entry would be the mean over two epochs."""
    logged = {}
    more = {"logging_strategy": "epoch", "save_strategy": "steps", "save_steps": 1, **KINDS[1][1]}
    trainer = make_trainer(tmp_path, ContextDistillationTrainer, tiny_model("opt"), batch=4, epochs=2.5, **more)
    trainer.evaluate = lambda **_: {}
    trainer.add_callback(EvaluateThenSave())

    def save(*_):
        logged[trainer.state.global_step] = [entry["step"] for entry in log(trainer, "loss")]

    trainer._save_checkpoint = save
    trainer.train()
    assert logged == {step: [4, 8][: step // 4] for step in range(1, 10)}
    assert [entry["step"] for entry in log(trainer, "loss")] == [4, 8, 10]


@pytest.mark.parametrize("strategy", ["no", "epoch", "steps"])
def test_evaluations_stand_before_the_checkpoints_of_their_steps(tmp_path, strategy):
    events = []
    evaluations = SimpleNamespace(evaluate=lambda step, epoch, last: events.append(("evaluate", step, epoch, last)) or {})
    more = {"eval_steps": 3} if strategy == "steps" else {}
    trainer = make_trainer(
        tmp_path,
        ContextDistillationTrainer,
        tiny_model("opt"),
        batch=4,
        epochs=1.5,
        evaluations=evaluations,
        eval_dataset={},
        eval_strategy=strategy,
        save_strategy="steps",
        save_steps=1,
        **more,
        **KINDS[1][1],
    )
    trainer.add_callback(EvaluateThenSave())
    trainer._save_checkpoint = lambda *_: events.append(("save", trainer.state.global_step))
    trainer.train()
    evaluated = {"no": [], "epoch": [4], "steps": [3]}[strategy]
    expected = []
    for step in range(1, 6):
        expected += [("evaluate", step, step / 4, False)] * (step in evaluated) + [("save", step)]
    assert events == [*expected, ("evaluate", 6, 1.5, True)]  # the last step: always evaluated, never a checkpoint
