from types import SimpleNamespace

import pytest
import torch

from llmft.arguments.run import RunArguments
from llmft.arguments.run_checks import check_after, check_rows
from llmft.errors import InputError


def test_a_process_uses_one_gpu_and_says_so(capsys):
    run = SimpleNamespace(
        n_gpu=8, deepspeed=None, optim_args=None, optim=SimpleNamespace(value="adamw_torch"), lr_scheduler_kwargs=None
    )
    run.lr_scheduler_type = SimpleNamespace(value="linear")
    check_after(run)
    assert run._n_gpu == 1
    assert "note: only one of 8 GPUs is used; start with torchrun or deepspeed to use more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        ("cpu", {}, (False, False)),
        ("cuda", {}, (True, True)),
        ("cuda", {"dataloader_pin_memory": False}, (False, False)),
        ("cuda", {"accelerator_config": {"non_blocking": False}}, (True, False)),
    ],
)
def test_batches_are_copied_to_a_gpu_without_a_wait(monkeypatch, tmp_path, device, given, expected):
    monkeypatch.setattr(RunArguments, "device", property(lambda run: run._setup_devices and torch.device(device)))
    run = RunArguments(output_dir=str(tmp_path), **given)
    assert (run.dataloader_pin_memory, run.accelerator_config.non_blocking) == expected


@pytest.mark.parametrize(("split", "fewest"), [(False, 16), (True, 8)])
def test_rows_that_are_dropped_are_those_of_all_ranks(monkeypatch, tmp_path, split, fewest):
    given = {"per_device_train_batch_size": 8, "accelerator_config": {"split_batches": split}, "dataloader_drop_last": True}
    run = RunArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    monkeypatch.setattr(RunArguments, "world_size", 2)
    check_rows(run, fewest)
    with pytest.raises(InputError, match=f"{fewest - 1} rows are fewer than the {fewest} of a batch on all ranks"):
        check_rows(run, fewest - 1)
