"""`python -m llmft.doctor` on this machine, as it is and with a kernel that is broken on purpose."""

import pytest
import torch

from llmft.doctor import checks, machine
from llmft.doctor.__main__ import main
from llmft.errors import InputError
from llmft.models.reading import agreement, attention
from tests.models.reading.test_agreement import kernel_without_sums


def test_a_sound_machine_passes(capsys):
    assert main(["--model_name_or_path", "notes", "--torch_dtype", "bfloat16"]) == 0
    shown = capsys.readouterr().out
    assert "WRONG" not in shown
    assert "11 of 11 checks passed" in shown
    for part in (
        "torch 2.",
        "bfloat16:",
        "CUDA",
        "DeepSpeed",
        "distillation of toy, after",
        "notes in bfloat16, read side by side",
    ):
        assert part in shown


def test_a_broken_kernel_is_named_and_scores_are_right_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(agreement, "_AGREEMENTS", {})
    monkeypatch.setattr(attention, "attend", kernel_without_sums(attention.attend))
    monkeypatch.setattr(checks, "PRECISIONS", ("float32",))
    assert main([]) == 1
    shown = capsys.readouterr()
    assert "warning: OPTForCausalLM in float32 on cpu" in shown.err
    assert "wrong on cpu: toy in float32, read after a shared context" in shown.out
    assert "4 of 5 checks passed" in shown.out  # those of the distillation among them


def test_what_cannot_be_computed_on_a_device_is_a_failed_check(monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    monkeypatch.setattr(checks, "in_context", fail)
    monkeypatch.setattr(checks, "PRECISIONS", ())
    assert main([]) == 1
    assert "RuntimeError: no kernel image is available for execution on the device, expected no error" in capsys.readouterr().out


def test_a_device_without_memory_is_told_from_a_wrong_one(monkeypatch, capsys):
    def fail(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", fail)
    monkeypatch.setattr(machine, "kernel_for", fail)
    assert main(["--model_name_or_path", "notes"]) == 1
    shown = capsys.readouterr().out
    assert "float32: CUDA out of memory., bfloat16" in shown and "0 of 5 checks passed" in shown
    assert "TOO LARGE" in shown and "WRONG" not in shown
    assert "too large for cpu: notes: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB, expected" in shown


def test_a_model_that_is_not_there_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(checks, "embedded_checks", lambda _device: pytest.fail("computed"))
    with pytest.raises(InputError, match=r"--model_name_or_path \./none: there is no such folder"):
        main(["--model_name_or_path", "./none"])


def test_a_flag_about_no_model_is_refused():
    with pytest.raises(InputError, match="--torch_dtype bfloat16: has no effect without --model_name_or_path"):
        main(["--torch_dtype", "bfloat16"])
