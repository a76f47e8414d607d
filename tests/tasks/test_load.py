import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.tasks.load import (
    cut_splits,
    fingerprint_data,
    in_domain_alone,
    load_cola_ood_dataset,
    load_glue_datasets,
    load_hans_dataset,
    load_in_domain,
    load_mnli_mismatched_dataset,
    load_paws_qqp_dataset,
)
from llmft.tasks.table import HANS_SUBCASES, TASKS, get_task, task_to_keys
from tests.tasks.conftest import load, resolve

HANS = {"hans-lexical_overlap-entailment": 250, "hans-lexical_overlap-contradiction": 250}
SIZES = {
    "rte": (2490, {"rte": 277, **HANS}),
    "mnli": (2653, {"mnli": 1038, **HANS}),
    "mnli-original": (4000, {"mnli-original": 1500, **HANS}),
    "qqp": (1000, {"qqp": 1000, "paws-qqp": 677}),
    "cola": (8551, {"cola": 527, "cola-ood": 516}),
    "sst2": (4000, {"sst2": 872}),
    "ag_news": (1000, {"ag_news": 1000}),
}


@pytest.fixture
def small(tmp_path):
    """A data folder with a few rows of SST-2."""
    rows = pd.DataFrame({"sentence": ["good {x}", "bad\t'☃'", "odd"], "label": [1, 0, -1], "idx": [5, 6, 7]})
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows.to_parquet(folder / f"{split}.parquet")
    return tmp_path


@pytest.mark.parametrize("task", list(SIZES))
def test_real_rows(shared_data, task):
    train, sets = SIZES[task]
    data = load(get_task(task), shared_data)
    assert len(data.train) == train
    assert {name: len(rows) for name, rows in data.eval_sets.items()} == sets
    labels = set(range(len(get_task(task).label_names)))
    for rows in [data.train, *data.in_domain.values()]:
        assert {row["label"] for row in rows} == labels
    for rows in data.eval_sets.values():
        assert {"text1", "text2", "label", "idx"} <= set(rows[0])
        assert len({row["idx"] for row in rows}) == len(rows)
        assert all(type(row["label"]) is int and type(row["idx"]) is int for row in rows)


def test_the_text_is_the_files(shared_data):
    for task, file, columns in (
        ("rte", "glue/rte/validation", ("sentence1", "sentence2")),
        ("mnli-original", "glue/mnli/validation_matched", ("premise", "hypothesis")),
        ("cola", "glue/cola/validation", ("sentence", None)),
        ("ag_news", "ag_news/test", ("text", None)),
    ):
        frame = pd.read_parquet(shared_data / f"{file}.parquet")
        rows = load(get_task(task), shared_data).in_domain[task]
        assert [row["text1"] for row in rows] == frame[columns[0]].tolist()
        assert [row["text2"] for row in rows] == (frame[columns[1]].tolist() if columns[1] else [None] * len(frame))


def test_hans_is_split_by_label(shared_data):
    for name, rows in load(get_task("rte"), shared_data).out_of_domain.items():
        assert {row["label"] for row in rows} == {int(name.endswith("contradiction"))}
        assert {row["heuristic"] for row in rows} == {"lexical_overlap"}


@pytest.mark.parametrize(("task", "contradictions"), [("rte", 335), ("mnli", 335), ("mnli-original", 654)])
def test_mnli_mismatched(shared_data, task, contradictions):
    data = load(resolve("--task", task, "--eval_task_name", "mnli-mismatched"), shared_data)
    sizes = {name: len(rows) for name, rows in data.out_of_domain.items()}
    assert sizes == {"mnli_mm-entailment": 346, "mnli_mm-contradiction": contradictions}
    assert {row["label"] for row in data.out_of_domain["mnli_mm-contradiction"]} == {1}


def test_labels_of_mnli(shared_data):
    frame = pd.read_parquet(shared_data / "glue/mnli/validation_matched.parquet")
    removed = {row["idx"]: row["label"] for row in load(get_task("mnli"), shared_data).in_domain["mnli"]}
    merged = {row["idx"]: row["label"] for row in load(get_task("mnli-original"), shared_data).in_domain["mnli-original"]}
    assert removed == {i: {0: 0, 2: 1}[label] for i, label in zip(frame["idx"], frame["label"], strict=True) if label != 1}
    assert merged == {i: {0: 0, 1: 1, 2: 1}[label] for i, label in zip(frame["idx"], frame["label"], strict=True)}


def test_all_of_hans(shared_data):
    sets = load(resolve("--hans_heuristics", "all"), shared_data).out_of_domain
    assert {name: len(rows) for name, rows in sets.items()} == {
        f"hans-{heuristic}-{label}": 250 for heuristic in HANS_SUBCASES for label in ("entailment", "contradiction")
    }
    for heuristic, subcases in HANS_SUBCASES.items():
        for subcase in subcases:
            task = resolve("--task", "mnli", "--hans_heuristics", heuristic, "--hans_subcase", subcase)
            label = "entailment" if subcase[1] == "e" else "contradiction"
            ((name, rows),) = load(task, shared_data).out_of_domain.items()
            assert name == f"hans-{heuristic}-{subcase}-{label}"
            assert len(rows) == 50


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_hans_as_its_authors_release_it(shared_data, tmp_path, ending):
    frame = pd.read_parquet(shared_data / "hans/validation.parquet")
    released = pd.DataFrame(
        {
            "gold_label": frame["label"].map({0: "entailment", 1: "non-entailment"}),
            "sentence1_parse": frame["parse_premise"],
            "sentence1": frame["premise"],
            "sentence2": frame["hypothesis"],
            "pairID": [f"ex{i}" for i in range(len(frame))],
            "heuristic": frame["heuristic"],
            "subcase": frame["subcase"],
        }
    )
    file = tmp_path / "hans" / f"heuristics_evaluation_set.{ending}"
    file.parent.mkdir()
    if ending == "txt":
        file.write_text("\n".join("\t".join(row) for row in [released.columns, *released.to_numpy().tolist()]) + "\n")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in released.to_dict("records")))
    assert load_hans_dataset("subsequence", str(tmp_path)) == load_hans_dataset("subsequence", str(shared_data))


def test_paws_is_decoded(shared_data, tmp_path):
    rows = {row["idx"]: row for row in load_paws_qqp_dataset(data_dir=str(shared_data))["paws-qqp"]}
    assert rows[2]["text1"].startswith("The guy I 'm dating never texts me")
    assert sum("π" in row["text1"] + row["text2"] for row in rows.values()) == 1
    assert not any(row[text].startswith(("b'", 'b"')) for row in rows.values() for text in ("text1", "text2"))
    cells = {
        r"b'it\'s \"so\" \\ here'": 'it\'s "so" \\ here',
        'b"it\'s"': "it's",
        r"b'\xe2\x98\x83 \t.'": "☃ \t.",
        'plain "text"': 'plain "text"',
        "b'unclosed": "b'unclosed",
        "b'a' or b'b'": "b'a' or b'b'",
        "b''": "",
    }
    file = tmp_path / "paws.tsv"
    file.write_text("id\tsentence1\tsentence2\tlabel\n" + "".join(f"{i}\t{cell}\tx\t1\n" for i, cell in enumerate(cells)))
    assert [row["text1"] for row in load_paws_qqp_dataset(str(file))["paws-qqp"]] == list(cells.values())
    file.write_text(r"id	sentence1	sentence2	label" + "\n" + r"1	b'\xff'	x	1")
    with pytest.raises(InputError, match="holds bytes that are no UTF-8"):
        load_paws_qqp_dataset(str(file))


def test_cola_is_kept_apart_from_its_out_of_domain_half(shared_data, tmp_path):
    """The hub's validation split holds both; upstream evaluates in-domain on all of it."""
    folder = tmp_path / "glue" / "cola"
    folder.mkdir(parents=True)
    shutil.copy(shared_data / "glue/cola/train.parquet", folder)
    shutil.copy(shared_data / "glue/cola/validation_with_ood.parquet", folder / "validation.parquet")
    whole, apart = (load(get_task("cola"), folder) for folder in (tmp_path, shared_data))
    assert whole.eval_sets == apart.eval_sets
    assert [row["idx"] for row in whole.out_of_domain["cola-ood"]] == list(range(516))
    shutil.copy(shared_data / "glue/cola/validation.parquet", folder)
    with pytest.raises(InputError, match=r"has 527 rows and not 1043.*--cola_ood_file"):
        load(get_task("cola"), tmp_path)
    file = shared_data / "cola_ood/dev.tsv"
    assert load(resolve("--task", "cola", "--cola_ood_file", file), tmp_path).eval_sets == apart.eval_sets


def test_quotes_and_tabs_of_cola_ood_are_text(tmp_path):
    file = tmp_path / "dev.tsv"
    file.write_text('c1\t1\t\t"Who\tdid it?" he\'s {x}\nc2\t0\t*\t"\n')
    rows = load_cola_ood_dataset(str(file))["cola-ood"]
    assert [(row["text1"], row["label"], row["idx"]) for row in rows] == [('"Who\tdid it?" he\'s {x}', 1, 0), ('"', 0, 1)]


def test_qqp_is_cut_as_upstream_cuts_it(shared_data):
    """Upstream seeds the global stream once and draws positions of each split in turn."""
    np.random.seed(123)
    data = load(get_task("qqp"), shared_data)
    for split, rows in (("train", data.train), ("validation", data.in_domain["qqp"])):
        frame = pd.read_parquet(shared_data / f"glue/qqp/{split}.parquet")
        drawn = frame.iloc[np.random.choice(np.arange(len(frame)), size=1000, replace=False)]
        assert [row["idx"] for row in rows] == drawn["idx"].tolist()
        assert [row["text2"] for row in rows] == drawn["question2"].tolist()
    whole = load(resolve("--task", "qqp", "--subsample_splits", 0), shared_data)
    assert (len(whole.train), len(whole.in_domain["qqp"])) == (4000, 1500)
    other = load(resolve("--task", "rte", "--subsample_splits", 300), shared_data)
    assert (len(other.train), len(other.in_domain["rte"]), len(other.out_of_domain["hans-lexical_overlap-entailment"])) == (
        300,
        277,
        250,
    )


def test_a_smaller_split_is_kept_and_draws_nothing():
    big, small = [{"idx": i} for i in range(30)], [{"idx": i} for i in range(9)]
    cut = cut_splits({"a": small, "b": big}, 10)
    assert cut["a"] == small
    assert cut["b"] == cut_splits({"b": big}, 10)["b"]
    same = cut_splits({"a": big[:10], "b": big}, 10)
    assert sorted(row["idx"] for row in same["a"]) == list(range(10))
    assert same["b"] != cut["b"]


def test_upstreams_names(shared_data):
    hans = load_hans_dataset("constituent", str(shared_data))
    assert {name: len(rows) for name, rows in hans.items()} == {
        "hans-constituent-entailment": 250,
        "hans-constituent-contradiction": 250,
    }
    assert len(load_hans_dataset("subsequence", str(shared_data), subcase="sn_NP/S")) == 1
    assert len(load_mnli_mismatched_dataset(str(shared_data), merge=True)["mnli_mm-contradiction"]) == 654
    assert len(load_cola_ood_dataset(data_dir=str(shared_data))["cola-ood"]) == 516
    assert task_to_keys["rte"] == task_to_keys["paws-qqp"] == ("sentence1", "sentence2")
    upstreams = {"rte", "mnli", "mnli-original", "mnli-mismatched", "hans", "qqp", "paws-qqp", "cola", "cola-ood"}
    assert upstreams < set(task_to_keys)
    assert len(load_glue_datasets("rte", str(shared_data))["validation"]) == 277


def test_the_hubs_own_file_names(small, capsys):
    folder = small / "glue" / "sst2"
    rows = pd.read_parquet(folder / "train.parquet")
    expected = load(get_task("sst2"), small).train
    assert capsys.readouterr().err.splitlines() == [
        f"note: --data_dir {small}: glue/sst2/{split}.parquet: 1 of 3 rows left out: 1 without a label"
        for split in ("train", "validation")
    ]
    (folder / "train.parquet").unlink()
    rows[:1].to_parquet(folder / "train-00000-of-00002.parquet")
    with pytest.raises(
        InputError, match=r"sst2/train-\*: 1 of 2 files are missing, the first being train-00001-of-00002\.parquet"
    ):
        load(get_task("sst2"), small)
    rows[1:].to_parquet(folder / "train-00001-of-00002.parquet")
    assert load(get_task("sst2"), small).train == expected
    assert list(fingerprint_data(get_task("sst2"), str(small))) == [
        "glue/sst2/train-*-of-00002.parquet",
        "glue/sst2/validation.parquet",
    ]
    rows[1:].drop(columns="idx").to_parquet(folder / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"train-\*-of-00002\.parquet: the files have different columns"):
        load(get_task("sst2"), small)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="has files -of-00001 and -of-00002; keep those of one download"):
        load(get_task("sst2"), small)
    rows.to_json(folder / "train.jsonl.gz", orient="records", lines=True)
    assert load(get_task("sst2"), small).train == expected


def test_classes_that_a_task_leaves_out_are_counted(tmp_path, capsys):
    folder = tmp_path / "glue" / "mnli"
    folder.mkdir(parents=True)
    rows = pd.DataFrame({"premise": "p", "hypothesis": "h", "label": [0, 1, 1, 2, -1]})
    for split in ("train", "validation_matched", "validation_mismatched"):
        rows.to_parquet(folder / f"{split}.parquet")
    load(resolve("--task", "mnli", "--eval_task_name", "mnli-mismatched"), tmp_path)
    why = "3 of 5 rows left out: 1 without a label, 2 of class 1, which is none of the task's"
    assert capsys.readouterr().err.splitlines() == [
        f"note: --data_dir {tmp_path}: glue/mnli/{split}.parquet: {why}"
        for split in ("train", "validation_matched", "validation_mismatched")
    ]


def test_unlabelled_rows_are_left_out_and_text_is_kept_as_it_is(small):
    assert load(get_task("sst2"), small).train == [
        {"text1": "good {x}", "text2": None, "label": 1, "idx": 5},
        {"text1": "bad\t'☃'", "text2": None, "label": 0, "idx": 6},
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop(columns="sentence"), "no column sentence; the columns are label, idx"),
        (lambda rows: rows.assign(label=2), "row 1: label 2 is out of range; sst2 has 0 to 1"),
        (lambda rows: rows.assign(label="good"), r"label 'good' is text where a number is expected .*--label_names"),
        (lambda rows: rows.assign(label=[0.0, 1.5, None]), "the label of row 2 is 1.5; write a whole number"),
        (lambda rows: rows.assign(label=["0", "1", "good"]), "the label of row 1 is a number and that of row 3 text"),
        (lambda rows: rows.assign(label=[0.0, 1.0, None]), "the label of row 3 is None; write a whole number"),
        (lambda rows: rows.assign(sentence=[None, "a", "b"]), "column sentence holds a value that is not text, None in row 1"),
        (lambda rows: rows.assign(sentence=1.5), "column sentence holds a value that is not text, 1.5 in row 1"),
        (lambda rows: rows.assign(label=-1), "no labelled row of train"),
        (lambda rows: rows.head(0), "no labelled row of train"),
        (lambda rows: rows.assign(idx=["a", "b", "c"]), "idx, row 1: 'a' is not a whole number"),
        (lambda rows: rows.assign(idx=1), "idx holds the same number twice, 1 in rows 1 and 2"),
    ],
)
def test_bad_files(small, change, says):
    file = small / "glue" / "sst2" / "train.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    with pytest.raises(InputError, match=says) as caught:
        load(get_task("sst2"), small)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--data_dir {small}: glue/sst2/train.parquet: ")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.write_bytes(b""), "the file is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:-20]), "cannot be read as parquet"),
        (lambda file: (file.unlink(), file.mkdir()), "is a folder; name a file"),
        (lambda file: file.rename(file.with_suffix(".csv")), "cannot be read as csv"),
        (lambda file: file.unlink(), "no file glue/sst2/train with one of the endings .parquet"),
    ],
)
def test_files_that_cannot_be_read(small, spoil, says):
    spoil(small / "glue" / "sst2" / "train.parquet")
    with pytest.raises(InputError, match=says) as caught:
        load(get_task("sst2"), small)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--data_dir {small}: ")


def test_fingerprints_follow_the_content(small, tmp_path):
    task = get_task("sst2")
    before = fingerprint_data(task, str(small))
    copy = tmp_path / "copy"
    shutil.copytree(small / "glue", copy / "glue")
    assert fingerprint_data(task, str(copy)) == before
    pd.DataFrame({"sentence": ["x"], "label": [1], "idx": [1]}).to_parquet(copy / "glue" / "sst2" / "train.parquet")
    assert fingerprint_data(task, str(copy)) != before
    file = tmp_path / "paws.tsv"
    file.write_text("a")
    task = resolve("--task", "qqp", "--paws_qqp_file", file)
    before = fingerprint_data(task, None)
    assert list(before) == ["nyu-mll/glue/qqp/train", "nyu-mll/glue/qqp/validation", "paws_qqp_file"]
    file.write_text("b")
    assert fingerprint_data(task, None) != before


def test_the_hub_is_asked_for_the_tables_names(monkeypatch):
    import datasets

    asked = []

    def fake(path, name, *, split, revision, cache_dir):
        asked.append((path, name, split, revision, cache_dir))
        if path.endswith("hans"):
            rows = {"premise": ["a", "b"], "hypothesis": ["a", "b"], "label": [0, 1], "heuristic": ["lexical_overlap"] * 2}
        elif path.endswith("ag_news"):
            rows = {"text": ["fine"], "label": [3]}
        elif name == "cola" and split == "validation":
            rows = {"sentence": ["in"] * 527 + ["out"] * 516, "label": [1] * 1043, "idx": list(range(1043))}
        else:
            rows = {"sentence": ["fine"], "label": [1], "idx": [0]}
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert load(get_task("sst2"), cache_dir="/cache").train[0]["text1"] == "fine"
    assert asked == [("nyu-mll/glue", "sst2", split, None, "/cache") for split in ("train", "validation")]
    asked.clear()
    assert load_hans_dataset()["hans-lexical_overlap-contradiction"][0]["text1"] == "b"
    assert asked == [("jhu-cogsci/hans", None, "validation", "refs/convert/parquet", None)]
    assert load(get_task("ag_news")).in_domain["ag_news"] == [{"text1": "fine", "text2": None, "label": 3, "idx": 0}]
    assert asked[1:] == [("fancyzhx/ag_news", None, split, None, None) for split in ("train", "test")]
    cola = load(get_task("cola")).eval_sets
    assert {name: {row["text1"] for row in rows} for name, rows in cola.items()} == {"cola": {"in"}, "cola-ood": {"out"}}
    assert {name: len(rows) for name, rows in cola.items()} == {"cola": 527, "cola-ood": 516}


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="no network; check the network, or use local files with --data_dir"):
        load(get_task("sst2"))


def test_what_the_hub_does_not_have(small):
    for data_dir in (None, small):
        with pytest.raises(InputError, match=r"github.com/google-research-datasets/paws .*--paws_qqp_file or --eval_task_path"):
            load_paws_qqp_dataset(data_dir=data_dir and str(data_dir))


def test_the_embedded_world_is_an_ordinary_task():
    data = load(get_task("toy"))
    assert list(data.in_domain) == ["toy"]
    assert "toy-unseen_words" in data.out_of_domain
    assert data.demonstrations is data.train
    confounded = load(get_task("toy"), variant="entailment,confounded")
    assert not {row["idx"] for row in confounded.demonstrations} & {row["idx"] for row in confounded.train}
    assert load(resolve("--task", "toy", "--eval_task_name", "none")).out_of_domain == {}


def test_every_pattern_has_a_word_for_each_label():
    for task in TASKS.values():
        assert "minimal" in task.patterns
        for pattern in task.patterns.values():
            assert len(pattern.target_tokens) == len(task.label_names) == len(set(pattern.target_tokens))
            two = task.name == "toy" if task.train is None else task.train.text_columns[1] is not None
            assert "{text1}" in pattern.pattern and ("{text2}" in pattern.pattern) == two


@pytest.mark.parametrize("name", ["rte", "mnli", "qqp", "sst2", "toy"])
def test_the_evaluation_rows_alone_are_the_same(shared_data, name):
    task = replace(get_task(name), out_of_domain=())
    alone = load_in_domain(task, data_seed=5, data_dir=str(shared_data), cache_dir=None)
    assert alone == load(task, shared_data, data_seed=5).in_domain[name]
    assert (in_domain_alone(task).train is not None) == (name == "qqp")  # which cuts its splits by one stream


def test_the_evaluation_rows_alone_need_no_others(small):
    (small / "glue" / "sst2" / "train.parquet").unlink()
    rows = load_in_domain(get_task("sst2"), data_seed=0, data_dir=str(small), cache_dir=None)
    assert [row["idx"] for row in rows] == [5, 6]
    assert set(fingerprint_data(in_domain_alone(get_task("sst2")), str(small))) == {"glue/sst2/validation.parquet"}
