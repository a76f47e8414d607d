"""Rows whose answers are words: the user's own files and SQuAD's."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmft.arguments.context import ContextFile
from llmft.arguments.data import DataArguments
from llmft.errors import InputError
from llmft.prompts.demonstrations import draw_contexts, draw_training_rows
from llmft.tasks.load import count_training_rows, fingerprint_data
from llmft.tasks.queries import leave_out, load_queries
from llmft.tasks.resolve import asked_after, with_training_rows
from llmft.tasks.texts import Document, name_documents
from tests.parsing import parse
from tests.tasks.conftest import load, resolve

ASKED = [
    {"text1": "Who?", "answer": "Ada", "page": "It was Ada."},
    {"text1": "When?", "answer": ["1815", "in 1815", "1815", ""], "page": "Born in 1815."},
    {"text1": "Why?", "answer": None, "page": "It was Ada."},
]
ADA, BORN = "document-3000b80f", "document-29fd1b0c"
"""Ids of the two documents."""


@pytest.fixture
def write(tmp_path):
    """Writes rows to a file of the given name."""

    def make(rows, name="asked.jsonl"):
        file = tmp_path / name
        if file.suffix == ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif file.suffix == ".csv":
            pd.DataFrame(rows).to_csv(file, index=False)
        else:
            pd.DataFrame(rows).to_parquet(file)
        return file

    return make


def questions(*arguments, **more):
    return resolve("--task", "questions", *arguments, **more)


def queries(file, task, *arguments, documents=None, **more):
    ((data,), _) = parse((DataArguments,), [*map(str, arguments)])
    return load_queries(str(file), data, task, documents=documents, **more)


def test_rows_that_a_model_wrote_about_another_document_are_not_asked_after_files(write, capsys):
    about = {"query": "Who?", "answer": "Ada", "answer_ids": None, "document": "doc.md"}
    own = {"text1": "Who?", "answer": "Ada", "document": "chapter 3"}
    good, other = write([about], "good.jsonl"), write([about, {**about, "document": "other.md"}], "other.jsonl")

    def asked(validation, *arguments, **more):
        task = questions("--validation_file", validation, *arguments)
        return load(asked_after(task, ("/a/doc.md",), **{"training": False, **more}))

    for flag in ("--test_file", "--out_of_domain_file", "--train_file"):
        with pytest.raises(InputError, match=rf"{flag} .*: row 2 is about 'other.md', but --context file is doc.md; use"):
            asked(good, flag, other, training=True)
    with pytest.raises(InputError, match=r"--validation_file .*: row 2 is about 'other.md'"):
        asked(other)
    assert len(asked(good, "--train_file", other).demonstrations) == 2  # which nobody asks about
    assert "is about" not in capsys.readouterr().err
    asked(write([own], "own.jsonl"))
    assert "row 1 is about 'chapter 3', but --context file is doc.md\n" in capsys.readouterr().err
    asked(write([own], "own.jsonl"), "--text1_column", "document")
    asked(write([own], "own.jsonl"), "--document_column", "document")
    assert "is about" not in capsys.readouterr().err


def test_rows_and_documents(write, capsys):
    task = questions(
        "--validation_file", write(ASKED), "--train_file", write(ASKED[::-1], "t.jsonl"), "--document_column", "page"
    )
    data = load(task)
    assert task.patterns["minimal"].pattern + task.patterns["minimal"].prefix == "Question: {text1}\nAnswer:"
    assert data.documents == {ADA: "It was Ada.", BORN: "Born in 1815."}
    first, second = data.in_domain["questions"]
    assert first == {"text1": "Who?", "text2": None, "label": None, "idx": 0, "answer": ("Ada",), "document": ADA}
    assert (second["answer"], second["document"]) == (("1815", "in 1815"), BORN)
    assert [(row["idx"], row["document"]) for row in data.train] == [(1, BORN), (2, ADA)]
    assert data.demonstrations == data.train
    assert capsys.readouterr().err.count("1 of 3 rows left out: 1 without an answer") == 2


def test_training_rows_need_no_answers_where_these_are_not_read(write):
    files = ("--validation_file", write(ASKED), "--train_file", write(ASKED, "t.jsonl"))
    data = load(task := questions(*files, labels_needed=False))
    assert [row["answer"] for row in data.train] == [("Ada",), ("1815", "in 1815"), ()]
    assert [row["idx"] for row in data.demonstrations] == [0, 1]
    assert {row["document"] for row in data.train} == {None} and data.documents == {}
    assert count_training_rows(task, variant=None, data_seed=0, data_dir=None, cache_dir=None) == 3
    without = [{"text1": "Who?"}]
    assert load(questions(*files[:2], "--train_file", write(without, "u.jsonl"), labels_needed=False)).train[0]["answer"] == ()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_other_formats_and_columns(write, name):
    rows = [{"q": "Who?", "text2": "Tell me.", "gold": "Ada"}, {"q": "When?", "text2": "Soon.", "gold": None}]
    task = questions("--validation_file", write(rows, name), "--text1_column", "q", "--answer_column", "gold")
    assert task.patterns["minimal"].pattern == "Question: {text1}\n{text2}"
    (row,) = load(task).in_domain["questions"]
    assert (row["text1"], row["text2"], row["answer"]) == ("Who?", "Tell me.", ("Ada",))


def test_lists_of_answers_in_a_csv_are_told(write, capsys):
    rows = [{"text1": "Where?", "answer": ["Paris", "paris"]}, {"text1": "Who?", "answer": ["It's Ada"]}]
    file = write(rows, "lists.csv")
    assert load(questions("--validation_file", file)).in_domain["questions"][0]["answer"] == ("['Paris', 'paris']",)
    note = f"note: --validation_file {file}: every answer is a list written as text, such as \"['Paris', 'paris']\", and is"
    assert capsys.readouterr().err.startswith(note)
    load(questions("--validation_file", write(rows)))
    load(questions("--validation_file", write([*rows, {"text1": "Which?", "answer": "[sic]"}], "some.csv")))
    assert capsys.readouterr().err == ""


def test_a_second_text_is_in_all_files_or_none(write):
    file = write(ASKED)
    second = write([{**row, "text2": "Tell me."} for row in ASKED], "second.jsonl")
    line = f"_file {second}: has a column text2, which --validation_file {file} lacks; add it there, or rename it"
    with pytest.raises(InputError, match=f"^--train{re.escape(line)}"):
        load(questions("--validation_file", file, "--train_file", second))
    with pytest.raises(InputError, match=f"^--query{re.escape(line)}"):
        queries(second, questions("--validation_file", file), "--task", "questions")
    named = ("--validation_file", second, "--text2_column", "page")  # another second text is named
    assert load(questions(*named)).in_domain["questions"][0]["text2"] == "It was Ada."


def test_other_sets_have_names_of_their_own(write):
    files = (
        "--validation_file",
        write(ASKED),
        "--test_file",
        write(ASKED, "t.csv"),
        "--out_of_domain_file",
        write(ASKED, "o.jsonl"),
    )
    task = questions(*files)
    assert [*load(task).eval_sets] == ["questions", "questions-out_of_domain", "questions-test"]
    assert set(fingerprint_data(task, None)) == {"validation_file", "test_file", "out_of_domain_file"}


def test_queries_with_answers_are_evaluated_on_where_there_are_no_other_rows(write, capsys):
    file = write([{"query": row["text1"], "answer": row["answer"], "page": row["page"]} for row in ASKED])
    task = questions("--document_column", "page", query_file=str(file))
    assert (
        f"note: --validation_file: not given; evaluating on the rows of --query_file {file} that have answers"
        in capsys.readouterr().err
    )
    data = load(task)
    assert [row["text1"] for row in data.in_domain["questions"]] == ["Who?", "When?"]
    rows = queries(file, task, "--task", "questions", "--document_column", "page", documents=data.documents)
    assert [(row["idx"], row["answer"], row["document"]) for row in rows] == [
        ("query-0", ("Ada",), ADA),
        ("query-1", ("1815", "in 1815"), BORN),
        ("query-2", (), ADA),
    ]
    assert set(data.documents) == {ADA, BORN}


def test_lines_that_a_model_wrote_are_queries(write):
    data = load(task := questions("--validation_file", write(ASKED), "--document_column", "page"))
    line = {"document": BORN, "query": "Year?", "answer": "1815", "answer_ids": [5, 6, 2], "seed_prompt": "facts"}
    line |= {"thought": "", "thought_ids": []}
    file = write([line, {**line, "answer_ids": None}], "written.jsonl")
    named = ("--task", "questions", "--document_column", "page")
    first, second = queries(file, task, *named, documents=data.documents)
    assert (first["text1"], first["document"], first["answer_ids"], first["thought_ids"]) == ("Year?", BORN, [5, 6, 2], [])
    assert "answer_ids" not in second
    assert [row["document"] for row in queries(file, task, *named, quiet=True)] == [None, None]  # where none is read
    own = write([{"question": row["text1"], "gold": row["answer"], "page": row["page"]} for row in ASKED], "own.jsonl")
    columns = ("--text1_column", "question", "--answer_column", "gold", *named[2:])  # which only the user's own files have
    own_task = questions("--validation_file", own, *columns)
    again, _ = queries(file, own_task, *named[:2], *columns, documents=load(own_task).documents)
    assert again == first
    lost = write([{**line, "document": "document-77777777"}], "lost.jsonl")
    with pytest.raises(InputError, match=f"row 1: there is no document 'document-77777777'; name one of {ADA}, {BORN}"):
        queries(lost, task, *named, documents=data.documents)
    new = write([{"text1": "What?", "page": "Another page."}], "new.jsonl")
    assert queries(new, task, *named, documents=data.documents)[0]["document"] == "document-6e7b0084"
    assert data.documents["document-6e7b0084"] == "Another page."


def test_documents_in_files_of_their_own(write, tmp_path):
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text(f"The text of {name}.\n")
    files = [ContextFile(name, str(tmp_path / name)) for name in ("a.md", "b.md")]
    rows = [{**ASKED[0], "page": "b.md"}, {**ASKED[1], "page": "a.md"}]
    named = ("--validation_file", write(rows), "--document_column", "page")
    data = load(questions(*named, context_files=files))
    assert data.documents == {"a.md": "The text of a.md.", "b.md": "The text of b.md."}
    assert [row["document"] for row in data.in_domain["questions"]] == ["b.md", "a.md"]
    write([*rows, {**ASKED[0], "page": "c.md"}])
    with pytest.raises(InputError, match=r"^--validation_file .*: row 3: there is no document 'c.md'; name one of a.md, b.md$"):
        load(questions(*named, context_files=files))
    with pytest.raises(InputError, match=r"two files are named a\.md"):
        load(questions(*named, context_files=[files[0], files[0]]))
    assert load(questions(*named[:2], context_files=files)).documents == {}  # one text for all rows, which no row names


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        ([{"text1": "a"}], [], "--answer_column answer: --validation_file {file} has text1; name one of these"),
        (ASKED, ["--answer_column", "gold"], "--answer_column gold: --validation_file {file} has text1, answer, page"),
        (ASKED, ["--document_column", "pages"], "--document_column pages: --validation_file {file} has"),
        (ASKED, ["--document_column", "text1"], "--document_column text1: texts and document are columns text1, text1"),
        (ASKED, ["--answer_column", "text1"], "--answer_column text1: texts and answer are columns"),
        (ASKED[2:], [], "--validation_file {file}: no row has an answer in column answer, so there is nothing to evaluate on"),
        ([{**ASKED[0], "answer": " "}], [], "no row has an answer in column answer"),
        ([{**ASKED[0], "answer": 5}], [], "the answer of row 1 is 5; write a text, or a list of texts, in column answer"),
        ([{**ASKED[0], "answer": ["a", 5]}], [], "the answer of row 1 is ['a', 5]; write"),
        ([{**ASKED[0], "answer": {"texts": ["a"]}}], [], "the answer of row 1 is {'texts': ['a']}; write"),
        ([{**ASKED[0], "answer": "\ud800"}], [], "column answer holds half a surrogate pair in row 1"),
        ([ASKED[0], {**ASKED[1], "page": "\n"}], ["--document_column", "page"], "the document of row 2 is empty"),
        ([{**ASKED[0], "page": None}], ["--document_column", "page"], "column page holds a value that is not text, None"),
        (
            [{**ASKED[0], "page": "g-77777777"}],
            ["--document_column", "page"],
            "there is no document 'g-77777777'; write the document",
        ),
        ([{**ASKED[0], "answer_ids": [1, -1]}], [], "column answer_ids of row 1 is [1, -1]; write the tokens of the answer"),
        ([{**ASKED[0], "answer_ids": "1"}], [], "column answer_ids of row 1 is '1'"),
        ([{**ASKED[0], "answer_ids": []}], [], "column answer_ids of row 1 is []"),
        ([{**ASKED[0], "thought_ids": [0.5]}], [], "column thought_ids of row 1 is [0.5]; write the tokens of the thought"),
        ([], [], "the file is empty"),
    ],
)
def test_files_that_are_no_questions(write, rows, arguments, says):
    file = write(rows)
    with pytest.raises(InputError) as caught:
        load(questions("--validation_file", file, *arguments))
    assert says.replace("{file}", str(file)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_category_is_the_same_beside_a_missing_value(write):
    rows = [{**ASKED[0], "category": cell} for cell in (1.0, None, 1, 0.5, "1.0")]
    read = [row.get("category") for row in load(questions("--validation_file", write(rows))).in_domain["questions"]]
    assert read == ["1", None, "1", "0.5", "1.0"]


def test_files_without_rows(write):
    header = write([ASKED[0]], "a.csv")
    header.write_text("text1,answer\n")
    for arguments, more in ((("--validation_file", header), {}), ((), {"query_file": str(header)})):
        with pytest.raises(InputError, match=r"a\.csv: the file has no rows; name another file"):
            questions(*arguments, **more)
    with pytest.raises(InputError, match=r"^--query_file .*: there is no row of queries in it; give another file$"):
        queries(header, questions("--validation_file", write(ASKED)), "--task", "questions")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--task questions", "--task questions: there is nothing to evaluate on; add --validation_file"),
        ("--task questions --train_file f", "--task questions: there is nothing to evaluate on"),
        ("--answer_column a", "--answer_column a: has no effect without --task questions"),
        ("--document_column a", "--document_column a: has no effect without --task questions"),
        ("--task questions --label_names a,b", "--label_names a,b: has no effect without --train_file"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, says):
    with pytest.raises(InputError) as caught:
        resolve(*arguments.split())
    assert str(caught.value).startswith(says)


def test_training_rows_are_there_only_where_they_are_needed(write, tmp_path):
    task = questions("--validation_file", write(ASKED))
    assert with_training_rows(task, needed=False) == task and load(task).train == load(task).demonstrations == []
    with pytest.raises(InputError, match="--train_file: not given, and questions has no training rows of its own; name a file"):
        with_training_rows(task, needed=True)
    (tmp_path / "squad").mkdir()
    squad = pd.DataFrame([{"title": "A B", "context": "It was Ada.", "question": "Who?", "answers": {"text": ["Ada"]}}])
    squad.to_parquet(tmp_path / "squad" / "validation.parquet")
    task = resolve("--task", "squad")
    with pytest.raises(InputError, match="no file squad/train or squad/plain_text/train"):
        fingerprint_data(with_training_rows(task, needed=True), str(tmp_path))
    task = with_training_rows(task, needed=False)
    assert [*fingerprint_data(task, str(tmp_path))] == ["squad/validation.parquet"]
    assert load(task, tmp_path).documents == {"A_B-3000b80f": "It was Ada."}
    assert with_training_rows(rte := resolve("--task", "rte"), needed=False) == rte
    assert with_training_rows(cut := replace(resolve("--task", "squad"), subsample_splits=5), needed=False) == cut


def test_squads_rows_are_those_of_the_file(shared_data):
    frame = pd.read_parquet(shared_data / "squad" / "validation.parquet")
    data = load(with_training_rows(resolve("--task", "squad"), needed=False), shared_data)
    rows = data.in_domain["squad"]
    assert [row["text1"] for row in rows] == frame["question"].tolist()
    assert [data.documents[row["document"]] for row in rows] == frame["context"].tolist()
    assert [row["answer"] for row in rows] == [tuple(dict.fromkeys(cell["text"])) for cell in frame["answers"]]
    assert [row["document"].rpartition("-")[0] for row in rows] == frame["title"].tolist()
    assert len(data.documents) == frame["context"].nunique() == 240


def test_queries_of_squad(write):
    rows = [
        {"title": "A", "context": c, "question": f"{c}?", "answers": {"text": [c], "answer_start": [0]}} for c in ("One.", "Two.")
    ]
    task = with_training_rows(resolve("--task", "squad"), needed=False)
    one, two = "A-70277bfc", "A-1eb32d1e"
    documents = {one: "One."}
    file, own = (
        write(rows),
        write([{"text1": "Which?", "answer": "x", "document": one}, {"text1": "Why?", "document": two}], "q.jsonl"),
    )
    named = ("--task", "squad")
    assert [row["document"] for row in queries(file, task, *named, documents=documents)] == [one, two]
    assert documents == {one: "One.", two: "Two."}
    assert [(row["answer"], row["document"]) for row in queries(own, task, *named, documents=documents)] == [
        (("x",), one),
        ((), two),
    ]
    bare = write([{"query": "Which?"}], "b.jsonl")
    assert [(row["text1"], row["document"]) for row in queries(bare, task, *named, documents=documents)] == [("Which?", None)]


def test_the_notes_of_a_seed_are_an_ordinary_task(write):
    data = load(task := resolve("--task", "notes"), data_seed=3)
    (document,) = data.documents
    assert [*data.eval_sets] == ["notes", "notes-reverse", "notes-unanswerable"]
    for row in [*data.train, *data.demonstrations, *(row for rows in data.eval_sets.values() for row in rows)]:
        assert (row["text2"], row["label"], row["document"]) == (None, None, document)
        assert len(row["answer"]) == 1 and row["answer"][0]
    assert data == load(task, data_seed=3) and load(task, data_seed=4).documents != data.documents
    assert [*fingerprint_data(task, None)] == ["notes"]
    assert [*load(resolve("--task", "notes", "--eval_task_name", "none")).eval_sets] == ["notes"]
    file = write([{"text1": "Who?", "document": document}, {"text1": "Who?", "document": "notes-99"}])
    with pytest.raises(InputError, match=f"row 2: there is no document 'notes-99'; name one of {document}"):
        queries(file, task, "--task", "notes", documents=data.documents)
    with pytest.raises(InputError, match="--task_variant x: task notes has no variants"):
        load(task, variant="x")


def test_draws_of_rows_in_words():
    rows = [{"text1": "Who?", "text2": None, "label": None, "idx": i, "document": f"d-{i}", "answer": ("a",)} for i in range(9)]
    first, second = draw_contexts(rows, 2, 3, data_seed=0, balanced=True, shuffle=True, num_labels=0)
    assert len({row["idx"] for row in (*first, *second)}) == 6
    left = leave_out(rows, first, "--num_shots 3")  # the same question about another document is another
    assert len(left) == 6 and len(draw_training_rows(left, None, data_seed=0)) == 6


def test_documents_whose_hashes_begin_alike_are_two(write):
    texts = [f"The inn has {rooms} rooms." for rooms in (67024, 86753, 67024)]  # both sha256 begin with 2b168cb9
    rows = [{"text1": "How many rooms?", "answer": text.split()[3], "document": text} for text in texts]
    data = load(task := questions("--validation_file", write(rows), "--document_column", "document"))
    named = [row["document"] for row in data.in_domain["questions"]]
    assert [data.documents[name] for name in named] == texts
    assert named[0] == "document-2b168cb9" and len(data.documents) == 2
    file = write([{"text1": "How many?", "document": named[1]}], "named.jsonl")
    (row,) = queries(file, task, "--task", "questions", "--document_column", "document", documents=data.documents)
    assert row["document"] == named[1]


TEXTS = st.text("ab ", min_size=1, max_size=3)


@given(st.lists(st.lists(st.tuples(TEXTS, TEXTS)), max_size=4))
@settings(deadline=None, max_examples=60)
def test_a_text_has_one_id_and_an_id_one_text(sets):
    documents, named = {}, {}
    for drawn in sets:
        rows = [{"document": Document(title, text)} for title, text in drawn]
        name_documents(rows, documents)
        assert [documents[row["document"]] for row in rows] == [text for _, text in drawn]
        for row, (_, text) in zip(rows, drawn, strict=True):
            assert named.setdefault(text, row["document"]) == row["document"]
    assert len(set(documents.values())) == len(documents)
