"""Runs with text answers, with one flag or another: short ones, on the embedded notes and on files of questions."""

import json

import numpy as np
import pandas as pd
import pytest

from llmft.errors import InputError
from llmft.report.__main__ import main
from llmft.report.records.collect import collect
from llmft.training.ft_trainer import FtTrainer
from llmft.worlds.nli.world import toy_splits
from llmft.worlds.notes.world import notes_documents, notes_splits
from tests.pipelines.conftest import IN_DOMAIN, run
from tests.pipelines.test_training import Cut, cut

EVALUATED = ("--task", "notes", "--max_eval_samples", 6, *IN_DOMAIN)
SHORT = (*EVALUATED, "--max_train_samples", 8, "--num_train_epochs", 1, "--per_device_train_batch_size", 2, "--logging_steps", 1)
SHORT += ("--no_evaluate_with_context",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all runs, so that they share the teacher's answers."""
    return tmp_path_factory.mktemp("texts")


def distil(folder, *arguments):
    return run("distill.py", folder, *SHORT, *arguments)


@pytest.fixture(scope="module")
def plain(folder):
    return distil(folder)


def losses(record):
    entries = [json.loads(line) for line in (record.path / "train_log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


VARIANTS = {
    "given answers": ("--answers", "given"),
    "the whole vocabulary": ("--support", "vocab", "--temperature", 2),
    "what the teacher wrote": ("--support", "sampled"),
    "few tokens, reverse": ("--topk", 5, "--divergence", "reverse"),
    "jsd and a cross-entropy": ("--divergence", "jsd", "--ce_weight", 0.5, "--loss_mean", "examples"),
    "hard targets": ("--targets", "hard"),
    "gold targets": ("--targets", "gold"),
    "ia3": ("--use_adapter", "--adapter_type", "ia3"),
    "a soft prompt": ("--use_soft_prompt", "--num_soft_prompt_tokens", 5),
    "a cartridge": ("--use_cartridge", "--cartridge_tokens", 40, "--learning_rate", 1e-2),
    "with demonstrations": ("--context", "demonstrations,document", "--num_shots", 2),
    "the best on the way": ("--eval_strategy", "steps", "--eval_steps", 2, "--save_best_models"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_student_comes_nearer_to_its_teacher(folder, plain, variant):
    record = distil(folder, *VARIANTS[variant])
    kl = record.metrics["kl"]
    assert np.isfinite(losses(record)).all() and len(losses(record)) == 4
    assert kl["after"]["notes"] < kl["before"]["notes"] - 0.02
    if variant != "with demonstrations":
        assert kl["before"] == plain.metrics["kl"]["before"]
        assert record.phases["evaluate teacher notes"]["tokens"] == 0  # as another run has asked already
    written = (record.path / "teacher_answers.jsonl").exists()
    assert written == (variant not in ("given answers", "gold targets"))
    sizes = record.metrics["tokens_per_query"], plain.metrics["tokens_per_query"]
    front = {"a soft prompt": 5, "a cartridge": 40 - 1}.get(variant, 0)  # a cartridge includes the text's start
    assert sizes[0]["student"] == pytest.approx(sizes[1]["student"] + front)
    assert sizes[0].get("before") == (sizes[1]["student"] if front else None)


def test_hard_targets_are_the_tokens_that_the_teacher_wrote_and_gold_ones_the_right_answers(folder, plain):
    hard, sampled, gold = (
        distil(folder, *VARIANTS[name], "--seed", 1) for name in ("hard targets", "what the teacher wrote", "gold targets")
    )
    assert losses(hard) == pytest.approx(losses(sampled), rel=1e-4, abs=1e-6)
    answers = [json.loads(line) for line in (hard.path / "teacher_answers.jsonl").read_text().splitlines()]
    right = {row["text1"]: row["answer"] for row in notes_splits(None, 0)["train"]}
    assert all(line["answer"] == right[line["query"]] for line in answers)  # so that these are gold, too
    assert losses(gold) == pytest.approx(losses(hard), rel=1e-4, abs=1e-6)


def test_of_a_teacher_that_thinks_first_the_answer_alone_is_learnt_and_scored(folder, plain):
    record = distil(folder, "--answer_pattern", r"(?:.* )?(\S+)")
    counts = {"learnt": 8, "unmatched": 0, "more_behind": 0, "within_token": 0}
    assert record.metrics["answer_pattern"] == {"written": 8, **counts}
    lines, whole = (
        [json.loads(line) for line in (one.path / "teacher_answers.jsonl").read_text().splitlines()] for one in (record, plain)
    )
    for part, all_of_it in zip(lines, whole, strict=True):
        assert " ".join(filter(None, [part["thought"], part["answer"]])) == all_of_it["answer"]
        assert part["answer_ids"] == all_of_it["answer_ids"][-len(part["answer_ids"]) :] and " " not in part["answer"]
    taught, kl = record.predictions[lambda rows: rows["stage"] == "teacher"], record.metrics["kl"]
    assert not taught["prediction"].str.contains(" ").any()
    assert kl["after"]["notes"] < kl["before"]["notes"] and kl["before"] != plain.metrics["kl"]["before"]
    words = distil(folder, "--answer_pattern", r"(?:.* )?(\S+)", "--targets", "hard")
    assert np.isfinite(losses(words)).all() and losses(words) != losses(record)


def test_answers_with_thoughts_are_learnt_the_same_from_their_file(folder, tmp_path, capsys):
    flags = ("--answer_pattern", r"(?:.* )?(\S+)", "--per_device_train_batch_size", 8)  # one step, whatever the order
    record = distil(folder, *flags)
    lines = [json.loads(line) for line in (record.path / "teacher_answers.jsonl").read_text().splitlines()]

    def given_back(name, *changed):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in [*changed, *lines[len(changed) :]]))
        capsys.readouterr()
        return distil(folder, *flags, "--query_file", file, "--answers", "given"), capsys.readouterr().err

    assert any(line["thought_ids"] for line in lines)
    same, said = given_back("same")
    assert losses(same) == pytest.approx(losses(record), rel=1e-5) and "thought" not in said
    assert same.metrics["stages"]["teacher"] == record.metrics["stages"]["teacher"]
    bare = [{name: value for name, value in line.items() if name != "thought_ids"} for line in lines]
    without, said = given_back("without", *bare)
    thoughts = sum(line["thought"] != "" for line in lines)
    assert f"the teacher does not read the thought of {thoughts} of 8 queries, which have no thought_ids" in said
    assert losses(without) != pytest.approx(losses(same), rel=1e-2)
    for ids, means in ((lines[1]["answer_ids"][:-1], f"mean '{lines[1]['answer']}'"), ([9999], "mean nothing")):
        with pytest.raises(
            InputError, match=f"^thought_ids of row query-0: {means} to the tokenizer of .*, which is not its tho"
        ):
            given_back("odd", {**lines[0], "thought": "No.", "thought_ids": ids})
    written = distil(folder, *flags, "--query_file", tmp_path / "same.jsonl")  # anew, without the thoughts in the file
    assert losses(written) == pytest.approx(losses(record), rel=1e-5)
    lines[0] |= {"thought": None, "thought_ids": lines[0]["answer_ids"] * 100}  # more than an answer may have
    with pytest.raises(InputError, match="the answer of row query-0 with its thought has"):
        given_back("long")
    gold = distil(folder, "--query_file", tmp_path / "long.jsonl", "--targets", "gold")  # nobody reads it
    assert np.isfinite(losses(gold)).all()


def test_rows_whose_answers_the_pattern_does_not_match_are_not_said_to_be_learnt(folder):
    record = distil(folder, "--answer_pattern", r"(\S+ .*)", "--targets", "hard")  # answers of one word are left out
    learnt = record.metrics["answer_pattern"]["learnt"]
    assert 0 < learnt < 8 and f"rows trained on: {learnt}\n" in (record.path / "model" / "README.md").read_text()


@pytest.mark.parametrize("part", [(), ("--use_adapter",)])
def test_a_teacher_that_reads_along_gives_the_same_losses(folder, part):
    once, along = (distil(folder, *part, "--seed", 3, "--teacher_mode", mode) for mode in ("precompute", "online"))
    assert losses(along) == pytest.approx(losses(once), rel=1e-2, abs=1e-4)
    assert losses(along)[0] == pytest.approx(losses(once)[0], rel=1e-5)


def test_another_seed_asks_the_teacher_for_nothing_again(folder, plain):
    record = distil(folder, "--seed", 2)
    assert record.predictions.query("stage == 'teacher'").equals(plain.predictions.query("stage == 'teacher'"))
    asked = {name: phase["tokens"] for name, phase in record.phases.items() if "teacher" in name and "elsewhere" not in name}
    assert not any(asked.values())  # its answers elsewhere are compared with those of the model before training, and not cached
    saved = record.json("cost")["saved_by_teacher_cache"]
    assert saved["tokens"] == sum(plain.phases[name]["tokens"] for name in asked)


def test_a_teacher_that_writes_is_charged_for_both_readings_of_a_context(folder, tmp_path):
    rows = []
    for seed in range(10):  # each row has a document of its own, so nothing is shared
        (document,) = notes_documents(None, data_seed=seed).values()
        row = notes_splits(None, data_seed=seed)["train"][0]
        rows.append({"text1": row["text1"], "answer": list(row["answer"]), "context": document})
    for name, part in {"queries": rows[:8], "validation": rows[8:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    files = ("--query_file", tmp_path / "queries.jsonl", "--validation_file", tmp_path / "validation.jsonl")
    asked = ("--task", "questions", "--model_name_or_path", "notes", "--pattern", "Question: {text1} Answer:", *files)
    short = ("--document_column", "context", "--max_steps", 1, "--no_evaluate_elsewhere", "--no_save_final_model")
    record = run("distill.py", tmp_path / "runs", *asked, *short)
    costs = collect(tmp_path / "runs").runs.iloc[0]
    assert record.metrics["teacher_prompts"] == 16
    assert costs["training_flops"] <= costs["training_flops_alone"] == pytest.approx(costs["training_flops"], rel=0.2)
    metrics = record.metrics
    del metrics["teacher_prompts"]  # as in older records
    (record.path / "metrics.json").write_text(json.dumps(metrics))
    assert collect(tmp_path / "runs").runs.iloc[0]["training_flops_alone"] == costs["training_flops_alone"]


@pytest.mark.parametrize(
    ("variant", "readings"),
    [((), 2), (("--support", "sampled"), 1), (("--answers", "given"), 1), (("--targets", "gold"), 0)],
)
def test_of_a_shared_context_each_reading_counts(tmp_path, variant, readings):
    record = distil(tmp_path, *variant)
    phases, sizes = record.phases, record.metrics["tokens_per_query"]
    read = 2 * record.metrics["weights"]["model"] * sizes["teacher"] * 8 * readings
    assert record.metrics["teacher_prompts"] == 8 * readings
    for _ in range(2):  # with the number of prompts in the record, and as of older records
        assert collect(tmp_path).runs.iloc[0]["training_flops_alone"] == pytest.approx(phases["train"]["flops"] + read)
        metrics = {name: value for name, value in record.metrics.items() if name != "teacher_prompts"}
        (record.path / "metrics.json").write_text(json.dumps(metrics))


def test_sampled_answers_are_the_same_again_and_others_than_the_most_probable(folder, plain, tmp_path):
    """That another --data_seed draws others is in test_what_flags_set.py."""
    sampling = ("--generation_temperature", 3, "--max_new_tokens", 8)
    first, again = (distil(place, *sampling) for place in (folder, tmp_path))
    sampled, greedy = (record.predictions.query("stage in ('teacher', 'after')") for record in (first, plain))
    assert list(sampled["query"]) == list(greedy["query"])
    assert all(len(ids) <= 8 for ids in sampled["answer_ids"])
    starts = [list(ids)[:8] for ids in greedy["answer_ids"]]
    assert sum(list(ids) != start for ids, start in zip(sampled["answer_ids"], starts, strict=True)) > len(starts) / 2
    assert (again.path / "teacher_answers.jsonl").read_text() == (first.path / "teacher_answers.jsonl").read_text()
    assert again.predictions.equals(first.predictions)
    assert again.metrics == first.metrics


def test_a_stop_ends_answers_of_teacher_and_student(folder):
    record = distil(folder, "--stop", "e|o")
    answers = record.predictions["prediction"]
    assert not answers.str.contains("[eo]").any() and answers.str.len().max() > 0


SAVING = ("--save_strategy", "steps", "--save_steps", 2, "--max_train_samples", 12)


def test_a_run_that_is_killed_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch):
    whole = distil(folder, *SAVING)
    with monkeypatch.context() as patch:
        cut(patch, FtTrainer, "compute_loss", 4)
        with pytest.raises(Cut):
            distil(tmp_path, *SAVING)
    resumed = distil(tmp_path, *SAVING)
    assert resumed.json("cost")["resumed_from"].endswith("checkpoint-2")
    assert resumed.metrics == whole.metrics
    assert resumed.predictions.equals(whole.predictions)
    names = ("model/model.safetensors", "teacher_answers.jsonl")
    assert all((resumed.path / name).read_bytes() == (whole.path / name).read_bytes() for name in names)
    assert losses(resumed) == losses(whole)


CONTEXTS = {
    "none": (),
    "document": (),
    "demonstrations": ("--num_shots", 2),
    "instruction": ("--instruction", "Answer in words."),
    "file": ("--context_file", "{document}"),
    "dialogue": ("--context_file", "{turns}"),
}


def test_what_can_stand_in_front_of_questions(tmp_path):
    (document,) = notes_documents(None, 0).values()
    files = {"document": tmp_path / "document.txt", "turns": tmp_path / "turns.jsonl"}
    files["document"].write_text(document)
    turns = [{"role": "user", "content": document}, {"role": "assistant", "content": "noted"}]
    files["turns"].write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    scores, tokens = {}, {}
    for name, more in CONTEXTS.items():
        words = (str(word).format(**files) for word in more)
        record = run("eval.py", tmp_path / name, *EVALUATED, "--context", name, *words)
        scores[name] = record.metrics["stages"]["icl"]["notes"]
        tokens[name] = record.metrics["tokens_per_query"]["icl"]
        assert len(record.predictions) == 6
    assert min(tokens, key=tokens.get) == "none"
    assert min(scores[name]["exact_match"] for name in ("document", "file")) >= 0.9
    assert max(scores[name]["exact_match"] for name in ("none", "demonstrations", "instruction")) <= 0.1
    assert scores["file"] == scores["document"]


@pytest.fixture
def questions(tmp_path):
    """Files of questions about two documents: in the column as text, and by the names of files."""
    seeds, splits = (3, 4), {"train": 10, "validation": 6}
    texts = {f"notes-{seed}": text for seed in seeds for text in notes_documents(None, seed).values()}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for split, number in splits.items():
        rows = [row for seed in seeds for row in notes_splits(None, seed)[split][:number]]
        rows = sorted(rows, key=lambda row: row["idx"])  # so that one document's row follows another's
        by_name = pd.DataFrame(rows)[["text1", "answer", "document"]]
        by_name.to_csv(tmp_path / f"{split}.csv", index=False)
        by_name.assign(document=by_name["document"].map(texts)).to_csv(tmp_path / f"{split}_texts.csv", index=False)
    return tmp_path


def test_several_documents_are_distilled_at_once(questions):
    shared = ("--task", "questions", "--model_name_or_path", "notes", "--document_column", "document", "--num_train_epochs", 1)
    shared += ("--pattern", "Question: {text1} Answer:", "--learning_rate", 1e-3, "--per_device_train_batch_size", 4)
    ways = {"": ("--context_file", f"{questions}/notes-3,{questions}/notes-4"), "_texts": ()}
    records = []
    for kind, files in ways.items():
        rows = ("--query_file", questions / f"train{kind}.csv", "--validation_file", questions / f"validation{kind}.csv")
        records.append(run("distill.py", questions / f"out{kind}", *shared, *rows, *files, "--context", "document"))
    by_name, by_text = (record.metrics["stages"] for record in records)
    assert by_name == by_text
    scores = by_name["teacher"]["questions"]
    assert scores["contains"] >= 0.9 and scores["n"] == 12
    assert records[0].metrics["contexts"]["number"] == 2
    answers = [json.loads(line) for line in (records[0].path / "teacher_answers.jsonl").read_text().splitlines()]
    assert [line["document"] for line in answers].count("notes-3") == 10


def test_answers_of_a_teacher_can_be_corrected_and_given_back(questions):
    for split in ("train", "validation"):
        rows = pd.read_csv(questions / f"{split}_texts.csv")
        rows.assign(text2="Answer:").groupby("document").head(2).to_json(
            questions / f"{split}.jsonl", orient="records", lines=True
        )
    (questions / "validation.jsonl").write_text((questions / "validation.jsonl").read_text().splitlines()[0])  # of one document
    shared = ("--task", "questions", "--model_name_or_path", "notes", "--document_column", "document", "--max_steps", 1)
    shared += (
        "--logging_steps",
        1,
        "--train_file",
        questions / "train.jsonl",
        "--validation_file",
        questions / "validation.jsonl",
    )
    shared += ("--pattern", "Question: {text1} {text2}", "--no_evaluate_elsewhere", "--no_evaluate_with_context")
    first = run("distill.py", questions / "out", *shared)
    lines = [json.loads(line) for line in (first.path / "teacher_answers.jsonl").read_text().splitlines()]
    assert len({line["document"] for line in lines}) == 2 and {line["text2"] for line in lines} == {"Answer:"}
    edited = "".join(json.dumps({**line, "answer": "Ada", "answer_ids": None}) + "\n" for line in lines)
    (questions / "edited.jsonl").write_text(edited)
    again = run("distill.py", questions / "out", *shared, "--query_file", questions / "edited.jsonl", "--answers", "given")
    assert len(again.json("config")["draws"]["train_rows"]) == len(lines) and losses(again) != losses(first)


def test_all_documents_of_the_rows_are_trained_on_whichever_rows_are_drawn(questions, capsys):
    rows = pd.read_csv(questions / "train_texts.csv")
    rows.iloc[:1].assign(document="A third document.").to_csv(questions / "third.csv", index=False)
    shared = ("--task", "questions", "--model_name_or_path", "notes", "--document_column", "document", "--num_train_epochs", 1)
    shared += ("--validation_file", questions / "validation_texts.csv", "--train_on", "document", "--max_eval_samples", 1)
    for more, documents in (((), 2), (("--train_file", questions / "third.csv"), 3)):
        record = run("ft.py", questions / "out", *shared, *more, "--no_evaluate_elsewhere", "--max_steps", 1)
        assert len({*record.json("config")["draws"]["train_rows"]}) == documents
        assert f"note: --train_on document: {documents} documents, in " in capsys.readouterr().err
    unread = ("--context_file", questions / "notes-3", "--train_file", "/nowhere.csv")
    with pytest.raises(InputError, match=r"^--train_file /nowhere\.csv: no such file"):
        run("ft.py", questions / "out", *shared, *unread)


def test_every_answer_of_a_conversation_is_learnt_behind_the_document_of_its_turn(tmp_path):
    texts = [text for seed in (3, 4) for text in notes_documents(None, seed).values()]
    for split, number in (("train", 3), ("validation", 2)):
        lines = []
        for pair in zip(*(notes_splits(None, seed)[split][:number] for seed in (3, 4)), strict=True):
            turns = []
            for row, text in zip(pair, texts, strict=True):  # the second turn is about another document
                turns += [{"role": "user", "content": row["text1"], "document": text}]
                turns += [{"role": "assistant", "content": row["answer"]}]
            lines.append(json.dumps({"turns": turns}) + "\n")
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    shared = ("--task", "questions", "--model_name_or_path", "notes", "--document_column", "document", "--context", "document")
    shared += ("--pattern", "Question: {text1} Answer:", "--num_train_epochs", 1, "--per_device_train_batch_size", 2)
    shared += ("--validation_file", tmp_path / "validation.jsonl", "--logging_steps", 1, "--learning_rate", 1e-3)
    shared += ("--train_file", tmp_path / "train.jsonl", "--max_new_tokens", 10)
    record = run("distill.py", tmp_path / "out", *shared, "--no_evaluate_elsewhere", "--no_evaluate_with_context")
    stages, kl = record.metrics["stages"], record.metrics["kl"]
    assert stages["teacher"]["questions"]["contains"] >= 0.75 and stages["before"]["questions"]["contains"] == 0
    assert record.metrics["contexts"]["number"] == 2 and len(losses(record)) == 3  # of 6 answers
    assert kl["after"]["questions"] < kl["before"]["questions"] - 0.02
    taught = record.predictions[lambda rows: rows["stage"] == "teacher"]
    assert taught["turn"].tolist() == [1, 2] * 2 and taught["conversation"].tolist() == [str(i // 2) for i in range(4)]
    assert taught["document"].nunique() == 2 and (taught["document"].iloc[::2] == taught["document"].iloc[0]).all()
    first, second = taught["query"].iloc[:2]
    assert second.startswith(f"user: {first}\nassistant: {taught['target'].iloc[0]}\n")
    lines = (record.path / "teacher_answers.jsonl").read_text().splitlines()
    assert [len(json.loads(line).get("history", ())) for line in lines].count(2) == 3


def test_other_tasks_are_asked_about_before_and_after(tmp_path, without_pictures, capsys):
    rows = [
        {"text1": f"{row['text1']} {row['text2']}", "answer": ("Yes", "No")[row["label"]]} for row in toy_splits(None, 0)["train"]
    ]
    for name, part in (("train", rows[:60]), ("validation", rows[60:80])):
        pd.DataFrame(part).to_csv(tmp_path / f"{name}.csv", index=False)
    files = ("--train_file", tmp_path / "train.csv", "--validation_file", tmp_path / "validation.csv")
    asked = ("--task", "questions", "--model_name_or_path", "toy", "--pattern", "{text1} ?", "--context", "demonstrations")
    asked += ("--max_new_tokens", 2, "--max_train_samples", 16, "--num_train_epochs", 1, "--max_eval_samples", 20)
    asked += ("--no_evaluate_elsewhere", "--per_device_train_batch_size", 2)
    record = run("distill.py", tmp_path / "out", *files, *asked, "--retention_tasks", "toy")
    metrics = record.metrics
    assert not {"off_context_kl", "elsewhere", "contamination"} & set(metrics)
    assert not (record.path / "elsewhere.jsonl").exists()
    assert metrics["stages"]["teacher"]["questions"]["contains"] >= 0.9  # what 16 demonstrations show
    assert set(metrics["retention_change"]) == {"retention-toy"}
    assert set(metrics["stages"]["after"]["retention-toy"]) >= {"score_accuracy", "accuracy"}
    assert len(record.predictions.query("set == 'retention-toy'")) == 2 * 20
    main([str(tmp_path / "out"), "--out", str(tmp_path / "report")])
    tables = (tmp_path / "report" / "report.md").read_text()
    change = [metrics["stages"][stage]["retention-toy"]["score_accuracy"] for stage in ("before", "after")]
    assert all(f" {value:.3f} " in tables for value in change)
    capsys.readouterr()
    main(["show", str(record.path), "--examples", "2"])
    assert "retention-toy" in capsys.readouterr().out
