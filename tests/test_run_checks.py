from types import SimpleNamespace

from llmft.run_checks import check_after


def test_a_process_uses_one_gpu_and_says_so(capsys):
    run = SimpleNamespace(
        n_gpu=8, deepspeed=None, optim_args=None, optim=SimpleNamespace(value="adamw_torch"), lr_scheduler_kwargs=None
    )
    run.lr_scheduler_type = SimpleNamespace(value="linear")
    check_after(run)
    assert run._n_gpu == 1
    assert "note: one of 8 GPUs is used; start with torchrun or deepspeed to use more" in capsys.readouterr().err
