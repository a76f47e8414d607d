"""A thousand random command lines and data files: each is accepted, or refused in one line; none ends in a traceback."""

import csv
import json
import os

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llmft.arguments.command_line import OneLineParser
from llmft.arguments.data import DataArguments
from llmft.errors import InputError
from llmft.pipelines import distill, fine_tune, in_context, loading
from llmft.prompts.demonstrations import draw_demonstrations, draw_training_rows
from llmft.tasks import load
from llmft.tasks.load import fingerprint_data
from llmft.tasks.queries import load_queries
from llmft.tasks.resolve import resolve_task
from tests.pipelines.conftest import MAIN

GROUPS = {"eval.py": in_context.GROUPS, "ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS}
ACTIONS = {
    script: [a for a in OneLineParser(list(groups))._actions if a.dest not in ("help", "output_dir", "use_cpu")]
    for script, groups in GROUPS.items()
}
NUMBERS = {int: ["-1", "0", "1", "2", "7", "4294967296", "9" * 30], float: ["-1", "0", "0.5", "1e-5", "2.5", "7", "nan", "inf"]}
WORDS = [
    "",
    " ",
    "0",
    "1",
    "2",
    "-1",
    "-7",
    "0.5",
    "1e400",
    "nan",
    "-inf",
    "4294967296",
    "9" * 30,
    "true",
    "no",
    "none",
    "auto",
    "toy",
]
WORDS += [
    "rte",
    "rte,cola",
    ",",
    "a,a",
    "Yes,No",
    "{text1}",
    "{text1} {text2} ?",
    "{",
    "{}",
    "{0}",
    "[]",
    "..",
    "/",
    "~",
    "/dev/null",
    "🙂",
]
WORDS += [
    "\\n",
    "\n",
    "a" * 300,
    "/nowhere/x.csv",
    "lora",
    "steps",
    "epoch",
    "topk",
    "vocab",
    "demonstrations,file",
    "\udc80",
    "--",
    "=",
    "-",
]
FILES = ["rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet", "rows.json", "rows.txt", "bytes.csv", "cut.parquet", "."]
CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["no", "yes", "-1", 0, 1, -1, ""]),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from(["text1", "text2", "label", "idx", "🙂", ""]), CELLS, max_size=4), max_size=6)
TEXTS = st.text(max_size=4)
ASKED = st.lists(
    st.fixed_dictionaries(
        {"text1": TEXTS, "label": st.one_of(TEXTS, st.lists(TEXTS, max_size=3), CELLS)},
        optional={"text2": st.one_of(TEXTS, CELLS), "query": TEXTS, "answer_ids": st.lists(st.integers(0, 9), max_size=2)},
    ),
    min_size=1,
    max_size=4,
)
GOOD_ROWS = [{"text1": f"a row {i}", "label": ("no", "yes")[i % 2]} for i in range(8)]
QUICK = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Reached(Exception):
    """The command line was good enough to load a model."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of files, good and bad, in which no model is loaded and no hub is asked."""

    def stop(*_, **__):
        raise Reached

    folder = tmp_path_factory.mktemp("fuzz")
    for name in (*FILES[:6], "good.jsonl"):
        write(folder / name, GOOD_ROWS)
    (folder / "bytes.csv").write_bytes(b"\x00\xff\xfe")
    (folder / "cut.parquet").write_bytes((folder / "rows.parquet").read_bytes()[:-9])
    before = os.getcwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_model", stop)
        patch.setattr(load, "_read_hub", stop)
        yield folder
    os.chdir(before)


def write(file, rows):
    """The rows in the format that the file's ending says, if that can hold them."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".parquet":
        try:
            parquet.write_table(pa.Table.from_pylist(rows), file)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # cells that have no common type
            file.write_bytes(b"PAR1")
    else:
        names = dict.fromkeys(name for row in rows for name in row)
        with file.open("w", newline="", errors="replace") as stream:
            writer = csv.DictWriter(stream, names, delimiter="," if file.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)


def values(action):
    """What may follow a flag: mostly a value of its kind, else anything, several values or nothing."""
    if action.choices:
        right = st.sampled_from(list(map(str, action.choices)))
    elif action.type in NUMBERS:
        right = st.sampled_from(NUMBERS[action.type])
    elif isinstance(action.default, bool):
        right = st.sampled_from(["true", "no"])
    else:
        right = st.one_of(st.sampled_from(WORDS), st.sampled_from(FILES), st.text(max_size=5))
    wrong = st.lists(st.sampled_from(WORDS), max_size=2)
    return st.integers(0, 7).flatmap(lambda n: wrong if n == 5 else right.map(lambda value: [value]))


def check(script, arguments, folder):
    names = set(os.listdir(folder))
    try:
        MAIN[script](["--use_cpu", "--output_dir", "out", *arguments])
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) > 10
    except Reached:
        pass
    assert set(os.listdir(folder)) == names


@pytest.mark.parametrize("script", list(GROUPS))
def test_command_lines(script, world):
    pairs = st.sampled_from(ACTIONS[script]).flatmap(lambda a: st.tuples(st.sampled_from(a.option_strings), values(a)))

    @given(st.lists(pairs, max_size=3), st.booleans())
    @settings(QUICK, max_examples=150)
    def fuzz(drawn, toy):
        check(script, [*(["--task", "toy"] if toy else []), *(word for flag, values in drawn for word in (flag, *values))], world)

    fuzz()


@given(ASKED, st.sampled_from(FILES[:6]), st.booleans(), st.booleans())
@settings(QUICK, max_examples=120)
def test_files_of_answers_in_words(world, rows, name, documents, answers_needed):
    write(world / name, rows)
    data = DataArguments(
        task_name="questions",
        train_file=name,
        validation_file=name,
        answer_column="label",
        document_column="text2" if documents else None,
    )
    try:
        task = resolve_task(data, labels_needed=answers_needed, query_file=name)
        found = load.load_task(task, variant=None, data_seed=0, data_dir=None, cache_dir=None)
        rows = [*found.train, *found.in_domain["questions"], *load_queries(name, data, task, documents=found.documents)]
        assert all(row["document"] in ([*found.documents] if documents else [None]) for row in rows)
        draw_demonstrations(found.demonstrations, 1, data_seed=0, balanced=True, shuffle=True, num_labels=0)
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("--")
    finally:
        write(world / name, GOOD_ROWS)


@given(ROWS, st.sampled_from(FILES[:6]), st.booleans(), st.booleans(), st.booleans())
@example([{"text1": "a", "label": 10**40}], "rows.jsonl", True, True, True)
@settings(QUICK, max_examples=550)
def test_data_files(world, rows, name, train, validation, labels_needed):
    write(world / name, rows)
    data = DataArguments(train_file=name if train else "good.jsonl", validation_file=name if validation else "good.jsonl")
    try:
        task = resolve_task(data, labels_needed=labels_needed)
        fingerprint_data(task, None)
        found = load.load_task(task, variant=None, data_seed=0, data_dir=None, cache_dir=None)
        draw_demonstrations(found.demonstrations, 2, data_seed=0, balanced=True, shuffle=True, num_labels=len(task.label_names))
        draw_training_rows(found.train, 1, data_seed=0)
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("--")
    finally:
        write(world / name, GOOD_ROWS)
