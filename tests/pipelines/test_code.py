"""Runs of --task code: an invented library in the prompt, and distilled."""

import json
import runpy
from pathlib import Path

import pytest

from llmft.errors import InputError
from llmft.evaluation import running
from tests.conftest import tiny_model
from tests.pipelines.conftest import run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizers):
    """A library, its rows, and a model that reads code."""
    folder = tmp_path_factory.mktemp("code")
    make = runpy.run_path(str(ROOT / "scripts/code_distillation/make_library.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_library.py", str(folder), "--functions", "2", "--methods", "1"])
        make["main"]()
    tiny_model("gpt2", n_positions=1024).save_pretrained(folder / "model")
    tokenizers["gpt2"].save_pretrained(folder / "model")
    return folder


def arguments(folder):
    rows = ("--validation_file", folder / "validation.jsonl", "--out_of_domain_file", folder / "unasked.jsonl")
    return ("--task", "code", *rows, "--model_name_or_path", folder / "model", "--max_new_tokens", 16)


def test_nothing_is_run_without_the_flag(folder, monkeypatch):
    monkeypatch.setattr(running, "fault_of_program", lambda *_: pytest.fail("it was run"))
    record = run("eval.py", folder / "runs", *arguments(folder), "--context", "none")
    metrics = record.metrics["stages"]["icl"]["code"]
    assert record.metrics["headline"]["name"] == "code_exact_match"
    assert {"code_exact_match", "identifier_match", "identifier_f1", "edit_similarity"} < set(metrics) and "runs" not in metrics
    assert not record.predictions["prediction"].str.contains("\n").any()
    with pytest.raises(InputError, match="has no effect without --task code"):
        run("eval.py", folder / "runs", "--task", "notes", "--run_code", folder)


def test_a_library_is_distilled_and_scores_are_told_apart_by_depth(folder, tokenizers, monkeypatch):
    ran = []
    monkeypatch.setattr(running, "fault_of_program", lambda library, program: ran.append(program))
    context = ("--context", "file", "--context_dir", folder / "library", "--context_glob", "*.py")
    training = ("--train_file", folder / "train.jsonl", "--max_train_samples", 4, "--num_train_epochs", 1)
    flags = (*arguments(folder), *context, *training, "--run_code", folder / "library", "--no_evaluate_elsewhere")
    record = run("distill.py", folder / "runs", *flags)
    assert any(program.startswith("import ") for program in ran)
    for stage in ("teacher", "before", "after"):
        depths = record.metrics["categories"][stage]
        assert depths["code"].keys() == depths["code-out_of_domain"].keys() == {"depth 1", "depth 2", "depth 3"}
        assert {"n", "code_exact_match", "runs"} < depths["code-out_of_domain"]["depth 2"].keys()
        assert sum(one["n"] for one in depths["code-out_of_domain"].values()) == 6
        assert {"runs", "code_exact_match"} < set(record.metrics["stages"][stage]["code"])
    for line in map(json.loads, (record.path / "teacher_answers.jsonl").read_text().splitlines()):
        written = tokenizers["gpt2"].decode(line["answer_ids"], skip_special_tokens=True)
        assert line["answer"] == written.split("\n")[0]  # with the white space in front, as it is read back
    rows = record.predictions
    assert set(rows["category"]) == {"depth 1", "depth 2", "depth 3"} and rows["query"].str.endswith(" ==").all()
