import shutil

import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.tasks.load import fingerprint_data, load_glue_datasets, load_hans_dataset, load_task
from llmft.tasks.table import TASKS, get_task, task_to_keys

SIZES = {
    "rte": (2490, {"rte": 277, "hans-lexical_overlap-entailment": 250, "hans-lexical_overlap-non-entailment": 250}),
    "sst2": (4000, {"sst2": 872}),
}


def load(task, data_dir=None, **more):
    return load_task(get_task(task), **{"variant": None, "data_seed": 0, "data_dir": data_dir, "cache_dir": None, **more})


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
    data = load(task, str(shared_data))
    assert len(data.train) == train
    assert {name: len(rows) for name, rows in data.eval_sets.items()} == sets
    for rows in data.eval_sets.values():
        assert {"text1", "text2", "label", "idx"} <= set(rows[0])
        assert len({row["idx"] for row in rows}) == len(rows)


def test_hans_is_split_by_label(shared_data):
    for name, rows in load("rte", str(shared_data)).out_of_domain.items():
        assert {row["label"] for row in rows} == {int(name.endswith("non-entailment"))}
        assert {row["heuristic"] for row in rows} == {"lexical_overlap"}


def test_upstreams_names(shared_data):
    hans = load_hans_dataset("constituent", str(shared_data))
    assert {label: len(rows) for label, rows in hans.items()} == {"entailment": 250, "non-entailment": 250}
    assert task_to_keys["rte"] == ("sentence1", "sentence2")
    assert len(load_glue_datasets("rte", str(shared_data))["validation"]) == 277


def test_unlabelled_rows_are_left_out_and_text_is_kept_as_it_is(small):
    assert load("sst2", str(small)).train == [
        {"text1": "good {x}", "text2": None, "label": 1, "idx": 5},
        {"text1": "bad\t'☃'", "text2": None, "label": 0, "idx": 6},
    ]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
def test_other_file_formats(small, ending):
    for split in ("train", "validation"):
        file = small / "glue" / "sst2" / f"{split}.parquet"
        rows = pd.DataFrame({"sentence": ["good {x}", "null"], "label": [1, 0], "idx": [5, 6]})
        file.unlink()
        if ending == "jsonl":
            rows.to_json(file.with_suffix(".jsonl"), orient="records", lines=True)
        else:
            rows.to_csv(file.with_suffix(f".{ending}"), sep="\t" if ending == "tsv" else ",", index=False)
    assert [row["text1"] for row in load("sst2", str(small)).train] == ["good {x}", "null"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop(columns="sentence"), "no column sentence; the columns are label, idx"),
        (lambda rows: rows.assign(label=2), "label 2 is out of range; sst2 has 0 to 1"),
        (lambda rows: rows.assign(label="good"), "label good is out of range"),
        (lambda rows: rows.assign(sentence=[None, "a", "b"]), "column sentence holds a value that is not text"),
        (lambda rows: rows.assign(label=-1), "no labelled row of train"),
        (lambda rows: rows.assign(idx=["a", "b", "c"]), "idx holds what is no whole number"),
        (lambda rows: rows.assign(idx=1), "idx holds the same number twice"),
    ],
)
def test_bad_files(small, change, says):
    file = small / "glue" / "sst2" / "train.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    with pytest.raises(InputError, match=says) as caught:
        load("sst2", str(small))
    assert "\n" not in str(caught.value)


def test_fingerprints_follow_the_content(small, tmp_path):
    task = get_task("sst2")
    before = fingerprint_data(task, str(small))
    copy = tmp_path / "copy"
    shutil.copytree(small / "glue", copy / "glue")
    assert fingerprint_data(task, str(copy)) == before
    pd.DataFrame({"sentence": ["x"], "label": [1], "idx": [1]}).to_parquet(copy / "glue" / "sst2" / "train.parquet")
    assert fingerprint_data(task, str(copy)) != before


def test_the_hub_is_asked_for_the_tables_names(monkeypatch):
    import datasets

    asked = []

    def fake(path, name, *, split, revision, cache_dir):
        asked.append((path, name, split, revision, cache_dir))
        if path.endswith("hans"):
            rows = {"premise": ["a", "b"], "hypothesis": ["a", "b"], "label": [0, 1], "heuristic": ["lexical_overlap"] * 2}
            return datasets.Dataset.from_dict(rows)
        return datasets.Dataset.from_dict({"sentence": ["fine"], "label": [1], "idx": [0]})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert load("sst2", cache_dir="/cache").train[0]["text1"] == "fine"
    assert asked == [("nyu-mll/glue", "sst2", split, None, "/cache") for split in ("train", "validation")]
    asked.clear()
    assert load_hans_dataset()["non-entailment"][0]["text1"] == "b"
    assert asked == [("jhu-cogsci/hans", None, "validation", "refs/convert/parquet", None)]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="no network; check the network, or give local files with --data_dir"):
        load("sst2")


def test_the_embedded_world_is_an_ordinary_task():
    data = load("toy")
    assert list(data.in_domain) == ["toy"]
    assert "toy-unseen_words" in data.out_of_domain
    assert data.demonstrations is data.train
    confounded = load("toy", variant="entailment,confounded")
    assert not {row["idx"] for row in confounded.demonstrations} & {row["idx"] for row in confounded.train}


def test_every_task_has_a_word_for_each_label():
    for task in TASKS.values():
        assert len(task.target_tokens) == len(task.label_names) == len(set(task.target_tokens))
