"""Self-study as a command: what it writes, when repeated, after a kill, and in distill.py. A tiny random model writes and
answers."""

import json
import shutil
from types import SimpleNamespace

import pytest

from llmft.distillation import sifting
from llmft.errors import InputError
from llmft.evaluation.scorer import Scorer
from llmft.pipelines import self_study
from llmft.runs import session
from llmft.runs.run_lock import RunLock
from tests.conftest import byte_level_bpe, tiny_model
from tests.pipelines.conftest import last_wins, run
from tests.pipelines.test_training import Cut, cut

TEXT = "the cat sat on a mat. a mat is x Yes.\n\nthe cat is True? No cat is False.\n"
PROMPTS = {"fact": "ask of {passage}", "other": "ask {passage} again", "use": "what if {passage}", "summary": "sum up"}
FILES = ("pairs.jsonl", "pairs.dropped.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tokenizer = byte_level_bpe("</s>")
    tokenizer.save_pretrained(folder / "model")
    tiny_model("llama", len(tokenizer)).save_pretrained(folder / "model")
    (folder / "docs").mkdir()
    (folder / "docs" / "a.txt").write_text(TEXT)
    (folder / "docs" / "b.txt").write_text(TEXT.replace("cat", "dog"))
    return folder


def study(folder, out, *arguments):
    """The lines of both files of a command, and its summary."""
    words = (
        "--model_name_or_path",
        folder / "model",
        "--context_dir",
        folder / "docs",
        "--num_queries",
        40,
        "--chunk_tokens",
        24,
    )
    words += (
        "--output_file",
        out / "pairs.jsonl",
        "--output_dir",
        out,
        "--max_new_tokens",
        6,
        "--max_query_tokens",
        8,
        "--use_cpu",
    )
    words += ("--stop", "x|e", "--keep_known", "--seed_prompts", json.dumps(PROMPTS))
    self_study.main(last_wins([*words, *arguments]))
    lines = [[json.loads(line) for line in (out / name).read_text().splitlines()] for name in FILES]
    return *lines, json.loads((out / "pairs.summary.json").read_text())


@pytest.fixture(scope="module")
def whole(folder):
    with pytest.MonkeyPatch.context() as patch:  # a random model seldom writes a whole query
        patch.setattr(sifting, "ran_out", lambda *_: False)
        return study(folder, folder / "whole", "--count_flops")


@pytest.fixture(autouse=True)
def nothing_runs_out(monkeypatch):
    monkeypatch.setattr(sifting, "ran_out", lambda *_: False)


def test_pairs_say_what_they_are_about_and_all_are_counted(folder, whole, capsys):
    pairs, dropped, summary = whole
    assert len(pairs) + len(dropped) == summary["written"] == 40 and len(pairs) == summary["kept"] > 5
    assert sum(summary["dropped"].values()) == len(dropped)
    for line in pairs:
        start, end, _ = line["chunk"].split("-")
        text = f"{line['document']}\n" + (folder / "docs" / line["document"]).read_text()
        assert text[int(start) : int(end)].strip() and line["query"] and line["answer_ids"]
    assert {line["document"] for line in pairs} == {"a.txt", "b.txt"} and len({line["chunk"] for line in pairs}) > 2
    assert len({line["seed_prompt"] for line in pairs}) > 2
    phases = {phase["kind"]: phase for phase in summary["cost"]["phases"]}
    assert phases["write"]["examples"] == 40 and phases["answer"]["tokens"] > 0
    assert phases["answer"]["flops_counted"] > phases["answer"]["tokens"]
    study(folder, folder / "whole")
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"pairs\.jsonl is there already, and not from this command; choose another file"):
        study(folder, folder / "whole", "--data_seed", 1)


def test_of_two_processes_with_one_file_the_second_waits_and_then_has_nothing_to_do(folder, whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder / "whole", tmp_path / "done")
    out = tmp_path / "out"
    other = RunLock(out / "pairs.jsonl")

    def finish(_):
        for file in (tmp_path / "done").glob("pairs*"):
            shutil.copy(file, out)
        other.release()

    assert other.take()
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=finish))
    study(folder, out)
    said = capsys.readouterr()
    assert f"waiting: {out}/pairs.jsonl is being done by process " in said.err and "already finished" in said.out
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "pairs.summary.json"])


def test_killed_anywhere_it_ends_with_the_same_bits(folder, whole, tmp_path, monkeypatch):
    kills = 0
    for at in range(4, 80, 8):
        with monkeypatch.context() as patch:
            cut(patch, Scorer, "answered", at)
            try:
                study(folder, tmp_path)
            except Cut:
                kills += 1
                assert not [path for path in tmp_path.glob("*") if path.name != "teacher_cache"]  # no half file, no other
            else:
                break
    assert kills >= 3
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / "whole" / name).read_bytes()
    _, _, summary = study(folder, tmp_path)
    assert {name: summary[name] for name in ("kept", "dropped", "coverage", "setting")} == {
        name: whole[-1][name] for name in ("kept", "dropped", "coverage", "setting")
    }


def test_no_cache_another_batch_and_other_queries(folder, whole, tmp_path, capsys):
    again = study(folder, tmp_path / "again", "--teacher_cache_dir", "none")
    assert again[:2] == whole[:2]
    other = study(folder, tmp_path / "other", "--data_seed", 1, "--num_queries", 12)
    assert {line["query"] for line in other[0] + other[1]} - {line["query"] for line in whole[0] + whole[1]}
    assert "--seed_prompts: no {passage} in summary, so no sentence is named there" in capsys.readouterr().err
    own = ("--seed_prompts", json.dumps({"mine": "ask of {passage}"}), "--writer_model_name_or_path", folder / "model")
    mine = study(folder, tmp_path / "own", "--num_queries", 10, *own)
    assert {line["seed_prompt"] for line in mine[0] + mine[1]} == {"mine"}


def test_distil_takes_the_pairs_with_their_tokens(folder, whole, tmp_path):
    shutil.copy(folder / "whole" / "pairs.jsonl", tmp_path / "pairs.jsonl")
    words = ("--task", "questions", "--model_name_or_path", folder / "model", "--query_file", tmp_path / "pairs.jsonl")
    words += ("--answers", "given", "--document_column", "document", "--context", "document", "--context_dir", folder / "docs")
    words += ("--chunk_tokens", 24, "--max_new_tokens", 6, "--num_train_epochs", 1, "--stop", "x|e", "--max_eval_samples", 4)
    record = run("distill.py", tmp_path / "out", *words, "--ce_weight", 0)
    frame = record.predictions.query("stage == 'teacher'")
    assert frame["document"].str.contains("#").all()
    ids = {(f"{line['document']}#{line['chunk']}", line["query"]): line["answer_ids"] for line in whole[0]}
    written = [(list(row["answer_ids"]), ids[row["document"], row["query"]]) for _, row in frame.iterrows()]
    assert all(one == other for one, other in written), written  # greedy after the same chunk
    assert [*record.metrics["documents"]["teacher"]["questions"]] == sorted(set(frame["document"].str.partition("#")[0]))


@pytest.mark.parametrize(
    ("name", "content"), [("pairs.summary.json", "{}"), ("pairs.dropped.jsonl", ""), ("pairs.summary.json", "x")]
)
def test_no_file_of_another_command_is_replaced(folder, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f": {name} is there already, and not from this command; "):
        study(folder, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, content)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seed_prompts", '{"a": 1}'), "--seed_prompts: does not map names to texts"),
        (("--seed", 7), "--seed 7: has no effect here; --data_seed draws the queries"),
        (("--output_file", "."), "--output_file .: is not the name of a jsonl file"),
        (
            ("--chunk_tokens", 400, "--max_query_tokens", 200),
            "--max_query_tokens 200: with an answer of this length the longest prompt",
        ),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, arguments, says):
    with pytest.raises(InputError) as caught:
        study(folder, tmp_path / "out", *arguments)
    assert says in str(caught.value) and not list(tmp_path.rglob("pairs*"))
