"""Distillation along answers that the student writes while it trains, on the embedded notes."""

import numpy as np
import pytest

from llmft.distillation.trainer import OnPolicyTrainer
from llmft.report.records.collect import collect
from tests.pipelines.conftest import run
from tests.pipelines.test_text_runs import SHORT, losses
from tests.pipelines.test_training import Cut, cut

WAYS = {
    "student": ("--answers", "student", "--skip_first", 1),
    "mixed": ("--answers", "mixed", "--use_adapter", "--learning_rate", 3e-3),  # the teacher is the adapter switched off
}
EVERY = ("--rollout_every", 3, "--max_train_samples", 14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("on-policy")


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_between_two_writings_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch, way):
    saving = (
        *SHORT,
        "--no_evaluate_with_context",
        "--max_eval_samples",
        4,
        *WAYS[way],
        *EVERY,
        "--save_strategy",
        "steps",
        "--save_steps",
        2,
    )
    whole = run("distill.py", folder, *saving)
    with monkeypatch.context() as patch:
        cut(patch, OnPolicyTrainer, "compute_loss", 4)
        with pytest.raises(Cut):
            run("distill.py", tmp_path, *saving)
    resumed = run("distill.py", tmp_path, *saving)
    assert resumed.json("cost")["resumed_from"].endswith("checkpoint-2")
    assert resumed.metrics == whole.metrics
    assert resumed.predictions.equals(whole.predictions)
    assert losses(resumed) == losses(whole) and np.isfinite(losses(whole)).all()
    (name,) = (file.name for file in (whole.path / "model").glob("*.safetensors"))
    assert (resumed.path / "model" / name).read_bytes() == (whole.path / "model" / name).read_bytes()
    rollouts, kl = whole.metrics["rollouts"], whole.metrics["kl"]
    assert rollouts["answers"] == 14 <= rollouts["learnt_tokens"] <= rollouts["tokens"]
    assert (rollouts["learnt_tokens"] < rollouts["tokens"]) == (way == "student")
    assert (rollouts["written_by_teacher"] > 0) == (way == "mixed")
    if way == "mixed":  # where the teacher writes, too; five steps along a student's own "not stated" teach almost nothing
        assert kl["after"]["notes"] < kl["before"]["notes"] - 0.02
    counts = {key: (phase["examples"], phase["tokens"]) for key, phase in whole.phases.items() if key in ("rollout", "train")}
    assert counts["rollout"][0] == counts["train"][0] == 14
    costs, sizes = collect(whole.path).runs.iloc[0], whole.metrics["tokens_per_query"]
    context, readings = sizes["teacher"] - sizes["student"], 2 if way == "mixed" else 1  # it reads along twice if it may write
    again = 2 * costs["weights"] * context * readings * 14
    assert costs["training_flops_alone"] - costs["training_flops"] == pytest.approx(again, rel=0.1)
    for key, (examples, tokens) in counts.items():
        assert resumed.phases[key]["examples"] == examples
        assert resumed.phases[key]["tokens"] >= tokens > 0  # the context is encoded again
