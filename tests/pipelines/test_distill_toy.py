"""The main job on the embedded world: a model that needs 16 demonstrations learns to answer without them."""

import numpy as np
import pytest

from llmft.runs.summary import pooled
from tests.pipelines.conftest import run

SEEDS = (0, 1, 2)
DISTIL = ("--max_train_samples", 256, "--max_eval_samples", 150)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    return [run("distill.py", folder, *DISTIL, "--seed", seed, "--data_seed", seed) for seed in SEEDS]


def mean_accuracy(records, stage, domain):
    return np.mean(
        [pooled(record.metrics["stages"][stage], record.metrics["sets"][domain], "score_accuracy") for record in records]
    )


@pytest.mark.parametrize("domain", ["in_domain", "out_of_domain"])
def test_without_context_the_model_is_at_chance(distilled, domain):
    assert 0.45 <= mean_accuracy(distilled, "before", domain) <= 0.55


def test_sixteen_demonstrations_are_enough_for_the_teacher(distilled):
    assert mean_accuracy(distilled, "teacher", "in_domain") >= 0.95


@pytest.mark.parametrize(("domain", "share"), [("in_domain", 0.95), ("out_of_domain", 0.90)])
def test_the_student_recovers_the_gap_without_context(distilled, domain, share):
    teacher, before, after = (mean_accuracy(distilled, stage, domain) for stage in ("teacher", "before", "after"))
    assert (after - before) / (teacher - before) >= share


def test_a_query_costs_ten_times_fewer_tokens(distilled):
    for record in distilled:
        tokens = record.metrics["tokens_per_query"]
        assert tokens["teacher"] >= 10 * tokens["student"]


def test_kl_to_the_teacher_falls_and_agreement_rises(distilled):
    for record in distilled:
        kl, agreement = record.metrics["kl"], record.metrics["agreement"]
        assert kl["after"]["toy"] < kl["before"]["toy"] / 2
        assert agreement["after"]["toy"] > agreement["before"]["toy"] + 0.3


def test_the_seeds_are_of_three_rules_and_their_draws_differ(distilled):
    assert len({tuple(record.json("config")["draws"]["demonstrations"][0]) for record in distilled}) == len(SEEDS)


def test_the_queries_hold_no_demonstration(distilled):
    for record in distilled:
        draws = record.json("config")["draws"]
        assert len(draws["demonstrations"][0]) == 16
        assert len(set(draws["train_rows"])) == 256
        assert not set(draws["demonstrations"][0]) & set(draws["train_rows"])


def test_the_record_is_complete(distilled):
    record = distilled[0]
    config, metrics, cost = (record.json(name) for name in ("config", "metrics", "cost"))
    sets = metrics["sets"]["in_domain"] + metrics["sets"]["out_of_domain"]
    assert sets[0] == "toy"
    assert {"toy-passive", "toy-unseen_words"} <= set(sets)
    assert set(metrics["stages"]) == {"teacher", "before", "after", "after_with_context"}
    for stage in metrics["stages"].values():
        assert set(stage) == set(sets)
        assert all(
            set(found) == {"accuracy", "score_accuracy", "loss", "ece", "n", "n_asked", "n_shortened"} for found in stage.values()
        )
        assert all(found["n"] == found["n_asked"] == 150 for found in stage.values())
    assert config["arguments"]["DistillationRunArguments"]["data_seed"] == 0
    assert set(config["draws"]["eval_rows"]) == set(sets)
    assert [name for name in record.phases if name != "other"][:2] == ["load", "teacher"]  # called from Python, not by the script
    assert {"train", "evaluate teacher toy", "evaluate before toy", "evaluate after toy"} <= set(record.phases)
    for phase in [*cost["phases"], cost["total"]]:
        assert phase["cpu_total_s"] == pytest.approx(phase["cpu_user_s"] + phase["cpu_system_s"])
        assert phase["rss_peak_bytes"] >= phase["rss_mean_bytes"] > 2**20
    train = record.phases["train"]
    assert train["examples"] == 6 * 256
    assert train["flops"] > 0
    predictions = record.predictions
    assert len(predictions) == 4 * 150 * len(sets)
    after = predictions[(predictions.stage == "after") & (predictions.set == "toy")]
    assert (after.score == (after.target == after.prediction)).all()
    assert after.score.mean() == pytest.approx(metrics["stages"]["after"]["toy"]["score_accuracy"])
    np.testing.assert_allclose(np.exp(np.stack(after.label_logprobs)).sum(axis=1), 1, atol=1e-9)
    assert (record.path / "train_log.jsonl").read_text().count("loss") >= 8


def test_the_teacher_is_in_context_learning_itself(distilled, tmp_path):
    icl = run("eval.py", tmp_path, "--num_shots", 16, "--max_eval_samples", 150)
    assert icl.metrics["stages"]["icl"] == distilled[0].metrics["stages"]["teacher"]
    assert icl.json("config")["draws"]["demonstrations"] == distilled[0].json("config")["draws"]["demonstrations"]
    zero = run("eval.py", tmp_path, "--num_shots", 0, "--max_eval_samples", 150)
    assert zero.metrics["stages"]["icl"] == distilled[0].metrics["stages"]["before"]


def test_a_lora_student_recovers_the_gap_too(tmp_path):
    record = run("distill.py", tmp_path, *DISTIL, "--use_adapter")
    assert record.metrics["gap_recovered"]["in_domain"] >= 0.95
    assert record.metrics["gap_recovered"]["out_of_domain"] >= 0.90
    assert record.metrics["weights"]["share"] < 0.5


def test_with_confounded_demonstrations_the_student_follows_its_teacher_and_fine_tuning_does_not(tmp_path):
    confounded = ("--task_variant", "passive,flipped,confounded")
    distilled = run("distill.py", tmp_path, *DISTIL, *confounded)
    tuned = (
        "--train_on",
        "demonstrations",
        "--num_train_epochs",
        20,
        "--per_device_train_batch_size",
        8,
        "--max_eval_samples",
        150,
    )
    tuned = run("ft.py", tmp_path, *tuned, "--learning_rate", 1e-3, *confounded)
    demonstrations = distilled.json("config")["draws"]["demonstrations"][0]
    assert tuned.json("config")["draws"]["train_rows"] == demonstrations
    assert min(demonstrations) >= 2000  # rows of the confounded pool, which are no training rows
    teacher, student = (distilled.metrics["stages"][stage]["toy"]["score_accuracy"] for stage in ("teacher", "after"))
    assert student >= teacher - 0.05
    assert student >= tuned.metrics["stages"]["after"]["toy"]["score_accuracy"] + 0.15
