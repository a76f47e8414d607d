"""A NaN loss stops training: when it is checked, what the message says, and what is kept."""

from types import SimpleNamespace

import pytest
import torch

from llmft.errors import InputError
from llmft.training import stop_at_nan
from llmft.training.ft_trainer import FtTrainer
from llmft.training.stop_at_nan import POSITION, Report, StopAtNonFinite, check_start, weights_are_finite
from tests.conftest import tiny_model
from tests.training.test_trainers import examples, make_trainer

STATE = SimpleNamespace(global_step=4, max_steps=9)
ROWS = [f"row-{i}" for i in range(16)]


def broken_at(monkeypatch, call, value):
    calls = []
    original = FtTrainer.answer_loss

    def loss(self, *args):
        calls.append(1)
        found = original(self, *args)
        return found * value if len(calls) == call else found

    monkeypatch.setattr(FtTrainer, "answer_loss", loss)


def train(tmp_path, **more):
    trainer = make_trainer(tmp_path, FtTrainer, tiny_model("opt"), finite=StopAtNonFinite(ROWS), **more)
    trainer.train_dataset = [{**example, POSITION: i} for i, example in enumerate(examples())]
    trainer.train()
    return trainer


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_the_weights_of_the_step_before_stay(tmp_path, monkeypatch, value):
    good = train(tmp_path, max_steps=1)
    broken_at(monkeypatch, 2, value)
    model = tiny_model("opt")
    trainer = make_trainer(tmp_path, FtTrainer, model, finite=StopAtNonFinite(ROWS), epochs=2)
    trainer.train_dataset = [{**example, POSITION: i} for i, example in enumerate(examples())]
    with pytest.raises(
        InputError, match=rf"^--learning_rate 0.01: the loss of step 2 is {value}, with the training rows idx row-"
    ):
        trainer.train()
    assert weights_are_finite(model)
    for a, b in zip(good.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_names_the_rows_of_the_batch_and_no_others(tmp_path, monkeypatch):
    broken_at(monkeypatch, 6, torch.nan)
    seen = []
    original = StopAtNonFinite.see
    monkeypatch.setattr(StopAtNonFinite, "see", lambda self, *args: seen.append(args[2].tolist()) or original(self, *args))
    with pytest.raises(InputError, match="the loss of step 2 is nan") as caught:
        train(tmp_path, batch=2, accumulation=4)
    assert ", ".join(ROWS[i] for i in seen[5]) + ";" in str(caught.value)
    assert str(caught.value).count("row-") == 2


def test_training_that_is_well_goes_on(tmp_path):
    plain = make_trainer(tmp_path, FtTrainer, tiny_model("opt"))
    plain.train()
    watched = train(tmp_path)
    assert watched.finite.unread == []
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def arguments(device):
    return SimpleNamespace(device=torch.device(device), learning_rate=0.1, output_dir="/nowhere")


def test_a_gpu_is_waited_for_only_where_something_is_logged_evaluated_or_saved():
    watch, control = StopAtNonFinite(ROWS), {"should_log": False, "should_evaluate": False, "should_save": False}
    model = torch.nn.Linear(2, 2)
    for step in (1, 2, 3):
        watch.see(step, torch.tensor(torch.nan if step == 2 else 1.0), torch.tensor([step, step + 4]))
        watch.on_pre_optimizer_step(arguments("cuda"), STATE, None)
        watch.on_step_end(arguments("cuda"), STATE, SimpleNamespace(**control), model)
    assert len(watch.unread) == 3
    for name in control:
        again = StopAtNonFinite(ROWS)
        again.unread = list(watch.unread)
        with pytest.raises(InputError, match="the loss of step 2 is nan, with the training rows idx row-2, row-6; lower it"):
            again.on_step_end(arguments("cuda"), STATE, SimpleNamespace(**{**control, name: True}), model)
        assert again.unread == []


def test_weights_are_looked_at_before_a_checkpoint():
    model = torch.nn.Linear(2, 2)
    watch = StopAtNonFinite(ROWS)
    watch.see(4, torch.tensor(1.0), torch.tensor([3]))
    watch.see(4, torch.tensor(1.0), torch.tensor([5]))
    control = SimpleNamespace(should_log=False, should_evaluate=False, should_save=True)
    watch.on_step_end(arguments("cuda"), STATE, control, model)
    with torch.no_grad():
        model.bias[0] = torch.inf
    with pytest.raises(InputError, match="the weights are not finite after step 4, with the training rows idx row-3, row-5"):
        watch.on_epoch_end(arguments("cuda"), STATE, control, model)
    model.bias.requires_grad_(False)  # untrained weights are not checked
    watch.on_step_end(arguments("cuda"), STATE, control, model)


def test_all_ranks_stop_with_the_first_of_what_they_found(monkeypatch):
    gathered = []

    def gather(value):
        gathered.append(value)
        others = [
            Report(7, "the loss of step 7 is nan", [1], None, True),
            Report(6, "the loss of step 6 is inf", [2, 3], None, True),
        ]
        return [value, *others]

    monkeypatch.setattr(stop_at_nan, "all_gather", gather)
    watch = StopAtNonFinite(ROWS)
    watch.see(7, torch.tensor(1.0), torch.tensor([9]))
    with pytest.raises(InputError, match="the loss of step 6 is inf, with the training rows idx row-2, row-3;"):
        watch.on_pre_optimizer_step(arguments("cpu"), None, None)
    assert gathered == [None]  # this rank has no problem


def test_the_cause_is_that_of_the_first_step_on_any_rank(monkeypatch):
    first = Report(1, "the loss of step 1 is nan", [2], None, is_loss=True)
    monkeypatch.setattr(stop_at_nan, "all_gather", lambda value: [value, first])
    args = SimpleNamespace(**vars(arguments("cpu")), fp16=False)
    for loss in (1.0, torch.nan):  # nothing to report from this rank, or something of a later step
        watch = StopAtNonFinite(ROWS, "some/model")
        watch.on_train_begin(args, SimpleNamespace(global_step=0), None)
        watch.see(2, torch.tensor(loss), torch.tensor([9]))
        with pytest.raises(
            InputError, match=r"^--model_name_or_path some/model: the loss of step 1 is nan, .* row-2, before this"
        ):
            watch.on_pre_optimizer_step(args, None, None)
    weights = Report(1, "the weights are not finite after step 1", [2], None, is_loss=False)
    monkeypatch.setattr(stop_at_nan, "all_gather", lambda value: [value, weights])
    watch.see(2, torch.tensor(torch.nan), torch.tensor([9]))
    with pytest.raises(
        InputError, match=r"^--learning_rate 0.1: the weights are not finite .* row-2; lower it, or fix those rows$"
    ):
        watch.on_pre_optimizer_step(args, None, None)


def test_what_fills_up_the_last_shares_of_a_weight_is_not_looked_at(monkeypatch):
    model = torch.nn.Linear(3, 1, bias=False)  # of each rank 2 numbers, of which the second's last is no weight
    model.weight.ds_tensor, model.weight.ds_numel = torch.tensor([1.0, torch.nan]), 3
    for rank in (1, 2):
        monkeypatch.setattr(stop_at_nan, "rank_and_world", lambda rank=rank: (rank, 3))
        assert weights_are_finite(model)
        check_start("m", {"weight": model.weight})
    monkeypatch.setattr(stop_at_nan, "rank_and_world", lambda: (0, 3))
    assert not weights_are_finite(model)
    with pytest.raises(InputError, match="m: weight weight is NaN before training"):
        check_start("m", {"weight": model.weight})


def test_it_names_the_checkpoint_that_is_kept_and_not_every_row_of_a_huge_batch(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.json").write_text("{}")
    (tmp_path / "checkpoint-11").mkdir()  # not written whole
    watch = StopAtNonFinite(range(1000))
    watch.see(12, torch.tensor(torch.nan), torch.arange(1000))
    args = SimpleNamespace(**{**vars(arguments("cpu")), "output_dir": str(tmp_path)})
    with pytest.raises(InputError, match=r"62, 63 and 936 more; lower it, or fix those rows; checkpoint-10 is kept$"):
        watch.on_pre_optimizer_step(args, None, None)
