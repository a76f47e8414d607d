import pytest

from llmft.arguments.data import DataArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.errors import InputError
from llmft.tasks.load import fingerprint_data
from llmft.tasks.queries import QUERIES, leave_out, load_queries, query_source
from llmft.tasks.resolve import asked_after, resolve_task
from tests.parsing import parse


def queries(file, *arguments, files=(), **more):
    ((data, _), _) = parse((DataArguments, DistillationArguments), ["--query_file", str(file), *map(str, arguments)])
    task = asked_after(resolve_task(data, labels_needed=False), files, training=False)
    return load_queries(str(file), data, task, **more)


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.parquet"])
def test_without_labels_in_the_tasks_own_columns(write, name):
    file = write([{"sentence1": "a", "sentence2": "b", "text1": "no"}, {"sentence1": "c", "sentence2": "d", "text1": "no"}], name)
    assert queries(file, "--task", "rte") == [
        {"text1": "a", "text2": "b", "label": None, "idx": "query-0"},
        {"text1": "c", "text2": "d", "label": None, "idx": "query-1"},
    ]


@pytest.mark.parametrize(
    ("arguments", "columns", "texts"),
    [
        (["--task", "rte"], ["text1", "text2"], ("text1", "text2")),
        (["--task", "toy"], ["text1", "text2"], ("text1", "text2")),
        (["--task", "sst2"], ["sentence", "text1"], ("sentence", None)),
        (["--task", "ag_news"], ["text1", "text2"], ("text1", None)),
        (["--task", "sst2", "--text1_column", "q"], ["sentence", "q"], ("q", None)),
        (["--task", "rte", "--text1_column", "q"], ["sentence1", "sentence2", "q", "text2"], ("q", "text2")),
        (["--task", "rte", "--text2_column", "q"], ["sentence1", "sentence2", "q", "text1"], ("text1", "q")),
        (["--task", "sst2", "--text1_column", "q", "--text2_column", "r"], ["q", "r"], ("q", "r")),
    ],
)
def test_which_columns_are_the_texts(write, arguments, columns, texts):
    (row,) = queries(write([{column: column for column in columns}]), *arguments)
    assert (row["text1"], row["text2"]) == texts


def test_labels_where_there_are_some(write):
    file = write([{"sentence": f"s{i}", "label": label, "idx": 7 + i} for i, label in enumerate([1, None, -1, 0])])
    rows = queries(file, "--task", "sst2")
    assert [(row["label"], row["idx"]) for row in rows] == [(1, "query-7"), (None, "query-8"), (None, "query-9"), (0, "query-10")]
    assert {row["label"] for row in queries(file, "--task", "sst2", labels=False)} == {None}
    gold = write([{"sentence": "s", "label": "x", "gold": "1"}, {"sentence": "t", "label": "y", "gold": ""}], "gold.csv")
    assert [row["label"] for row in queries(gold, "--task", "sst2", "--label_column", "gold")] == [1, None]


def test_labels_are_numbered_as_in_the_training_rows(write):
    file = write([{"premise": "p", "hypothesis": str(label), "label": label} for label in (0, 1, 2, -1)])
    assert [(row["text2"], row["label"]) for row in queries(file, "--task", "mnli")] == [("0", 0), ("2", 1), ("-1", None)]
    assert len(queries(file, "--task", "mnli", labels=False)) == 4


def test_queries_of_own_data(write):
    train = write([{"t": "a", "gold": "sad"}, {"t": "b", "gold": "glad"}], "train.jsonl")
    own = ("--train_file", train, "--validation_file", train, "--text1_column", "t", "--label_column", "gold")
    assert [row["label"] for row in queries(write([{"t": "x"}, {"t": "y"}]), *own)] == [None, None]
    assert [row["label"] for row in queries(write([{"t": "x", "gold": "sad"}, {"t": "y", "gold": None}]), *own)] == [1, None]


def test_queries_that_are_demonstrations_are_left_out():
    rows = [{"text1": text, "text2": None, "idx": f"query-{i}"} for i, text in enumerate("abca")]
    shown = [{"text1": "a", "text2": None, "label": 1, "idx": 1}, {"text1": "b", "text2": "c", "label": 0, "idx": 2}]
    assert [row["text1"] for row in leave_out(rows, shown, "--query_file q")] == ["b", "c"]
    with pytest.raises(InputError, match=r"^--num_shots 2: each of the 1 queries is one of the demonstrations"):
        leave_out(rows[:1], shown, "--num_shots 2")


def test_queries_that_a_model_wrote_about_another_document_are_refused(write, capsys):
    def asked(document, **written):
        file = write([{"query": "Who?", "answer": "Ada", "document": document, **written}])
        validation = write([{"text1": "Who?", "answer": "Ada"}], "validation.jsonl")
        own = ("--task", "questions", "--validation_file", validation)
        return queries(file, *own, documents={}, files=("/a/b/doc.md", "/a/b"))

    for document in ("doc.md", "b/doc.md", "b", None):
        assert asked(document, answer_ids=None)[0]["text1"] == "Who?"
    assert "note:" not in capsys.readouterr().err
    assert asked("chapter 3")  # perhaps a column of the user's own
    assert "row 1 is about 'chapter 3', but --context file is doc.md, b\n" in capsys.readouterr().err
    for document in ("other.md", "oc.md", "c/doc.md"):
        with pytest.raises(InputError, match=f"row 1 is about '{document}', but --context file is doc.md, b; use --context doc"):
            asked(document, answer_ids=None)


def test_the_file_is_part_of_the_fingerprint(write):
    ((data,), _) = parse((DataArguments,), ["--task", "toy"])
    task, file = resolve_task(data), write([{"text1": "a", "text2": "b"}])
    before = fingerprint_data(task, None, query_source(str(file), QUERIES))
    assert set(before) == {"toy", "query_file"}
    write([{"text1": "a", "text2": "c"}])
    after = fingerprint_data(task, None, query_source(str(file), QUERIES))
    assert {name for name in before if before[name] != after[name]} == {"query_file"}
    with pytest.raises(InputError, match=r"--query_file /nowhere\.csv: no such file"):
        fingerprint_data(task, None, query_source("/nowhere.csv", QUERIES))


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        (
            [{"premise": "a"}],
            ["--task", "rte"],
            "no column sentence1 and sentence2 nor text1 and text2; the columns are premise; name two",
        ),
        (
            [{"text2": "a"}],
            ["--task", "sst2"],
            "no column sentence nor text1; the columns are text2; name one of these with --text1_column",
        ),
        ([{"text1": "a"}], ["--task", "rte", "--text1_column", "q"], "no column q and text2"),
        ([{"sentence": 5}], ["--task", "sst2"], "column sentence holds a value that is not text, 5 in row 1"),
        ([{"sentence": "a", "label": 2}], ["--task", "sst2"], "label 2 is out of range; sst2 has 0 to 1"),
        ([{"sentence": "a", "label": "good"}], ["--task", "sst2"], "label 'good' is text where a number is expected"),
        ([{"sentence": "a"}, {"sentence": "b", "label": 0.5}], ["--task", "sst2"], "the label of row 2 is 0.5"),
        ([{"sentence": "a"}], ["--task", "sst2", "--label_column", "gold"], "--label_column gold: --query_file"),
        ([{"sentence": "a", "idx": 1}] * 2, ["--task", "sst2"], "column idx holds the same number twice"),
        ([], ["--task", "sst2"], "the file is empty"),
    ],
)
def test_files_that_are_no_queries(write, rows, arguments, says):
    file = write(rows)
    with pytest.raises(InputError) as caught:
        queries(file, *arguments)
    assert says in str(caught.value)
    assert f"--query_file {file}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_are_still_refused_where_nothing_reads_them():
    for argument in ("--text1_column", "--text2_column", "--label_column"):
        words = ["--task", "rte", argument, "q"]
        with pytest.raises(InputError, match=f"{argument} q: has no effect without --train_file"):
            parse((DataArguments,), words)
        assert parse((DataArguments, DistillationArguments), [*words, "--query_file", "f.csv"])
    with pytest.raises(InputError, match="--label_names a,b: has no effect without --train_file"):
        parse((DataArguments, DistillationArguments), ["--task", "rte", "--label_names", "a,b", "--query_file", "f.csv"])
