"""Every method through the pipelines: its name, what it trains, its student evaluated by eval.py, and resuming."""

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.pipelines.conftest import IN_DOMAIN, run

SHORT = ("--max_eval_samples", 20, "--max_train_samples", 16, "--num_train_epochs", 2, "--learning_rate", 3e-3)
SHORT += ("--per_device_train_batch_size", 4, *IN_DOMAIN)
ZERO_SHOT = ("--num_shots", 0, *SHORT[:2], *IN_DOMAIN)
PARTS = {
    "": (),
    "head_only": ("--head_only",),
    "bitfit": ("--bitfit",),
    "lora": ("--use_adapter", "--lora_targets", "query-value", "--lora_alpha", -1),
    "ia3": ("--use_adapters", "--adapter_type", "ia3"),
    "parallel-fc": ("--use_adapter", "--adapter_type", "parallel-fc"),
    "soft_prompt": ("--use_soft_prompt", "--num_soft_prompt_tokens", 3, "--pattern", "</s></s></s> {text1} {text2} ?"),
    "cartridge": ("--use_cartridge", "--cartridge_tokens", 3),
}
METHODS = {
    "pbft": ("ft.py", ()),
    "vanilla": ("ft.py", ("--method", "vanilla", "--classifier_type", "linear")),
    "distill": ("distill.py", ("--num_shots", 4)),
}
CASES = [("pbft", part) for part in PARTS] + [("vanilla", part) for part in ("", "lora", "parallel-fc", "soft_prompt")]
CASES += [("distill", part) for part in ("bitfit", "soft_prompt")]


@pytest.mark.parametrize(("method", "part"), CASES)
def test_a_student_of_any_method_is_evaluated_as_it_was_when_trained(tmp_path, capsys, method, part):
    script, arguments = METHODS[method]
    record = run(script, tmp_path, *SHORT, *arguments, *PARTS[part])
    assert record.path.parts[-4] == record.json("config")["method"] == (f"{method}-{part}" if part else method)
    weights = record.metrics["weights"]
    said = "trains all {total:,} weights" if part == "" else "trains {trainable:,} of {total:,} weights"
    assert said.format(**weights) in capsys.readouterr().out
    assert sum(group["weights"] for group in weights["trained"]) == weights["trainable"]
    assert (weights["share"] == 1) == (part == "")
    stages = record.metrics["stages"]
    assert stages["before"] != stages["after"]

    again = run("eval.py", tmp_path, "--model_name_or_path", record.path / "model", *ZERO_SHOT)
    assert again.json("config")["model"] == f"toy-{record.json('config')['method']}"
    for trained, loaded in zip(
        record.predictions.query("stage == 'after'").itertuples(), again.predictions.itertuples(), strict=True
    ):
        assert (trained.set, trained.idx) == (loaded.set, loaded.idx)
        # the same bits if loaded weights lie in memory as trained ones did; else matrices are multiplied in another order
        np.testing.assert_allclose(loaded.token_logprobs, trained.token_logprobs, atol=2e-4)
    if part in ("soft_prompt", "cartridge"):
        found = {name: r.metrics["tokens_per_query"] for name, r in {"trained": record, "loaded": again}.items()}
        assert found["trained"]["student"] == found["loaded"]["icl"]
        plain = run("eval.py", tmp_path, *ZERO_SHOT).metrics["tokens_per_query"]["icl"]
        assert found["loaded"]["icl"] == plain + 3 - (part == "cartridge")  # which replaces the text's start, its first token


@pytest.mark.parametrize("part", ["lora", "soft_prompt", "cartridge", "parallel-fc"])
def test_a_classifier_resumes_with_its_head(tmp_path, monkeypatch, part):
    from llmft.training.ft_trainer import FtTrainer

    arguments = (*SHORT, "--method", "vanilla", *PARTS[part], "--save_strategy", "steps", "--save_steps", 2)
    whole = run("ft.py", tmp_path / "whole", *arguments)
    calls, original = [], FtTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # of 8 steps; the last checkpoint is of step 4
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FtTrainer, "compute_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("ft.py", tmp_path / "cut", *arguments)
    resumed = run("ft.py", tmp_path / "cut", *arguments)
    assert len(calls) == 6 + 4
    assert resumed.metrics == whole.metrics
    heads = [load_file(record.path / "model" / "classification_head.safetensors") for record in (whole, resumed)]
    assert all((heads[0][name] == heads[1][name]).all() for name in heads[0])
