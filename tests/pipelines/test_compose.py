"""Adapters of two documents put together and asked alone and together, by runs of the embedded notes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmft.arguments.composing import ComposeArguments
from llmft.arguments.run import as_dict
from llmft.errors import InputError
from llmft.models.parts.composing import write_common_settings
from llmft.pipelines import compose, distill, fine_tune, in_context
from tests.parsing import parse
from tests.pipelines.conftest import IN_DOMAIN, run

SHORT = ("--task", "notes", "--max_eval_samples", 4, *IN_DOMAIN, "--max_train_samples", 8, "--num_train_epochs", 1)
SHORT += ("--per_device_train_batch_size", 2, "--no_evaluate_with_context", "--no_evaluate_elsewhere", "--max_new_tokens", 8)
PARTS = {"lora": ("--use_adapter", "--adapter_dim", 2), "cartridge": ("--use_cartridge", "--cartridge_tokens", 12)}


@pytest.fixture(scope="module", params=PARTS)
def trained(request, tmp_path_factory):
    """The trained part, and the runs of two documents."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, [run("distill.py", folder, *SHORT, *PARTS[request.param], "--data_seed", seed) for seed in (0, 1)]


def composition(folder, runs, *words):
    compose.main(["--runs", ",".join(str(one.path) for one in runs), "--output_dir", str(folder), *words])
    (path,) = folder.glob("composed/*/composition.json")
    return path.parent, json.loads(path.read_text())


def test_several_ranks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"WORLD_SIZE: .*start it without a launcher"):
        compose.main(["--runs", f"{tmp_path}/a,{tmp_path}/b"])


def test_lora_on_experts_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    for file in ("DONE", "config.json", "metrics.json"):
        (tmp_path / file).write_text("{}")
    settings = {"peft_type": "LORA", "target_parameters": ["mlp.experts.down_proj"]}  # of a Mixtral
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"--runs {tmp_path}: peft cannot merge LoRA on experts"):
        compose.main(["--runs", f"{tmp_path},{tmp_path}/other"])


def weights(student):
    return load_file(student / "adapter_model.safetensors")


def linear(matrices):
    """Their sum, times the square root of weight and scaling (alpha 16, rank 2)."""
    return sum(matrices) * 8**0.5


def ties(matrices, density):
    """TIES (Yadav et al. 2023, arXiv:2306.01708, section 4): trim, elect signs, and average what agrees with them."""
    trimmed = []
    for matrix in matrices:
        sizes = matrix.abs().flatten().sort(descending=True).values
        trimmed.append(matrix * (matrix.abs() >= sizes[int(density * len(sizes)) - 1]))
    trimmed = torch.stack(trimmed)
    agree = (trimmed != 0) & (trimmed.sign() == trimmed.sum(0).sign())
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1) * 8**0.5


def test_each_is_asked_alone_and_all_together_about_every_document(trained, tmp_path, capsys):
    part, runs = trained
    density = {"lora": ("--ties_density", "0.3"), "cartridge": ()}[part]
    folder, summary = composition(tmp_path, runs, *density)
    ways = {"lora": ["cat", "linear", "ties"], "cartridge": ["joined"]}[part]
    for row, one in zip(summary["documents"], runs, strict=True):
        after = one.metrics["stages"]["after"]["notes"]
        for metric in ("exact_match", "nll"):
            assert row[metric]["own"] == pytest.approx(after[metric], rel=1e-4)
            assert row[metric]["without"] == one.metrics["stages"]["before"]["notes"][metric]
            assert list(row[metric]["together"]) == ways and len(row[metric]["others"]) == 1
        assert row["nll"]["others"][0] != row["nll"]["own"]
        assert len(row["records"]) == 2 + len(ways)
    assert len([*tmp_path.rglob("DONE")]) == 2 * (2 + len(ways))
    alone = [weights(one.path / "model") for one in runs]
    for way in ways:
        together, name = weights(folder / f"notes-{part}-{way}"), "prompt_embeddings"
        if way == "joined":
            assert torch.equal(together[name], torch.cat([one[name] for one in alone]))
        elif way == "cat":
            for key in (key for key in together if ".lora_A." in key):
                updates = [one[key.replace("lora_A", "lora_B")] @ one[key] * 8 for one in alone]  # alpha 16, rank 2
                assert torch.allclose(together[key.replace("lora_A", "lora_B")] @ together[key], sum(updates), atol=1e-5)
        else:
            for key, merged in together.items():
                matrices = [one[key] for one in alone]
                expected = linear(matrices) if way == "linear" else ties(matrices, 0.3)
                assert merged.any() and torch.allclose(merged, expected, atol=1e-6), key
    shown = capsys.readouterr().out
    assert "nll on each document's questions" in shown and "together: " + ways[-1] in shown

    files = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    composition(tmp_path, runs, *density)
    assert capsys.readouterr().out.count("already finished") == 2 * (2 + len(ways))
    assert {file: file.read_bytes() for file in files} == files


def test_answers_end_as_those_of_the_runs_teacher(tmp_path):
    shown = ("--context", "demonstrations,document", "--num_shots", 2, *PARTS["lora"])
    path = run("distill.py", tmp_path, *SHORT, *shown).path
    assert json.loads((path / "model" / "student.json").read_text())["stop"] == ["\n\n"]
    words = compose.DocumentRun.read(path).words
    assert r"--stop=\n\n" in words
    assert parse(in_context.GROUPS, words)[0]


def test_answers_of_a_composition_end_as_those_of_any_of_its_students(tmp_path):
    stops = {"first": {"stop": ["\n"]}, "second": {"stop": ["\n\n", "\n"]}, "third": {}}
    for name, settings in stops.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.json").write_text(json.dumps({"dtype": "bfloat16", **settings}))
    write_common_settings([tmp_path / name for name in stops], tmp_path)
    assert json.loads((tmp_path / "student.json").read_text()) == {"dtype": "bfloat16", "stop": ["\n", "\n\n"]}


@pytest.mark.parametrize(
    ("pipeline", "words", "stop"),
    [
        (distill, "--task notes --context demonstrations", r"\n\n"),
        (distill, "--task code --validation_file v.jsonl", None),  # the task's own stop comes first
        (distill, "--task toy", None),  # labels
        (fine_tune, "--task notes --train_on demonstrations", None),  # no answer is shown
    ],
)
def test_demonstrations_end_answers_of_texts_that_a_teacher_wrote_behind_them(pipeline, words, stop):
    groups, given = parse(pipeline.GROUPS, words.split())
    arguments = {type(group).__name__: as_dict(group) for group in groups}
    config = {"task": given["task_name"], "arguments": arguments, "draws": {"demonstrations": [[3, 1]]}}
    _, asked = parse(in_context.GROUPS, compose.DocumentRun(Path("run"), config, {}).words)
    assert asked.get("stop") == stop


def test_one_way_of_merging_with_another_weight(trained, tmp_path):
    part, runs = trained
    if part == "cartridge":
        pytest.skip("cartridges are not merged")
    students = []
    for weight in (0.5, 1.0):
        flags = ComposeArguments(",".join(str(one.path) for one in runs), "cat", weight, output_dir=str(tmp_path))
        _, together = compose.put_together([compose.DocumentRun.read(one.path) for one in runs], flags)
        assert [*together] == ["cat"]
        students.append(weights(together["cat"]))
    key = next(key for key in students[0] if ".lora_A." in key)
    assert torch.allclose(students[0][key] * 2, students[1][key])


def test_questions_are_asked_as_their_run_asked_them():
    words = "--task questions --query_file q.jsonl --chat --system_prompt Briefly. --student_pattern {text1} --context file"
    more = "--context_file a.md --document_column document --max_new_tokens 24 --data_seed 3 --use_cpu"
    more += " --use_adapter --max_train_samples 5 --learning_rate 1e-3"
    groups, _ = parse(distill.GROUPS, [*words.split(), *more.split()])
    arguments = {type(group).__name__: as_dict(group) for group in groups}
    config = {"task": "questions", "arguments": arguments, "draws": {"demonstrations": []}}
    one = compose.DocumentRun(Path("run"), config, {})
    assert one.document == "a.md"
    (_, plain), (_, given) = (parse(in_context.GROUPS, some) for some in ([], one.words))
    expected = {
        "pattern": "{text1}",
        "validation_file": "q.jsonl",
        "system_prompt": "Briefly.",
        "max_new_tokens": 24,
        "data_seed": 3,
    }
    assert {name: given[name] for name in expected} == expected
    assert given.keys() - plain.keys() - expected.keys() == {"context", "task_name", "chat", "use_cpu"}
