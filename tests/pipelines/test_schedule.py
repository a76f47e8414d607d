"""Learning rate and epochs: what a run uses without flags, that it says so, and that they are in its name."""

import json

import pytest

from llmft.arguments.run import DistillationRunArguments, RunArguments
from llmft.errors import InputError
from llmft.pipelines import distill, fine_tune, in_context
from llmft.pipelines.comparison import mean_losses, say_how_far
from llmft.pipelines.loading import load_data
from llmft.pipelines.prepare import prepare
from llmft.tasks import load
from llmft.tasks.formats import read_file
from tests.pipelines.conftest import run

GROUPS = {"ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS, "eval.py": in_context.GROUPS}


@pytest.fixture
def own_rows(tmp_path):
    """The command line of a task without its own defaults: 24 rows in a file."""
    rows = [{"text1": f"row {number}", "label": number % 2} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = str(tmp_path / "rows.jsonl")
    return ["--train_file", file, "--validation_file", file, "--model_name_or_path", "toy", "--output_dir", str(tmp_path)]


def job_of(script, arguments):
    """The only run of a command line, before anything is loaded."""
    method = {"ft.py": "pbft", "distill.py": "distill", "eval.py": "icl"}[script]
    (job,) = prepare(method, GROUPS[script], [*map(str, arguments), "--use_cpu"], "")
    return job


def in_force(job):
    group = job.config.run
    return group.learning_rate, group.num_train_epochs


@pytest.mark.parametrize(
    ("script", "arguments", "rate", "epochs", "says"),
    [
        ("ft.py", "", 1e-5, 40, "40 epochs (defaults for all weights; --learning_rate, --num_train_epochs change them)"),
        ("ft.py", "--use_adapter", 2e-4, 80, "(defaults for LoRA; "),
        ("distill.py", "", 2e-5, 40, "(defaults for all weights on all 24 training rows; "),
        ("distill.py", "--use_adapter --max_train_samples 256", 5e-4, 6, "6 epochs (defaults for LoRA on 256 queries; "),
        ("distill.py", "--use_adapter --adapter_type ia3 --max_train_samples 5000", 1e-2, 1, "rate 0.01, 1 epoch (defaults for"),
        ("distill.py", "--query_file rows.jsonl", 2e-5, 40, "on all 24 queries of the file; "),
        ("distill.py", "--num_train_epochs 3", 2e-5, 3, "3 epochs (as given), learning rate 2e-05 (default for all "),
        ("distill.py", "--learning_rate 1 --num_train_epochs 3", 1, 3, "learning rate 1, 3 epochs (as given)"),
        ("distill.py", "--max_steps 7", 2e-5, 4, "7 steps (as given), learning rate 2e-05 (default for all weights; "),
    ],
)  # fmt: skip
def test_what_is_trained_and_on_how_many_rows_decides(own_rows, tmp_path, monkeypatch, script, arguments, rate, epochs, says):
    monkeypatch.chdir(tmp_path)
    job = job_of(script, [*own_rows, *arguments.split()])
    assert in_force(job) == (rate, epochs)
    assert says in job.schedule
    assert job.given.get("learning_rate", 1e-5) == rate
    left_out = epochs if "steps" in says else 40
    assert job.given.get("num_train_epochs", left_out) == epochs


def test_calls_from_python_get_the_rates_of_all_weights(tmp_path):
    """The epochs are those of upstream's recipe and, for distillation, of an earlier default."""
    for group, rate, epochs in ((RunArguments, 1e-5, 40), (DistillationRunArguments, 2e-5, 4)):
        run_arguments = group(output_dir=str(tmp_path), use_cpu=True)
        assert (run_arguments.learning_rate, run_arguments.num_train_epochs) == (rate, epochs)


def test_the_runs_arguments_are_checked_before_rows_are_read(own_rows, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text1": "a", "label": 0}\n{"text1": 5, "label": 1}\n')
    with pytest.raises(InputError, match="--report_to pigeon"):
        job_of("distill.py", [*own_rows, "--report_to", "pigeon"])
    with pytest.raises(InputError, match=r"--train_file .* is not text, 5"):
        job_of("distill.py", own_rows)


def test_rows_are_read_once_to_be_counted_and_loaded(own_rows, monkeypatch):
    reads = []

    def read(path, where, header, **own):
        reads.append(where)
        return read_file(path, where, header, **own)

    monkeypatch.setattr(load, "read_file", read)
    job = job_of("distill.py", own_rows)
    load_data(job, num_contexts=1)
    assert sorted(where.split()[0] for where in reads) == ["--train_file", "--validation_file"]
    assert len(job.data.train) == 24


def test_the_embedded_model_has_defaults_of_its_own_which_no_other_model_gets(tmp_path):
    rows = ("--task", "toy", "--output_dir", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    assert in_force(job_of("distill.py", rows)) == (3e-4, 1)
    assert in_force(job_of("ft.py", [*rows, "--train_on", "demonstrations"])) == (3e-4, 96)
    assert in_force(job_of("distill.py", [*rows, "--model_name_or_path", tmp_path])) == (2e-5, 1)


@pytest.mark.parametrize(("script", "rate", "epochs"), [("ft.py", 1e-5, 40), ("distill.py", 2e-5, 40)])
def test_a_default_that_is_given_makes_the_same_run_and_another_value_another(own_rows, script, rate, epochs):
    job, same = (job_of(script, [*own_rows, *more]) for more in ((), ("--learning_rate", rate, "--num_train_epochs", epochs)))
    other = job_of(script, [*own_rows, "--learning_rate", rate * 2])
    assert (job.record.path, job.setting) == (same.record.path, same.setting)
    assert len({job.record.path, other.record.path, job_of(script, [*own_rows, "--num_train_epochs", 3]).record.path}) == 3


def test_rows_listed_in_a_file_are_counted_and_a_file_that_is_not_there_is_said_first(tmp_path):
    arguments = ["--task", "toy", "--output_dir", tmp_path, "--train_on", "demonstrations", "--sample_indices_file"]
    (tmp_path / "shots.csv").write_text("idx\n" + "".join(f"{idx}\n" for idx in range(32)))
    sentence = job_of("ft.py", [*arguments, tmp_path / "shots.csv"]).schedule
    assert "48 epochs (defaults for all weights of the model toy on 32 rows; " in sentence
    with pytest.raises(InputError, match=r"^--sample_indices_file nope\.csv: no such file; "):
        job_of("ft.py", [*arguments, "nope.csv"])


def test_in_context_learning_has_neither(own_rows):
    job = job_of("eval.py", [*own_rows, "--learning_rate", 3])
    assert job.schedule is None and not {"learning_rate", "num_train_epochs"} & set(job.given)


def test_deepspeed_gets_the_rate_in_force(own_rows, tmp_path):
    config = {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "zero_optimization": {"stage": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = job_of("distill.py", [*own_rows, "--use_adapter", "--deepspeed", tmp_path / "config.json"])
    assert job.config.run.hf_deepspeed_config.get_value("optimizer.params.lr") == 5e-4


def test_a_run_says_what_it_uses_and_whether_the_student_has_hardly_moved(tmp_path, capsys):
    record = run("distill.py", tmp_path, "--max_train_samples", 16, "--max_eval_samples", 20, "--num_train_epochs", 1, "--bitfit")
    lines = capsys.readouterr().out.splitlines()
    sentence = "1 epoch (as given), learning rate 0.003 (default for the biases of the model toy; --learning_rate changes it)"
    assert lines.count(sentence) == 1
    assert record.json("config")["arguments"]["DistillationRunArguments"]["learning_rate"] == 3e-3
    (moved,) = [line for line in lines if line.startswith("the student has hardly moved: KL to the teacher on toy was ")]
    assert "--learning_rate" in moved and "--num_train_epochs" in moved
    assert lines.index(moved) < len(lines) - 5  # before the table


@pytest.mark.parametrize(
    ("before", "after", "losses", "says"),
    [
        (1.0, 0.79, (), ""), (1.0, 0.81, (), "hardly moved"), (1.0, 1.3, (), "moved away from its teacher"), (0.0, 0.0, (), ""),
        (1e-4, 1e-4, (), ""), (0.106, 0.01, (0.225, 0.05), ""),
        (0.062, 0.06, (0.28, 0.07), "threw the student off"), (0.159, 0.011, (0.14, 0.03), ""),
        (1.0, 0.81, (1.2, 0.9), "hardly moved"), (1e-4, 1e-4, (1e-3,), ""),
    ],
)  # fmt: skip
def test_what_is_said_of_a_student_that_is_no_nearer_to_its_teacher_or_was_led_away_first(capsys, before, after, losses, says):
    say_how_far("rte", before, after, losses)
    printed = capsys.readouterr().out
    assert says in printed and bool(printed) == bool(says)


def test_a_run_whose_rate_is_too_high_is_told_to_lower_it(tmp_path, capsys):
    options = ["--max_train_samples", 16, "--max_eval_samples", 20, "--num_train_epochs", 8, "--logging_steps", 1]
    run("distill.py", tmp_path, *options, "--learning_rate", 0.1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "threw the student off" in line]
    assert "KL to the teacher on toy was " in line and line.endswith("try a --learning_rate 3 to 10 times lower")


def test_losses_are_means_over_ten_steps_or_more():
    log = [{"loss": 1.0, "step": 1}, {"loss": 3.0, "step": 10}, {"eval_toy_kl": 9.0, "step": 10}, {"loss": 5.0, "step": 11}]
    assert mean_losses(log) == [2.0, 5.0] and mean_losses([{"train_loss": 1.0, "step": 11}]) == []
    assert mean_losses([{"loss": 1.0, "step": 25}, {"loss": 2.0, "step": 50}]) == [1.0, 2.0]
