"""Documents longer than the window, read in chunks; several documents, each question after its own; documents in a folder."""

import json
import random
import shutil

import pytest

from llmft.errors import InputError
from llmft.worlds.notes.world import document_rows, draw_document
from tests.pipelines.conftest import run

ASKED = ("--task", "questions", "--model_name_or_path", "notes", "--pattern", "Question: {text1} Answer:", "--max_new_tokens", 8)
LEARN = ("--num_train_epochs", 1, "--learning_rate", 1e-3, "--per_device_train_batch_size", 8, "--no_evaluate_with_context")
WINDOW = 768


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Notes of several parts: in one text longer than the window, and in one file each, with questions about them by name."""
    folder = tmp_path_factory.mktemp("chunks")
    rng, parts, names = random.Random("parts"), [], set()
    while len(parts) < 4:
        document = draw_document(rng, 22, 5)
        if not names & (places := {place.name for place in document.places}):
            names |= places
            parts.append(document)
    (folder / "parts" / "sub").mkdir(parents=True)
    files = ["a.md", "b.md", "sub/c.md", "sub/d.md"]
    rows = []
    for file, document in zip(files, parts, strict=True):
        (folder / "parts" / file).write_text(document.text)
        asked = document_rows(document, rng, file)
        rows += [{**row, "of": of} for of in ("train", "validation") for row in asked[of][:4]]
    (folder / "long.md").write_text("\n\n".join(document.text for document in parts) + "\n")
    for of in ("train", "validation"):
        lines = [{"text1": row["text1"], "answer": row["answer"], "document": row["document"]} for row in rows if row["of"] == of]
        (folder / f"{of}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_document_longer_than_the_window_is_learnt_chunk_by_chunk(folder, capsys):
    files = ("--query_file", folder / "train.jsonl", "--validation_file", folder / "validation.jsonl")
    file = ("--context", "file", "--context_file", folder / "long.md")
    with pytest.raises(InputError, match=r"^--context: the longest prompt has 9.. tokens.* cut the document with --chunk_tokens"):
        run("distill.py", folder / "out", *ASKED, *files, *file, *LEARN)  # never cut silently
    record = run("distill.py", folder / "out", *ASKED, *files, *file, *LEARN, "--chunk_tokens", 320)
    assert "32 of them name no chunk and get the one that fits" in capsys.readouterr().err
    stages = record.metrics["stages"]
    assert stages["teacher"]["questions"]["exact_match"] >= 0.9
    assert stages["before"]["questions"]["exact_match"] <= 0.1
    assert record.metrics["kl"]["after"]["questions"] < record.metrics["kl"]["before"]["questions"] - 0.1
    assert record.metrics["tokens_per_query"]["teacher"] < WINDOW / 2
    assert record.predictions["document"].str.startswith("long.md#").all()
    text = (folder / "long.md").read_text().rstrip("\n")
    answers = [json.loads(line) for line in (record.path / "teacher_answers.jsonl").read_text().splitlines()]
    for line in answers:  # the chunk that was read is the one with the answer
        start, end, _ = line["chunk"].split("-")
        assert line["document"] == "long.md" and line["answer"] in text[int(start) : int(end)]
    again = ("--query_file", record.path / "teacher_answers.jsonl", "--answers", "given", *files[2:])
    taught = run("distill.py", folder / "out", *ASKED, *again, *file, *LEARN, "--chunk_tokens", 320)
    assert taught.metrics["kl"]["before"] == record.metrics["kl"]["before"]
    assert taught.metrics["kl"]["after"]["questions"] == pytest.approx(record.metrics["kl"]["after"]["questions"], rel=0.1)
    assert "16 of them name no chunk" in capsys.readouterr().err
    (folder / "long.md").write_text("New. " + text)
    with pytest.raises(
        InputError, match=r"--query_file .*: row with idx query-.*: chunk .* does not match its text: the document has changed"
    ):
        run("distill.py", folder / "out", *ASKED, *again, *file, *LEARN, "--chunk_tokens", 320)
    (folder / "long.md").write_text(text)


def test_documents_of_a_folder_are_asked_about_each_and_together(folder):
    rows = ("--validation_file", folder / "validation.jsonl", "--document_column", "document")
    whole = ("--context_dir", folder / "parts", "--context_glob", "**/*.md")
    record = run("eval.py", folder / "each", *ASKED, *rows, *whole, "--context", "document")
    metrics = record.metrics
    each = metrics["documents"]["icl"]["questions"]
    assert {name: one["n"] for name, one in each.items()} == dict.fromkeys(("a.md", "b.md", "sub/c.md", "sub/d.md"), 4)
    together = metrics["stages"]["icl"]["questions"]["contains"]
    assert together == pytest.approx(sum(one["contains"] for one in each.values()) / 4) and together >= 0.8
    cut = run("eval.py", folder / "each", *ASKED, *rows, *whole, "--context", "document", "--chunk_tokens", 200)
    assert cut.metrics["tokens_per_query"]["icl"] < metrics["tokens_per_query"]["icl"]
    read = cut.predictions["document"]
    assert read.str.fullmatch(r".*\.md#\d+-\d+-[0-9a-f]{8}").all() and set(cut.metrics["documents"]["icl"]["questions"]) == set(
        each
    )
    wide = run(
        "eval.py", folder / "each", *ASKED, *rows, *whole, "--context", "document", "--chunk_tokens", 200, "--chunk_neighbours", 9
    )
    assert wide.metrics["stages"] == metrics["stages"]  # all chunks of a document are the document


def test_an_instruction_of_a_file_stands_in_front_of_documents(folder):
    (folder / "told.txt").write_text("Please answer.")
    rows = ("--validation_file", folder / "validation.jsonl", "--document_column", "document", "--context_dir", folder / "parts")
    rows += ("--max_eval_samples", 4)
    tokens = {
        kinds: run("eval.py", folder / "told", *ASKED, *rows, "--context", kinds, *more).metrics["tokens_per_query"]["icl"]
        for kinds, more in {"document": (), "instruction,document": ("--instruction", folder / "told.txt")}.items()
    }
    assert tokens["instruction,document"] > tokens["document"]


def test_a_chunk_contains_an_answer_as_whole_words(tmp_path):
    text = "The bakery of Ulgal opened in 1987, as is well known.\n\nIts staff are 7. Is it for sale? No."
    (tmp_path / "inn.md").write_text(text)
    rows = [{"text1": "How many bake in the bakery of Ulgal?", "answer": "7"}]
    rows += [{"text1": "Is the bakery of Ulgal for sale?", "answer": ["no", "not at all"]}]
    rows += [{"text1": "What opened in Ulgal?", "answer": "an inn"}, {"text1": "When did the bakery open?", "answer": "in 1987"}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("--validation_file", tmp_path / "asked.jsonl", "--context", "file", "--context_file", tmp_path / "inn.md")
    read = run("eval.py", tmp_path, *ASKED, *asked, "--chunk_tokens", 16).predictions["document"]
    first, second = read[2], read[0]
    assert first.startswith("inn.md#0-53-") and second.startswith("inn.md#54-")
    assert list(read) == [second, second, first, first]


def test_a_note_says_that_the_context_does_not_read_the_rows_documents(folder, capsys):
    rows = ("--validation_file", folder / "validation.jsonl", "--document_column", "document", "--max_eval_samples", 1)
    told, asked = ("--instruction", "Answer in a word."), ("--context_file", folder / "long.md")
    line = "note: --document_column document: --context {} does not read the rows' documents; --context {} does\n"
    run("eval.py", folder / "unread", *ASKED, *rows, "--context", "instruction", *told)
    assert line.format("instruction", "instruction,document") in capsys.readouterr().err
    with pytest.raises(InputError, match="more than the model's window"):
        run("eval.py", folder / "unread", *ASKED, *rows, "--context", "file", *asked)
    assert line.format("file", "document") in capsys.readouterr().err
    run("eval.py", folder / "unread", *ASKED, *rows, "--context", "none")
    run("eval.py", folder / "unread", *ASKED, *rows, "--context_dir", folder / "parts")
    assert "does not read" not in capsys.readouterr().err


def test_files_of_a_folder_without_text_are_left_out(folder, tmp_path, capsys):
    asked = ("--validation_file", folder / "validation.jsonl", "--max_eval_samples", 2, "--context", "file")
    of_folder = ("--context_dir", tmp_path / "docs", "--context_glob", "*.md")
    (tmp_path / "docs").mkdir()
    shutil.copy(folder / "parts" / "a.md", tmp_path / "docs" / "b.md")
    alone = run("eval.py", tmp_path, *ASKED, *asked, *of_folder)
    assert "no text" not in capsys.readouterr().err
    (tmp_path / "docs" / "a.md").touch()
    (tmp_path / "docs" / "c.md").write_text(" \n\n")
    record = run("eval.py", tmp_path, *ASKED, *asked, *of_folder, "--seed", 1)
    assert record.metrics["tokens_per_query"] == alone.metrics["tokens_per_query"]
    shown = (
        f"note: --context_dir {tmp_path}/docs: 2 of the 3 files that --context_glob *.md matches have no text, the first being "
    )
    assert capsys.readouterr().err.count(f"{shown}{tmp_path}/docs/a.md; left out\n") == 1
    with pytest.raises(InputError, match=r"^--context_file .*a.md: the file has no text; name another file"):
        run("eval.py", tmp_path, *ASKED, *asked, "--context_file", tmp_path / "docs" / "a.md")
