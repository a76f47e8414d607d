import json
import re
from decimal import Decimal

import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.tasks.load import fingerprint_data
from tests.tasks.conftest import load, resolve


@pytest.fixture
def files(tmp_path):
    """Makes files of rows and the arguments that name them."""

    def make(train, validation=None, **more):
        arguments = []
        for argument, rows in {"train": train, "validation": validation or train, **more}.items():
            file = tmp_path / f"{argument}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            arguments += [f"--{argument}_file", str(file)]
        return arguments

    return make


def rows(*labels, **more):
    return [{"text1": f"t{i}", "label": label, **more} for i, label in enumerate(labels)]


def test_text_labels_in_sorted_order(files):
    task = resolve(*files(rows("sad", "glad", "mad"), rows("mad"), out_of_domain=rows("glad"), test=rows("sad", "sad")))
    assert (task.name, task.version) == ("custom", 1)
    assert task.label_names == task.patterns["minimal"].target_tokens == ("glad", "mad", "sad")
    assert task.patterns["minimal"].pattern == "{text1} ?"
    data = load(task)
    assert [(row["text1"], row["text2"], row["label"], row["idx"]) for row in data.train] == [
        ("t0", None, 2, 0),
        ("t1", None, 0, 1),
        ("t2", None, 1, 2),
    ]
    assert {group: {name: len(found) for name, found in sets.items()} for group, sets in data.groups.items()} == {
        "in_domain": {"custom": 1},
        "out_of_domain": {"custom-out_of_domain": 1},
        "test": {"custom-test": 2},
    }


def test_label_names_give_the_order(files):
    task = resolve(*files(rows("sad", "glad")), "--label_names", "sad, mad,glad")
    assert task.label_names == ("sad", "mad", "glad")
    assert [row["label"] for row in load(task).train] == [0, 2]


def test_labels_that_are_numbers(files, tmp_path):
    task = resolve(*files(rows(0, 2, 1, -1)))
    assert (task.label_names, task.patterns["minimal"].target_tokens) == (("0", "1", "2"), ())
    assert [row["label"] for row in load(task).train] == [0, 2, 1]
    named = resolve(*files(rows(0, 1)), "--label_names", "no,yes,maybe")
    assert named.label_names == named.patterns["minimal"].target_tokens == ("no", "yes", "maybe")
    file = tmp_path / "rows.csv"
    file.write_text("text1,label\na,1\nb,3\n")
    starting_at_one = resolve("--train_file", file, "--validation_file", file, "--label_names", "1,2,3")
    assert [row["label"] for row in load(starting_at_one).train] == [0, 2]


def test_columns(files):
    pairs = [{"text1": "a", "text2": "b", "q": "c", "gold": "x", "label": "y", "idx": 7 + i} for i in range(2)]
    pairs[1] |= {"gold": "z", "label": "w"}
    task = resolve(*files(pairs))
    assert task.patterns["minimal"].pattern == "{text1} {text2} ?"
    assert load(task).train[0] == {"text1": "a", "text2": "b", "label": 1, "idx": 7}
    other = resolve(*files(pairs), "--text1_column", "text2", "--text2_column", "q", "--label_column", "gold")
    assert load(other).train[0] == {"text1": "b", "text2": "c", "label": 0, "idx": 7}


def test_fingerprints_hold_every_file(files, tmp_path):
    before = fingerprint_data(resolve(*files(rows(0, 1), test=rows(0))), None)
    assert list(before) == ["test_file", "train_file", "validation_file"]
    after = fingerprint_data(resolve(*files(rows(0, 1), test=rows(1))), None)
    assert {name for name in before if before[name] != after[name]} == {"test_file"}


@pytest.mark.parametrize(
    ("train", "validation", "arguments", "says"),
    [
        (rows(0, 1), rows("a"), [], "label 'a' is text where a number is expected (0, 1)"),
        (rows("a", "b"), rows(0), [], "row 1: label 0 is none of a, b; fix it, or list all with --label_names"),
        (rows(1, 2, 3), rows(0, 1, 2), ["--label_names", "1,2,3,4,5"], "row 1: label 0 is none of 1, 2, 3, 4, 5"),
        (rows("a", "b"), rows("c"), [], "row 1: label 'c' is none of a, b; fix it, or list all with --label_names"),
        (rows("a", "b"), None, ["--label_names", "a,c"], "row 2: label 'b' is none of a, c"),
        (rows("Yes", "No"), rows("yes "), [], "row 1: label 'yes ' is none of No, Yes ('Yes' differs in case, spaces or"),
        (rows("Yes", "No", "yes "), None, [], "labels 'Yes' (row 1) and 'yes ' (row 3) differ only in case, spaces"),
        (rows("caf\u00e9", "cafe\u0301"), None, [], "differ only in case, spaces or Unicode form"),
        (
            [{**row, "idx": 10**25} for row in rows(0, 1)],
            None,
            [],
            "row 1: 10000000000000000000000000 has more than 64 bits; fix",
        ),
        (rows("Yes", "No", "nan"), None, [], "the label of row 3 is 'nan'"),
        (rows("Yes", "No", "<NA>"), None, [], "the label of row 3 is '<NA>'"),
        (rows(1, -1), None, [], "the labels are 1 (-1 means no label); number two or more"),
        (rows(0.0, 1.0, None), None, [], "the label of row 3 is None"),
        (rows(True, "maybe"), None, [], "the label of row 1 is a number and that of row 2 text"),
        (rows(0, "x" * 10**5), None, [], "the label of row 1 is a number and that of row 2 text"),
        (rows(0, ["x" * 10**5]), None, [], "the label of row 2 is ['xxx"),
        (rows("a", "x" * 10**5), rows("c"), [], "row 1: label 'c' is none of a, xxx"),
        (rows(0, 1), rows(2), [], "label 2 is out of range; custom has 0 to 1"),
        (rows(0, 2), None, [], "the labels are 0, 2; number two or more from 0 without gaps"),
        (rows(1, 2), None, [], "the labels are 1, 2; number two or more from 0 without gaps"),
        (rows(0, 0), None, [], "the labels are 0; number two or more"),
        (rows("a"), None, [], "'a' is the only label"),
        (rows(0, "a"), None, [], "the label of row 1 is a number and that of row 2 text"),
        (rows(0, None), None, [], "the label of row 2 is None"),
        (rows(0, 0.5), None, [], "the label of row 2 is 0.5"),
        (rows(0, float("nan")), None, [], "the label of row 2 is nan"),
        (rows(0, ""), None, [], "the label of row 2 is ''"),
        (rows(0, 1), None, ["--label_names", "a,a"], "--label_names a,a: give two or more different names"),
        (rows(0, 1), None, ["--label_names", "a"], "--label_names a: give two or more"),
        (rows(-1, 0, 1), None, ["--label_names", "a,b,c"], "the labels of --train_file"),
        (rows(-1, 0, 1), rows(2), ["--label_names", "a,b,c"], "are -1,0,1, and -1 means no label; number them from 0"),
        (rows(-1.0, "1"), None, ["--label_names", "a,b"], "or write --label_names=-1,1 and give words with --target_tokens"),
        (rows(0, 1), None, ["--text2_column", "b"], "--text2_column b: "),
        (rows(0, 1), None, ["--text1_column", "text"], "has text1, label; name one of these"),
        (rows(0, 1), None, ["--text2_column", "label"], "they must differ"),
        (rows(0, 1, text2="a"), rows(0, 1), [], "no column text2; the columns are text1, label"),
        (rows(0, 1, text2=None), None, [], "column text2 holds a value that is not text, None in row 1"),
        (rows(0, 1, text1=float("nan")), None, [], "column text1 holds a value that is not text, nan in row 1"),
        (rows(0, 1, text1="\ud800"), None, [], "column text1 holds half a surrogate pair in row 1"),
        ([], rows(0, 1), [], "the file is empty"),
        (rows(0, 1), [{"label": 0}], [], "no column text1; the columns are label"),
    ],
)
def test_files_that_are_no_task(files, train, validation, arguments, says):
    with pytest.raises(InputError) as caught:
        load(resolve(*files(train, validation), *arguments))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--")
    assert len(str(caught.value)) < 700


def test_sets_that_exclude_each_other(files):
    named = files(rows(0, 1), out_of_domain=rows(0))
    with pytest.raises(InputError, match=r"--out_of_domain_file .*: has no effect with --eval_task_name"):
        resolve(*named, "--eval_task_name", "none")
    with pytest.raises(InputError, match="--eval_on_hans: belongs to rte, mnli, mnli-original, not to custom"):
        resolve(*named, "--eval_on_hans")


def test_training_rows_without_labels(files, tmp_path):
    unlabelled = [{"text1": "a"}, {"text1": "b"}]
    task = resolve(*files(unlabelled, rows("sad", "glad")), labels_needed=False)
    assert task.label_names == task.patterns["minimal"].target_tokens == ("glad", "sad")
    data = load(task)
    assert [(row["text1"], row["label"], row["idx"]) for row in data.train] == [("a", None, 0), ("b", None, 1)]
    assert data.demonstrations == []
    assert [row["label"] for row in data.in_domain["custom"]] == [1, 0]
    named = resolve(*files(unlabelled, rows("sad")), "--label_names", "sad,mad,glad", labels_needed=False)
    assert named.label_names == ("sad", "mad", "glad")
    assert resolve(*files(unlabelled, rows(1, 0)), labels_needed=False).label_names == ("0", "1")
    train, validation = tmp_path / "t.csv", tmp_path / "v.csv"
    train.write_text("text1\na\n")
    validation.write_text("text1,label\nb,-1\nc,1\n")
    named = resolve("--train_file", train, "--validation_file", validation, "--label_names=-1,1", labels_needed=False)
    assert [row["label"] for row in load(named).in_domain["custom"]] == [0, 1]


def test_minus_one_is_a_label_if_it_is_named_as_one(files):
    coded = rows(0, -1, 1)
    assert [row["label"] for row in load(resolve(*files(coded), "--label_names=-1,0,1")).train] == [1, 0, 2]
    for names, labels in (("a,b", [0, 1]), ("a,b,c,d", [0, 1])):  # -1 is none
        assert [row["label"] for row in load(resolve(*files(coded), "--label_names", names)).train] == labels


@pytest.mark.parametrize("labels", [("sad", None, "glad", ""), ("sad", "-1", "glad", -1), (1, None, 0, -1), ("1", "", "0", "-1")])
def test_some_training_rows_without_labels(files, labels):
    numbers = type(labels[0]) is int or labels[0].isdigit()
    task = resolve(*files(rows(*labels), rows(*labels[::2])), labels_needed=False)
    data = load(task)
    assert task.label_names == (("0", "1") if numbers else ("glad", "sad"))
    assert [row["label"] for row in data.train] == [1, None, 0, None]
    assert [row["idx"] for row in data.demonstrations] == [0, 2]


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        ([{"text1": "a"}], [{"text1": "a"}], "--label_column label: --validation_file"),
        ([{"text1": "a"}], rows("a", None), "the label of row 2 is None"),
        ([{"text1": "a"}], rows("a"), "'a' is the only label"),
        (rows("a", None, "b"), rows("c"), "label 'c' is none of a, b"),
        (rows("a", None, 1), rows("a"), "the label of row 3 is a number and that of row 1 text"),
    ],
)
def test_labels_must_be_known_from_somewhere(files, train, validation, says):
    with pytest.raises(InputError) as caught:
        load(resolve(*files(train, validation), labels_needed=False))
    assert says in str(caught.value)


def test_labels_are_needed_unless_said_otherwise(files):
    with pytest.raises(InputError, match=r"--label_column label: --train_file .* has text1; name one of these"):
        resolve(*files([{"text1": "a"}], rows("a", "b")))
    with pytest.raises(InputError, match="the label of row 2 is None"):
        resolve(*files(rows("a", None)))


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pd.Series([1.0, None, 0.0, -1.0]), ("0", "1")),
        (pd.Series([1, None, 0, -1], dtype="Int8"), ("0", "1")),
        (pd.Series([Decimal(1), None, Decimal(0), Decimal(-1)]), ("0", "1")),
        (pd.Series(["b", None, "a", "-1"], dtype="category"), ("a", "b")),
        (pd.Series([True, None, False, None], dtype="boolean"), ("False", "True")),
    ],
)
def test_labels_as_pandas_writes_them_beside_a_missing_one(tmp_path, capsys, ending, labels, names):
    def written(name, labels):
        file, rows = tmp_path / f"{name}{ending}", pd.DataFrame({"text1": "t", "label": labels})
        if ending == ".parquet":
            rows.to_parquet(file)
        elif ending == ".csv":
            rows.to_csv(file)  # with its index
        else:
            rows.to_json(file, orient="records", lines=True)
        return file

    arguments = ("--train_file", written("train", labels), "--validation_file", written("validation", labels.dropna()))
    with pytest.raises(InputError, match=r"the label of row 2 is (None|nan|''); write"):
        resolve(*arguments)
    task = resolve(*arguments, labels_needed=False)
    data = load(task)
    assert task.label_names == names
    assert [row["label"] for row in data.train] == [1, None, 0, None]
    assert [row["label"] for row in data.in_domain["custom"]] == [1, 0]
    note = f"note: --validation_file {tmp_path}/validation{ending}: 1 of 3 rows left out: 1 without a label\n"
    assert capsys.readouterr().err == (note if "True" not in names else "")


@pytest.mark.parametrize(
    ("train", "validation"),
    [((0.0, 1.0), (1,)), ((0, 1), ("1.0",)), ((0, 1), (True,)), ((False, True), (1.0,)), (("0", "1"), (1.0,))],
)
def test_ways_to_write_the_same_label_agree(files, train, validation):
    data = load(resolve(*files(rows(*train), rows(*validation))))
    assert [row["label"] for row in data.train] == [0, 1]
    assert [row["label"] for row in data.in_domain["custom"]] == [1]


def test_booleans_under_names_of_the_users(files, capsys):
    for names, labels in (("False,True", [0, 1]), ("true,false", [1, 0]), ("no,yes", [0, 1])):
        assert [row["label"] for row in load(resolve(*files(rows(False, True)), "--label_names", names)).train] == labels
        assert ("are booleans; false is no, true is yes" in capsys.readouterr().err) == (names == "no,yes")


def test_one_rank_says_what_is_left_out(files, capsys, monkeypatch):
    load(resolve(*files(rows(0, 1, -1, -1), rows(0))))
    assert re.fullmatch(r"note: --train_file .*: 2 of 4 rows left out: 2 without a label\n", capsys.readouterr().err)
    monkeypatch.setenv("RANK", "1")
    load(resolve(*files(rows(0, 1, -1, -1), rows(0))))
    assert capsys.readouterr().err == ""
