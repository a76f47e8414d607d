"""The shipped checkpoint does what its README says: it answers from the document before it and knows nothing without."""

import random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.errors import InputError
from llmft.worlds.notes import CHECKPOINT
from llmft.worlds.notes.measure import greedy_answers, main, question_prompt
from llmft.worlds.notes.world import notes_documents, notes_splits

SEEDS = (101, 102, 103)
BOUNDS = {"validation": 0.97, "reverse": 0.9, "unanswerable": 0.9}


@pytest.fixture(scope="module")
def notes():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval(), AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def tasks():
    """(text of the document, rows) of a few seeds."""
    return [(*notes_documents(None, seed).values(), notes_splits(None, seed)) for seed in SEEDS]


def test_size():
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {path.name for path in files}


def exact_match(model, tokenizer, rows, document="", demonstrations=()):
    """The share of questions whose answer is the reference."""
    answers = greedy_answers(model, tokenizer, [question_prompt(row, document, demonstrations) for row in rows])
    return sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("name", BOUNDS)
def test_it_answers_from_the_document(notes, tasks, name):
    right = [exact_match(*notes, splits[name], document) for document, splits in tasks]
    assert sum(right) / len(right) >= BOUNDS[name]


def test_it_knows_nothing_without(notes, tasks):
    for _, splits in tasks:
        assert exact_match(*notes, splits["validation"]) <= 0.03


def test_demonstrations_behind_the_document_do_no_harm(notes, tasks):
    document, splits = tasks[0]
    shown = random.Random(0).sample(splits["train"], 4)
    rows = splits["validation"][::3]
    assert exact_match(*notes, rows, document, shown) >= 0.9


@pytest.mark.parametrize("flags", [["--facts", "1000"], ["--documents", "0"], ["--model_name_or_path", "no/model"]])
def test_the_measuring_command_names_what_it_cannot_use(flags):
    with pytest.raises(InputError, match=" ".join(flags)):
        main(flags)


def test_the_measuring_command_prints_a_table(capsys):
    main(["--facts", "16", "--documents", "1"])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == "| facts | questions | document | document and 4 demonstrations | nothing |"
    assert rule.count("|") == header.count("|") and len(rows) >= 4 + 5
    for row in rows:
        assert all(0 <= float(cell) <= 1 for cell in row.split("|")[3:-1])
