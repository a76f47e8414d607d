"""Effects of training on one task on others, with rows in which the embedded model knows no word."""

import re

import pandas as pd
import pytest
import torch

from llmft.errors import InputError
from llmft.pipelines import distill
from llmft.pipelines.loading import load_all
from llmft.pipelines.prepare import prepare
from llmft.pipelines.prompting import prompt_format_of
from llmft.pipelines.retention import Retention, retention_fingerprints, retention_tasks
from llmft.report.records.collect import collect
from llmft.report.statistics.summary import summarise
from llmft.report.tables.contents import distillation, result_rows
from llmft.report.tables.table import markdown
from tests.pipelines.conftest import MAIN, Record

OTHERS = "sst2,rte"


@pytest.fixture
def data_dir(tmp_path):
    """A few evaluation rows of two tasks, and no training rows."""
    folder = tmp_path / "data" / "glue"
    for task, columns in (("sst2", ["sentence"]), ("rte", ["sentence1", "sentence2"])):
        (folder / task).mkdir(parents=True)
        rows = [{**{c: f"{c} the doctors {'saw ' * i}" for c in columns}, "label": i % 2, "idx": 10 + i} for i in range(9)]
        pd.DataFrame(rows).to_parquet(folder / task / "validation.parquet")
    return tmp_path / "data"


def job_of(tmp_path, data_dir, *more):
    words = [
        "--task",
        "toy",
        "--use_cpu",
        "--output_dir",
        tmp_path / "out",
        "--data_dir",
        data_dir,
        "--max_eval_samples",
        6,
        "--eval_task_name",
        "none",
    ]
    (job,) = prepare("distill", distill.GROUPS, list(map(str, [*words, *more])), "")
    return job


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("sst", "no task 'sst'; choose from rte, mnli"),
        ("sst2,", "no task ''"),
        ("sst2,toy", "toy is the run's own task; choose from rte, mnli"),
        ("sst2, sst2", "sst2 is listed twice"),
    ],
)
def test_names_that_are_no_other_tasks(names, says):
    with pytest.raises(InputError, match=f"^--retention_tasks {names}: {says}"):
        retention_tasks(names, "toy")


def test_fingerprints_hold_versions_and_evaluation_rows(data_dir):
    tasks = retention_tasks(OTHERS, "toy")
    before = retention_fingerprints(tasks, str(data_dir))
    assert list(before) == ["retention-sst2", "glue/sst2/validation.parquet", "retention-rte", "glue/rte/validation.parquet"]
    file = data_dir / "glue" / "rte" / "validation.parquet"
    pd.read_parquet(file).iloc[:-1].to_parquet(file)
    after = retention_fingerprints(tasks, str(data_dir))
    assert {name for name in before if before[name] != after[name]} == {"glue/rte/validation.parquet"}
    file.unlink()
    with pytest.raises(InputError, match=r"^--retention_tasks rte: --data_dir .* no file glue/rte/validation .*; or drop rte"):
        retention_fingerprints(tasks, str(data_dir))
    assert retention_fingerprints(retention_tasks(None, "toy"), None) == {}


def test_other_tasks_before_and_after(tmp_path, data_dir, capsys):
    job = job_of(tmp_path, data_dir, "--use_soft_prompt")
    model, tokenizer = load_all(job)
    retention = Retention.create(
        retention_tasks(OTHERS, "toy"), job, model, tokenizer, reserved=job.config.trained.virtual_tokens
    )
    scorer = job.scorer(model, tokenizer, prompt_format_of(job, "student"))
    prompters = {name: one.prompter for name, one in retention.scorers.items()}
    assert {prompter.virtual for prompter in prompters.values()} == {20}
    assert prompters["retention-rte"].prompts(retention.rows["retention-rte"]).longest > 3
    job.check_prompts(scorer)
    job.begin()
    job.score("teacher", scorer)
    for stage in ("before", "after"):
        job.score(stage, scorer)
        retention.score(stage, model)
        with torch.no_grad():
            model.get_output_embeddings().weight *= -1  # another model: every answer turns round
    change = retention.change(job.record.stages)
    job.finish({"tokens_per_query": {"student": 1.0}, **change})

    record = Record(job.record.path)
    sets = ["retention-sst2", "retention-rte"]
    assert record.metrics["sets"]["retention"] == sets
    stages = record.metrics["stages"]
    assert not set(sets) & set(stages["teacher"])
    for name in sets:
        before, after = (stages[stage][name] for stage in ("before", "after"))
        assert before["n"] == after["n"] == 6
        assert before["score_accuracy"] == pytest.approx(1 - after["score_accuracy"])
        assert record.metrics["retention_change"][name] == after["score_accuracy"] - before["score_accuracy"]
    drawn = record.json("config")["draws"]["eval_rows"]
    assert len(drawn["retention-rte"]) == 6 and set(drawn["retention-rte"]) <= set(range(10, 19))
    assert record.phases["evaluate after retention-sst2"]["examples"] == 6
    asked = record.predictions[record.predictions["set"] == "retention-rte"]
    assert asked.groupby("stage")["idx"].apply(list).to_dict() == {s: drawn["retention-rte"] for s in ("before", "after")}
    assert re.search(r"teacher .* -", capsys.readouterr().out)  # which the other tasks were not asked of

    collection = collect(tmp_path / "out")
    table = collection.scores.set_index(["stage", "set", "metric"]).sort_index()
    both = sum(stages["after"][name]["score_accuracy"] for name in sets) / 2
    assert table.loc[("after", "retention", "score_accuracy"), "value"].item() == pytest.approx(both)
    assert ("teacher", "retention", "score_accuracy") not in table.index
    change = table.loc[("after", "retention-rte", "retention_change"), "value"].item()
    assert change == record.metrics["retention_change"]["retention-rte"]
    assert "| other tasks before | other tasks after |" in markdown(distillation(result_rows(summarise(collection)), ()))
    own = record.phases["evaluate after toy"]["cpu_total_s"]
    assert table.loc[("after", "in_domain", "score_accuracy"), "cpu_ms_per_query"].item() == pytest.approx(1000 * own / 6)


def test_the_scores_are_those_of_zero_shot(tmp_path, data_dir):
    job = job_of(tmp_path, data_dir)
    model, tokenizer = load_all(job)
    retention = Retention.create(retention_tasks("sst2", "toy"), job, model, tokenizer)
    retention.score("before", model)
    (data_dir / "glue" / "sst2" / "train.parquet").write_bytes((data_dir / "glue" / "sst2" / "validation.parquet").read_bytes())
    data = ("--task", "sst2", "--data_dir", str(data_dir), "--max_eval_samples", "6", "--num_shots", "0")
    MAIN["eval.py"]([*data, "--model_name_or_path", "toy", "--use_cpu", "--output_dir", str(tmp_path / "icl")])
    (done,) = (tmp_path / "icl").rglob("DONE")
    icl = Record(done.parent)
    assert job.record.stages["before"]["retention-sst2"] == icl.metrics["stages"]["icl"]["sst2"]


def test_without_other_tasks_there_is_nothing(tmp_path, data_dir):
    job = job_of(tmp_path, data_dir)
    model, tokenizer = load_all(job)
    retention = Retention.create([], job, model, tokenizer)
    retention.score("before", model)
    assert job.record.stages == {} == retention.change(job.record.stages) == job.other_sets


def test_tasks_that_the_model_cannot_be_asked(tmp_path, data_dir):
    folder = data_dir / "ag_news"
    folder.mkdir()
    pd.DataFrame({"text": ["news"], "label": [3]}).to_parquet(folder / "test.parquet")
    job = job_of(tmp_path, data_dir)
    model, tokenizer = load_all(job)
    with pytest.raises(
        InputError, match=r"^--retention_tasks ag_news: label words .*: 'World' is not one token .*; or drop ag_news$"
    ):
        Retention.create(retention_tasks("ag_news", "toy"), job, model, tokenizer)
    soft = job_of(tmp_path, data_dir, "--use_soft_prompt", "--num_soft_prompt_tokens", 700)
    with pytest.raises(
        InputError, match=r"^--retention_tasks sst2: --num_soft_prompt_tokens 700: with them the longest prompt has 7"
    ):
        Retention.create(retention_tasks("sst2", "toy"), soft, *load_all(soft), reserved=700)
    long = pd.DataFrame({"sentence": ["the " * 600], "label": [0]})
    long.to_parquet(data_dir / "glue" / "sst2" / "validation.parquet")
    with pytest.raises(InputError, match=r"^--retention_tasks sst2: .* the longest prompt has 60. tokens"):
        Retention.create(retention_tasks("sst2", "toy"), job, model, tokenizer)
    assert not (tmp_path / "out").exists()
