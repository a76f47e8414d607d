"""Flags that only pass a value on: from the command line to the object that uses it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmft.distillation import rollouts, sifting
from llmft.evaluation.texts import Texts
from llmft.pipelines import distill, in_context, self_study
from llmft.pipelines.loading import load_start
from llmft.pipelines.on_policy import learn_on_policy
from llmft.pipelines.prepare import prepare
from llmft.pipelines.prompting import prompt_format_of
from llmft.pipelines.study_files import StudyFiles
from llmft.pipelines.teachers import teacher_model
from tests.conftest import byte_level_bpe, tiny_model

ROW = {"text1": "a cat", "text2": "sat", "label": 1, "idx": 0, "answer": ("a cat",)}
TOY, NOTES = "--task toy --use_cpu", "--task notes --use_cpu"
LABEL = f"{TOY} --context label --target_tokens No,Yes"


class Reached(Exception):
    """What an object is made of."""


def made(*args, **more):
    raise Reached(args, more)


def job_of(folder, words):
    return prepare("distill", distill.GROUPS, [*words.split(), "--output_dir", str(folder)], "")[0]


def study_of(folder, words, model="toy"):
    (folder / "doc.txt").write_text("the cat sat .\n")
    files = ("--context_file", folder / "doc.txt", "--output_file", folder / "pairs.jsonl", "--output_dir", folder)
    return self_study.prepare_study([*map(str, files), "--use_cpu", "--model_name_or_path", str(model), *words.split()])


def generation_of(job):
    return Texts.create(None, SimpleNamespace(stops=(), end_ids=()), ROW, task=job.task, config=job.config).generation


def rollouts_of(job, monkeypatch):
    """The arguments of `Rollouts`."""
    monkeypatch.setattr(rollouts, "Rollouts", made)
    student = SimpleNamespace(answers=SimpleNamespace(generation=generation_of(job)))
    with pytest.raises(Reached) as reached:
        learn_on_policy(job, student, None, {}, None)
    (_, _, generation), more = reached.value.args
    return {"temperature": generation.temperature, "seed": generation.seed, **more}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--answers mixed", "threshold", 0.3),
        ("--answers mixed --mixed_threshold 0.05", "threshold", 0.05),
        ("--answers student", "threshold", None),
        ("--answers student", "temperature", 1.0),
        ("--answers student --generation_temperature 3", "temperature", 1.0),
        ("--answers student --rollout_temperature 0.4", "temperature", 0.4),
        ("--answers student --seed 3 --data_seed 4", "seed", 3),
        ("--answers student --topk 7", "topk", 7),
    ],
)
def test_answers_that_a_student_writes_while_it_trains(tmp_path, monkeypatch, words, name, value):
    assert rollouts_of(job_of(tmp_path, f"{NOTES} {words}"), monkeypatch)[name] == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("", "temperature", 0),
        ("--generation_temperature 0.7", "temperature", 0.7),
        ("--data_seed 5 --seed 6", "seed", 5),
        ("--max_new_tokens 9", "max_new_tokens", 9),
        (r"--stop a|\n", "stop", ("a", "\n")),
    ],
)
def test_how_answers_are_generated(tmp_path, words, name, value):
    assert getattr(generation_of(job_of(tmp_path, f"{NOTES} {words}")), name) == value


@pytest.mark.parametrize(
    ("words", "value"),
    [("", 0.6), ("--generation_temperature 3", 0.6), ("--query_temperature 0.2", 0.2), ("--query_temperature 0", 0)],
)
def test_how_queries_are_generated(tmp_path, words, value):
    asker = self_study.Asker(study_of(tmp_path, words), None, None, None)
    assert generation_of(self_study.writer_of(asker).job).temperature == value


@pytest.mark.parametrize(("words", "value"), [("", 0.9), ("--duplicate_similarity 0.35", 0.35)])
def test_which_queries_are_duplicates(tmp_path, monkeypatch, words, value):
    monkeypatch.setattr(sifting, "Sieve", made)
    job = study_of(tmp_path, words)
    with pytest.raises(Reached) as reached, job.meter.measuring():
        self_study.study(job, StudyFiles.of(job.config.self_study.output_file))
    assert reached.value.args[0][2] == value


OWN = "--pattern {text1} --target_prefix \\nA:"


@pytest.mark.parametrize(
    ("words", "who", "query"),
    [
        (f"{TOY} {OWN}", "teacher", "a cat\nA:"),
        (f"{TOY} {OWN} --teacher_target_prefix \\nT:", "teacher", "a cat\nT:"),
        (f"{TOY} {OWN} --teacher_target_prefix \\nT:", "student", "a cat\nA:"),
        (f"{TOY} {OWN} --student_target_prefix \\nS:", "student", "a cat\nS:"),
        (f"{TOY} {OWN} --student_target_prefix \\nS:", "teacher", "a cat\nA:"),
        (f"{LABEL} --label_pattern {{text1}}={{label}}", "teacher", "a cat=Yes"),
        (f"{LABEL} --label_pattern {{text1}}={{label}} --label_words bad,good", "teacher", "a cat=good"),
        (f"{LABEL} --pattern {{text1}} --label_words bad,good", "student", "a cat"),
    ],
)
def test_what_teacher_and_student_are_asked(tmp_path, words, who, query):
    assert prompt_format_of(job_of(tmp_path, words), who).query(ROW) == query


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the hub with two commits of some/model, on two branches, and the sum of the weights of each."""
    folder, tokenizer, sums = tmp_path_factory.mktemp("hub"), byte_level_bpe("</s>"), {}
    place = folder / "models--some--model"
    (place / "refs").mkdir(parents=True)
    for branch, commit, factor in (("main", "a" * 40, 1), ("other", "b" * 40, 2)):
        model = tiny_model("llama", len(tokenizer))
        with torch.no_grad():
            model.lm_head.weight *= factor
        for part in (model, tokenizer):
            part.save_pretrained(place / "snapshots" / commit)
        (place / "refs" / branch).write_text(commit)
        sums[branch] = model.lm_head.weight.sum().item()
    assert AutoModelForCausalLM.from_pretrained("some/model", cache_dir=folder).lm_head.weight.sum().item() == sums["main"]
    return folder, sums


def evaluated(folder, words):
    job = prepare("icl", in_context.GROUPS, ["--model_name_or_path", "some/model", *words.split(), *TOY.split()], "")[0]
    return load_start(job)[0]


def teaching(folder, words):
    words = f"{TOY} --model_name_or_path some/model --teacher_model_name_or_path some/model {words}"
    job = job_of(folder, words)
    load_start(job)
    return teacher_model(job, job.config.distillation, job.loaded[1])[0]


def writing(folder, words):
    asker = self_study.Asker(study_of(folder, f"{words} --writer_model_name_or_path some/model"), None, None, None)
    return self_study.writer_of(asker).model


LOADED = {"model_revision": evaluated, "teacher_model_revision": teaching, "writer_model_revision": writing}


@pytest.mark.parametrize("flag", LOADED)
def test_the_revision_of_a_model_of_the_hub(hub, tmp_path, flag):
    cache, sums = hub
    for branch in sums:
        model = LOADED[flag](tmp_path, f"--{flag} {branch} --cache_dir {cache}")
        assert model.get_output_embeddings().weight.sum().item() == sums[branch]
