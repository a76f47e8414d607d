"""Models and data sets that are called alike and are not the same."""

import itertools

import pytest

from llmft.report.records.collect import collect
from llmft.report.records.identities import shortest_names
from llmft.report.statistics.break_even import break_evens
from llmft.report.statistics.paired import paired_tests
from llmft.report.statistics.summary import summarise, welch
from tests.report.changes import change
from tests.report.synthetic import Made, write


def put(folder, made, *, arguments=(), data=None, setting=None, **config):
    """One record below `folder`, with these arguments, fingerprints of data and further entries of its config."""
    (record,) = write(folder, [made], hans_rows=4)
    file = folder / record / "config.json"
    change(file, lambda c: c["arguments"]["Own"].update(arguments), **config)
    if data is not None:
        change(file, data_fingerprints=data)
    if setting is not None:
        change(file, setting=setting)


def columns(folder, *names):
    return sorted({*collect(folder).runs[list(names)].itertuples(index=False, name=None)})


@pytest.fixture
def case(tmp_path):
    """Two models and two data sets of one last name, as records of version 3 have them; two methods, two seeds."""
    places = itertools.product(("runA", "runB"), ("val.csv", "val_b.csv"), ("icl", "pbft"), range(2))
    for number, (model, file, method, seed) in enumerate(places):
        named = {"model_name_or_path": f"/m/{model}/checkpoint-100", "train_file": "d/train.csv", "validation_file": f"d/{file}"}
        put(
            tmp_path / str(number),
            Made(method=method, seed=seed),
            model="checkpoint-100",
            arguments=named,
            data={"train_file": "t", "validation_file": file},
            setting=f"{model}{file}{method}",
            task="custom",
        )
    return tmp_path


def test_older_records_are_told_apart_and_never_compared(case):
    models, tasks = ("runA/checkpoint-100", "runB/checkpoint-100"), ("custom (val.csv)", "custom (val_b.csv)")
    assert columns(case, "task", "model") == sorted(itertools.product(tasks, models))
    collection = collect(case)
    summary = summarise(collection)
    assert set(summary["runs"]) == {2}
    tests = welch(summary)
    for table in (tests, paired_tests(tests, collection)):
        assert len(table)
        assert (table["model_a"] == table["model_b"]).all()
        settings = [table[f"setting_{side}"].str.removesuffix("icl").str.removesuffix("pbft") for side in "ab"]
        assert (settings[0] == settings[1]).all()
    assert len(break_evens(summary, collection)) == 4
    assert not collection.runs["differs"].any()


def test_one_path_with_two_contents_is_two_models_and_one_content_at_two_paths_is_one(tmp_path):
    contents = {"a": ("/x/m", "1"), "b": ("/x/m", "2"), "c": ("/y/m", "1")}
    for number, (folder, (path, content)) in enumerate(contents.items()):
        fingerprints = {"model": {"path": path, "content": content}}
        made = Made(seed=number)
        put(
            tmp_path / folder,
            made,
            arguments={"model_name_or_path": path},
            fingerprints=fingerprints,
            setting=f"of {content}",
            model="m",
        )
    names = dict(collect(tmp_path).runs[["record", "model"]].itertuples(index=False, name=None))
    a, b, c = (next(name for record, name in names.items() if record.startswith(folder)) for folder in "abc")
    assert a == c != b
    assert all(name.startswith("m (") for name in (a, b))


def test_one_file_name_in_two_folders_and_one_path_with_new_content(tmp_path):
    files = [("d1/val.csv", "1"), ("d2/val.csv", "2"), ("d2/val.csv", "3")]
    for number, (path, content) in enumerate(files):
        put(
            tmp_path / str(number),
            Made(),
            arguments={"validation_file": path, "train_file": path.replace("val", "train")},
            data={"validation_file": content, "train_file": "t"},
            setting=str(number),
            task="custom",
        )
    names = [task for (task,) in columns(tmp_path, "task")]
    assert len(set(names)) == 3
    assert names[0] == "custom (d1/val.csv)"
    assert all(name.startswith("custom (d2/val.csv (") for name in names[1:])


def test_training_files_tell_settings_apart_on_one_data_set(tmp_path):
    for name in ("small.csv", "large.csv"):
        put(
            tmp_path / name,
            Made(method="pbft"),
            arguments={"train_file": name, "validation_file": "val.csv"},
            data={"train_file": name, "validation_file": "v"},
            setting=name,
            task="custom",
        )
    assert columns(tmp_path, "task", "differs") == [("custom", "train_file=large.csv"), ("custom", "train_file=small.csv")]


@pytest.mark.parametrize("asked", [{"num_shots": 0}, {"num_shots": 16, "context": "none"}], ids=str)
def test_students_of_one_setting_are_repetitions_over_their_seeds(tmp_path, asked):
    for setting, seed in itertools.product(("one", "two"), range(3)):
        put(
            tmp_path / f"{setting}{seed}",
            Made(shots=0),
            model="m-pbft-lora",
            arguments={**asked, "model_name_or_path": f"/runs/{setting}{seed}/model"},
            fingerprints={"model": {"path": f"/runs/{setting}{seed}/model", "content": f"{setting} {seed}"}},
            student={"setting": setting, "seed": 0, "data_seed": seed},
            setting=f"evaluation of {setting}",
        )
    collection = collect(tmp_path)
    assert columns(tmp_path, "model") == [("m-pbft-lora (setting one)",), ("m-pbft-lora (setting two)",)]
    assert collection.left_out == []
    assert set(summarise(collection)["runs"]) == {3}
    assert sorted(collection.runs["data_seed"]) == [0, 0, 1, 1, 2, 2]


def test_older_students_are_told_apart_by_their_runs(tmp_path):
    for run in ("abc", "def"):
        put(tmp_path / run, Made(), model="m-pbft", arguments={"model_name_or_path": f"/runs/{run}/model"}, setting=run)
    assert columns(tmp_path, "model") == [("m-pbft (abc)",), ("m-pbft (def)",)]


def test_names_are_as_short_as_they_can_be_and_never_two_of_a_kind():
    things = {"1": ("m", "/a/x/m"), "2": ("m", "/b/x/m"), "3": ("m", "/b/y/m"), "4": ("n", "/b/y/n"), "5": ("m", "m")}
    names = shortest_names(things)
    assert [names[key] for key in "234"] == ["b/x/m", "y/m", "n"]
    assert len(set(names.values())) == 5
