"""llmft from Python: the examples of the README and docs/text.md, and the three functions on the embedded worlds."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import llmft
from llmft.errors import InputError
from llmft.evaluation.scorer import Scorer
from llmft.models.reading.batches import BatchSize
from llmft.pipelines import functions
from llmft.worlds.nli.world import toy_splits
from llmft.worlds.notes.world import notes_documents, notes_splits

README, TEXT = (Path(__file__).parents[2] / name for name in ("README.md", "docs/text.md"))
CARTRIDGE = llmft.AdapterArguments(use_cartridge=True)
PROMPT = llmft.PromptFormat("{text1} {text2} ?", prefix="", separator="\n\n", words=("Yes", "No"))


@pytest.fixture(scope="module")
def toy():
    model, tokenizer = llmft.load_model("toy")
    rows = toy_splits(None, 0)
    return model, tokenizer, rows["train"][:16], rows["train"][16:272], rows["validation"][:60]


def accuracy(model, tokenizer, rows, **more):
    return llmft.in_context(model, tokenizer, rows, prompt=PROMPT, **more)[0]["score_accuracy"]


def programs(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)


def test_the_readme_shows_a_program_that_runs(capsys):
    (program,) = programs(README)
    assert len(program.strip().splitlines()) <= 15
    exec(compile(program, str(README), "exec"), {})
    without, teacher, student = map(float, re.findall(r"[01]\.\d+", capsys.readouterr().out))
    assert without < 0.7 < 0.95 < teacher
    assert student > 0.95


def test_the_page_on_words_distils_a_document(capsys):
    _, program = programs(TEXT)
    exec(compile(program, str(TEXT), "exec"), {})
    without, teacher, student = map(float, re.findall(r"[01]\.\d+", capsys.readouterr().out))
    assert without < 0.1 and teacher > 0.95
    assert student > 0.9


def test_the_page_on_words_asks_a_student(tmp_path, monkeypatch, capsys):
    program, _ = programs(TEXT)
    model, tokenizer = llmft.load_model("notes")
    prompt, part = llmft.PromptFormat("{text1}", "", "", words=()), llmft.AdapterArguments(use_adapter=True)
    rows = [{"text1": "Who founded the mill ?", "answer": "not stated"}]
    student = llmft.fine_tune(model, tokenizer, rows, prompt=prompt, part=part, max_steps=1, use_cpu=True)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    for saved in (student, tokenizer):
        saved.save_pretrained(tmp_path / "RUN/model")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(TEXT), "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("flags", [{}, {"use_adapter": True}, {"use_cartridge": True}])
def test_a_student_knows_what_the_demonstrations_showed(toy, flags):
    model, tokenizer, shots, queries, test = toy
    before = [weight.clone() for weight in model.parameters()]
    unlabelled = [{"text1": row["text1"], "text2": row["text2"]} for row in queries]
    rates = {"": 3e-4, "use_adapter": 3e-3, "use_cartridge": 1e-3}
    student = llmft.distill(
        model,
        tokenizer,
        unlabelled,
        prompt=PROMPT,
        demonstrations=shots,
        part=llmft.AdapterArguments(**flags),
        learning_rate=rates["".join(flags)],
        num_train_epochs=4,
        use_cpu=True,
    )
    assert accuracy(model, tokenizer, test) < 0.7
    assert accuracy(student, tokenizer, test) > 0.9
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_fine_tuning_fits_its_rows_and_predictions_are_a_frame(toy):
    model, tokenizer, shots, _, _ = toy
    tuned = llmft.fine_tune(model, tokenizer, shots, prompt=PROMPT, learning_rate=1e-3, num_train_epochs=10, use_cpu=True)
    metrics, predictions = llmft.in_context(tuned, tokenizer, shots, prompt=PROMPT)
    assert metrics["score_accuracy"] == predictions["score"].mean() > 0.9
    assert list(predictions) == ["idx", "target", "prediction", "score"]
    assert predictions["idx"].tolist() == [row["idx"] for row in shots]


def test_rows_as_pandas_has_them(toy):
    model, tokenizer, shots, _, test = toy
    expected = accuracy(model, tokenizer, test[:8], demonstrations=shots)
    frame = pd.DataFrame(test[:8])[["text1", "text2", "label"]]
    for kind in (float, bool, "Int64", "int8"):
        rows = frame.astype({"label": kind}).to_dict("records")
        assert accuracy(model, tokenizer, rows, demonstrations=shots) == expected
    for kind in (float, torch.tensor):
        converted = [{**row, "label": kind(row["label"])} for row in shots]
        assert accuracy(model, tokenizer, test[:8], demonstrations=converted) == expected
    with pytest.raises(InputError, match="the label of row 1 is None"):
        accuracy(model, tokenizer, pd.DataFrame([*test[:1], {**test[1], "label": None}]).to_dict("records"))


def test_the_same_call_gives_the_same_weights(toy):
    model, tokenizer, shots, _, _ = toy
    again = [
        llmft.fine_tune(
            model, tokenizer, shots, prompt=PROMPT, part=llmft.AdapterArguments(use_adapter=True), max_steps=1, use_cpu=True
        ).state_dict()
        for _ in range(2)
    ]
    assert all(torch.equal(again[0][name], again[1][name]) for name in again[0])


def test_answers_in_words_are_learnt_from_a_document_or_from_rows():
    model, tokenizer = llmft.load_model("notes")
    (document,), rows = notes_documents(None, 0).values(), notes_splits(None, 0)
    asked = [{"text1": row["text1"], "answer": row["answer"]} for row in rows["validation"][:24]]
    prompt = llmft.PromptFormat("Question: {text1} Answer:", prefix="", separator=r"\n\n", words=())
    behind = replace(prompt, document=document)
    part, short = llmft.AdapterArguments(use_adapter=True), {"learning_rate": 3e-3, "use_cpu": True}

    def metrics(model, prompt=prompt):
        return llmft.in_context(model, tokenizer, asked, prompt=prompt)[0]

    before, teacher = metrics(model), metrics(model, behind)
    assert before["exact_match"] < 0.1 and teacher["exact_match"] > 0.9
    queries = [{"text1": row["text1"]} for row in rows["train"][:40]]
    student = llmft.distill(
        model, tokenizer, queries, prompt=prompt, teacher_prompt=behind, part=part, num_train_epochs=5, **short
    )
    assert metrics(student)["nll"] < before["nll"] - 1
    tuned = llmft.fine_tune(model, tokenizer, rows["train"][:40], prompt=prompt, part=part, num_train_epochs=5, **short)
    assert metrics(tuned)["nll"] < before["nll"] - 1
    predictions = llmft.in_context(model, tokenizer, asked, prompt=behind, stop=["a", "e"])[1]
    assert not any(letter in answer for answer in predictions["prediction"] for letter in "ae")
    predictions = llmft.in_context(model, tokenizer, asked, prompt=behind)[1]
    assert predictions["target"].tolist() == [row["answer"] for row in asked]
    with pytest.raises(InputError, match="answer"):
        llmft.fine_tune(model, tokenizer, queries, prompt=prompt, use_cpu=True)


def test_the_length_and_the_end_of_text_answers(monkeypatch, capsys):
    model, tokenizer = llmft.load_model("notes")
    (document,) = notes_documents(None, 0).values()
    rows = [{"text1": row["text1"]} for row in notes_splits(None, 0)["train"][:4]]
    asked = [{**row, "answer": "a wall of " * 40} for row in rows]
    prompt = llmft.PromptFormat("Question: {text1} Answer:", prefix="", separator=r"\n\n", words=())
    how = {"prompt": prompt, "part": llmft.AdapterArguments(use_adapter=True), "max_steps": 1, "use_cpu": True}
    llmft.distill(model, tokenizer, rows, teacher_prompt=replace(prompt, document=document), max_new_tokens=1, **how)
    assert "4 of 4 of the teacher's answers reach --max_new_tokens 1 and may be cut off there" in capsys.readouterr().err
    with pytest.raises(InputError, match="--max_new_tokens 64: the answer of row 0 has"):
        llmft.fine_tune(model, tokenizer, asked, **how)
    llmft.fine_tune(model, tokenizer, asked, max_new_tokens=200, **how)
    with pytest.raises(InputError, match=r"^--max_new_tokens 64: the answer of row 0 has"):
        llmft.in_context(model, tokenizer, asked, prompt=prompt)
    frame = llmft.in_context(model, tokenizer, asked, prompt=prompt, max_new_tokens=200)[1]
    assert len(frame) == 4
    written = []
    monkeypatch.setattr(functions, "say_how_many_are_cut", lambda rows, _limit: written.extend(rows))
    llmft.distill(model, tokenizer, rows, stop=["a", "e"], **how)
    texts = [tokenizer.decode(row["answer_ids"][:-1]) for row in written]
    assert len(texts) == 4 and not any(letter in text for text in texts for letter in "ae")


def test_the_teacher_reads_in_batches_of_the_size_given(toy, monkeypatch):
    model, tokenizer, shots, queries, _ = toy
    sizes, create = [], Scorer.create.__func__
    monkeypatch.setattr(Scorer, "create", classmethod(lambda *args, **more: sizes.append(args[5]) or create(*args, **more)))
    more = {"per_device_eval_batch_size": 4, "max_batch_tokens": 512, "max_steps": 1, "use_cpu": True}
    llmft.distill(model, tokenizer, queries[:8], prompt=PROMPT, demonstrations=shots, **more)
    assert sizes == [BatchSize(4, 512)] * 2


def test_what_cannot_be_used_is_an_input_error(toy):
    model, tokenizer, shots, _, test = toy
    with pytest.raises(InputError, match=r"^stop: labels are not generated"):
        llmft.in_context(model, tokenizer, test, prompt=PROMPT, stop=["."])
    with pytest.raises(InputError, match="--num_train_epochs"):
        llmft.fine_tune(model, tokenizer, shots, prompt=PROMPT, num_train_epochs=-1.0, use_cpu=True)
    with pytest.raises(InputError, match=r"^max_new_tokens 8: labels are not generated"):
        llmft.distill(model, tokenizer, test, prompt=PROMPT, max_new_tokens=8, use_cpu=True)
    for more, message in (
        ({"eval_strategy": "epoch"}, "eval_strategy epoch"),
        ({"push_to_hub": True}, "push_to_hub True: functions only train a model and return it; drop it"),
        ({"log_l2_dist_per_weight": True}, "log_l2_dist_per_weight True"),
        ({"part": CARTRIDGE}, "cartridge_tokens 0"),
    ):
        with pytest.raises(InputError, match=message):
            llmft.fine_tune(model, tokenizer, shots, prompt=PROMPT, use_cpu=True, **more)
    for rows, message in (
        ([], "rows: is empty; give at least one"),
        ([{"text1": "a"}], "row 0 is None"),
        ([*shots, {"text1": "a", "text2": "b", "label": -1}], "row 16 is -1"),
        ([*shots, {"text1": "a", "text2": "b", "label": 0.5}], "row 16 is 0.5"),
        ([{"text1": None, "text2": "b", "label": 0}], "row 0 has no text1"),
        ([{"text1": "a", "label": 0}], "there are rows without a second text; drop .* --text2_column"),
    ):
        with pytest.raises(InputError, match=message):
            llmft.fine_tune(model, tokenizer, rows, prompt=PROMPT, use_cpu=True)
    swapped, everything = replace(PROMPT, words=("No", "Yes")), llmft.Objective(support="vocab")
    with pytest.raises(InputError, match="different target tokens"):
        llmft.distill(model, tokenizer, test, prompt=PROMPT, teacher_prompt=swapped, objective=everything, use_cpu=True)
    in_words = replace(PROMPT, words=())
    with pytest.raises(InputError, match="objective: support labels does not apply to these answers; give one of topk, vocab"):
        llmft.distill(model, tokenizer, test, prompt=in_words, objective=llmft.Objective(divergence="reverse"), use_cpu=True)
    for answer in (7, {"text": ["a"]}):
        with pytest.raises(InputError, match=r"the answer of row 0 is .*; give a text, or a list of texts"):
            llmft.in_context(model, tokenizer, [{"text1": "a", "text2": "b", "answer": answer}], prompt=in_words)
    with pytest.raises(AttributeError, match="no attribute 'destil'"):
        _ = llmft.destil
    with pytest.raises(InputError, match="there are rows without a second text"):
        accuracy(model, tokenizer, test, demonstrations=[{"text1": "a", "label": 0}])
    with pytest.raises(InputError, match="window"):
        accuracy(model, tokenizer, test, demonstrations=shots * 40)


def test_a_chat_template_writes_what_a_pattern_does():
    model, tokenizer = llmft.load_model("notes")
    rows = [{"text1": row["text1"], "answer": row["answer"]} for row in notes_splits(None, 0)["validation"][:4]]
    turns = "{{ bos_token }}{% for m in messages %}Question: {{ m['content'] }}{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %} Answer: {% endif %}"
    prompts = llmft.ChatFormat("{text1}", "", "", words=()), llmft.PromptFormat("Question: {text1} Answer:", "", "", words=())
    chat, plain = (llmft.in_context(model, tokenizer, rows, prompt=prompt) for prompt in prompts)
    assert chat[0]["nll"] == pytest.approx(plain[0]["nll"])
    assert chat[1].equals(plain[1])
