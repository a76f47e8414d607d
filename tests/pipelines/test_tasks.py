"""Tasks other than the embedded one, and users' own files, through the entry scripts."""

import csv
import itertools
import json

import pytest

from llmft.errors import InputError
from llmft.evaluation.metrics import load_metric
from llmft.pipelines import distill, fine_tune, in_context
from llmft.pipelines.loading import load_all, load_data
from llmft.pipelines.prepare import prepare
from llmft.pipelines.prompting import prompt_format_of
from tests.evaluation.test_labels import MODULE
from tests.pipelines.conftest import MAIN, Record


def start(script, folder, *arguments):
    """Run an entry script with the embedded model; its record must be the only new one."""
    before = set(folder.rglob("DONE"))
    MAIN[script](["--model_name_or_path", "toy", "--output_dir", str(folder), "--use_cpu", *map(str, arguments)])
    (done,) = set(folder.rglob("DONE")) - before
    return Record(done.parent)


@pytest.fixture
def own_files(tmp_path):
    """Three classes, in three formats, and the arguments that name the files."""
    from llmft.worlds.nli.tokenizer import VOCABULARY

    words = [word for word in VOCABULARY if word.isalpha()]
    labels, texts = words[4:7], words[20:32]
    rows = [
        {"id": i, "sentence": f"{a} {b} .", "class": labels[i % 3]} for i, (a, b) in enumerate(itertools.permutations(texts, 2))
    ]
    train, validation, test = tmp_path / "train.csv", tmp_path / "validation.jsonl", tmp_path / "test.tsv"
    with train.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows[:60])
    validation.write_text("".join(json.dumps(row) + "\n" for row in rows[60:72]))
    test.write_text("".join("\t".join(map(str, line)) + "\n" for line in [rows[0], *(row.values() for row in rows[72:81])]))
    arguments = ["--train_file", train, "--validation_file", validation, "--test_file", test, "--out_of_domain_file", validation]
    return [*arguments, "--text1_column", "sentence", "--label_column", "class", "--label_names", ",".join(labels)]


TRAINING = ["--max_train_samples", 12, "--num_train_epochs", 1, "--per_device_train_batch_size", 6, "--no_save_final_model"]


@pytest.mark.parametrize(
    ("script", "more", "stage"),
    [
        ("eval.py", ["--num_shots", 6], "icl"),
        ("ft.py", TRAINING, "after"),
        ("distill.py", ["--num_shots", 6, *TRAINING], "after"),
    ],
)
def test_own_data_of_three_classes(tmp_path, own_files, script, more, stage):
    record = start(script, tmp_path / "out", *own_files, *more)
    sets = {"in_domain": ["custom"], "out_of_domain": ["custom-out_of_domain"], "test": ["custom-test"]}
    assert record.metrics["sets"] == sets
    found = record.metrics["stages"][stage]
    assert {name: metrics["n"] for name, metrics in found.items()} == {"custom": 12, "custom-out_of_domain": 12, "custom-test": 9}
    assert set(record.predictions["target"]) == {0, 1, 2}
    config = record.json("config")
    assert (config["task"], config["task_version"]) == ("custom", 1)
    assert set(config["data_fingerprints"]) == {"train_file", "validation_file", "test_file", "out_of_domain_file"}
    if script == "distill.py":
        assert set(record.metrics["gap_recovered"]) == set(sets)


def test_the_name_of_a_run_follows_the_content_of_own_files(tmp_path, own_files, capsys):
    first = start("eval.py", tmp_path / "out", *own_files, "--num_shots", 0)
    file = tmp_path / "elsewhere.jsonl"
    file.write_bytes((tmp_path / "validation.jsonl").read_bytes())
    moved = [file if str(word).endswith("validation.jsonl") else word for word in own_files]
    MAIN["eval.py"](
        list(map(str, [*moved, "--num_shots", 0, "--model_name_or_path", "toy", "--use_cpu", "--output_dir", tmp_path / "out"]))
    )
    assert f"already finished: {first.path}" in capsys.readouterr().out
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    assert start("eval.py", tmp_path / "out", *moved, "--num_shots", 0).metrics["stages"]["icl"]["custom"]["n"] == 5


def test_the_name_of_a_run_follows_the_code_of_a_metric(tmp_path, own_files):
    def name(metric):
        arguments = [*own_files, "--model_name_or_path", "toy", "--output_dir", tmp_path, "--use_cpu", "--metric", metric]
        (job,) = prepare("icl", in_context.GROUPS, [str(argument) for argument in arguments], "")
        return job.record.path.name

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours.py").write_text("from .helper import count\n" + MODULE.replace("RESULT", "{'errors': count}"))
        (tmp_path / folder / "helper.py").write_text("count = 1\n")
    assert name(tmp_path / "here" / "ours.py") == name(tmp_path / "there" / "ours.py")
    (tmp_path / "there" / "helper.py").write_text("count = 2\n")
    load_metric.cache_clear()
    assert name(tmp_path / "here" / "ours.py") != name(tmp_path / "there" / "ours.py")
    with pytest.raises(InputError, match=r"^--metric \.\./labels: cannot be loaded"):
        name("../labels")


def test_rows_that_hold_the_texts_of_a_demonstration_are_left_out_with_a_note(tmp_path, capsys):
    rows = [{"text1": f"row {number // 2}", "label": number // 2 % 2} for number in range(24)]  # each twice
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = tmp_path / "rows.jsonl"
    arguments = ["--model_name_or_path", "toy", "--train_file", file, "--validation_file", file, "--num_shots", 2, "--use_cpu"]
    (job,) = prepare("distill", distill.GROUPS, [*map(str, arguments), "--output_dir", str(tmp_path)], "")
    load_data(job, num_contexts=1)
    assert len(distill.draw_queries(job)) == 20
    assert capsys.readouterr().err == "note: the training rows: 2 of 24 rows left out: 2 with the texts of a demonstration\n"


def test_a_new_head_needs_no_words_for_labels_that_are_numbers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps({'text1': f'row {number}', 'label': number % 3})}\n" for number in range(6)))
    arguments = ["--model_name_or_path", "toy", "--train_file", file, "--validation_file", file, "--use_cpu", "--use_adapter"]
    arguments += ["--output_dir", tmp_path, "--method", "vanilla"]
    (job,) = prepare("pbft", fine_tune.GROUPS, [*map(str, arguments)], "")
    assert prompt_format_of(job).words == ("0", "1", "2")


def test_a_classifier_is_not_asked_about_its_labels_in_another_order(tmp_path):
    file, asked = tmp_path / "rows.jsonl", ["--max_eval_samples", 4, "--use_cpu", "--output_dir", tmp_path, "--label_names"]
    file.write_text("".join(f"{json.dumps({'text1': f'row {number}', 'label': number % 2})}\n" for number in range(6)))
    files = ["--train_file", file, "--validation_file", file, *asked]
    trained = ["--model_name_or_path", "toy", "--method", "vanilla", "--use_adapter", "--max_steps", 1, *files, "bad,good"]
    (path,) = MAIN["ft.py"]([*map(str, trained)])
    student = ["--model_name_or_path", path / "model", "--num_shots", 0, *files]
    with pytest.raises(InputError, match="is a classifier of bad, good, in this order, but the labels of custom are good, bad;"):
        MAIN["eval.py"]([*map(str, student), "good,bad"])
    MAIN["eval.py"]([*map(str, student), "bad,good"])


def test_training_rows_without_labels_cannot_be_shown(tmp_path, own_files):
    file = tmp_path / "train.csv"
    file.write_text("".join(line.rpartition(",")[0] + "\n" for line in file.read_text().splitlines()))
    arguments = ["--model_name_or_path", "toy", "--use_cpu", "--output_dir", tmp_path / "out", "--num_shots", 6, *own_files]
    arguments = list(map(str, arguments))
    with pytest.raises(InputError, match=r"--train_file .*: no row has a label in column class; demonstrations need labels"):
        MAIN["distill.py"](arguments)
    for script in ("eval.py", "ft.py"):
        with pytest.raises(InputError, match=r"--label_column class: --train_file .* has id, sentence; name one of these"):
            MAIN[script](arguments)
    assert not (tmp_path / "out").exists()
    (job,) = prepare("distill", distill.GROUPS, arguments, "")
    load_all(job, with_demonstrations=False)
    assert [row["label"] for row in job.data.train] == [None] * 60
    assert {row["label"] for row in job.eval_sets["custom"]} == {0, 1, 2}


def test_demonstrations_are_drawn_from_labelled_rows(tmp_path, own_files):
    file = tmp_path / "train.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:13], *(line.rpartition(",")[0] + "," for line in lines[13:])]) + "\n")
    arguments = ["--model_name_or_path", "toy", "--use_cpu", "--output_dir", tmp_path / "out", "--num_shots", 6, *own_files]
    (job,) = prepare("distill", distill.GROUPS, list(map(str, arguments)), "")
    load_all(job)
    assert len(job.demonstrations) == 6
    assert {row["idx"] for row in job.demonstrations} < set(range(12))
    assert {row["label"] for row in job.demonstrations} == {0, 1, 2}
    assert [row["idx"] for row in job.data.train] == list(range(60))


def test_labels_that_are_numbers_need_words(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text1": "doctors", "label": i}) + "\n" for i in range(3)))
    arguments = ["--train_file", str(file), "--validation_file", str(file), "--num_shots", "0"]
    with pytest.raises(InputError, match="--target_tokens '': 0 words for 3 labels"):
        start("eval.py", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_names_of_labels_may_have_commas(tmp_path):
    file = tmp_path / "rows.jsonl"
    names = ("Business, finance", "Sports")
    file.write_text("".join(json.dumps({"text1": "doctors", "label": name}) + "\n" for name in names))
    arguments = ["--train_file", str(file), "--validation_file", str(file), "--num_shots", "0", "--output_dir", str(tmp_path)]
    (job,) = prepare("icl", in_context.GROUPS, arguments, "")
    assert prompt_format_of(job).words == names


@pytest.mark.parametrize(
    ("task", "metric", "sets"),
    [
        ("qqp", "f1", ["qqp", "paws-qqp"]),
        ("cola", "matthews_correlation", ["cola", "cola-ood"]),
        ("mnli-original", None, ["mnli-original", "mnli_mm-entailment", "mnli_mm-contradiction"]),
        ("ag_news", None, ["ag_news"]),
    ],
)
def test_real_rows_and_their_metrics(tmp_path, shared_data, task, metric, sets):
    more = ["--eval_on_mnli_mismatched"] if task == "mnli-original" else []
    more += ["--target_tokens", "Yes,No,means,label"] if task == "ag_news" else []  # words that the embedded model has
    arguments = ["--task", task, "--data_dir", shared_data, "--num_shots", 0, "--max_eval_samples", 6, *more]
    found = start("eval.py", tmp_path, *arguments).metrics["stages"]["icl"]
    assert list(found) == sets
    for metrics in found.values():
        usual = {"accuracy", "score_accuracy", "loss", "ece", "n", "n_asked", "n_shortened"}
        assert set(metrics) == usual | ({metric} if metric else set())
