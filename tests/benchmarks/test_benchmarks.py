"""The parts of the benchmark itself, on a tiny model: no times are asserted, and neither lm-eval nor TRL is needed."""

from __future__ import annotations

import json
import mmap
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks import __main__ as command
from benchmarks import (
    floors,
    kind_floors,
    results,
    text_generation,
    text_teacher,
)
from benchmarks.bounds import BOUNDS, check_all
from benchmarks.distillation import rereading_teacher
from benchmarks.growth import with_attention_clock
from benchmarks.kinds import SIZES, SMALL, KindWorld
from benchmarks.measure import alternate, peak_beyond, ratio
from benchmarks.ours import Distillation, Evaluation
from benchmarks.peers import upstream_style, whole_prompts
from benchmarks.table import BEGIN, END, tables, write_readme
from benchmarks.text_ours import Texts
from benchmarks.text_peers import generate, own_loss, peft_targets
from benchmarks.world import Shape, World, build_model

SHAPE = Shape(hidden=32, layers=2, heads=4, feed_forward=48, vocabulary=400, positions=512)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny model, and our own rows in RTE's columns."""
    folder = tmp_path_factory.mktemp("benchmarks")
    rows = [
        {"sentence1": f"a cat and {i} dogs sat {'there ' * (i % 5)}.", "sentence2": f"{i} dogs sat .", "label": i % 2, "idx": i}
        for i in range(40)
    ]
    data = folder / "data" / "glue" / "rte"
    data.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(data / "train.parquet")
    pd.DataFrame(rows[::-1]).to_parquet(data / "validation.parquet")
    return World(folder, folder / "data", SHAPE, quick=True, turns=2)


def test_weights_and_floors_are_what_torch_counts() -> None:
    model = build_model(SHAPE).eval()
    assert sum(p.numel() for p in model.parameters()) == SHAPE.weights
    model.set_attn_implementation("eager")  # its attention is matrix products, over all pairs whether seen or not
    ids = torch.arange(2, 22)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    all_pairs = 4 * SHAPE.hidden * SHAPE.layers * 20 * 20
    own = floors.forward(SHAPE, [20]).flops
    assert own - floors.attention_flops(SHAPE, [20]) + all_pairs == counter.get_total_flops()
    assert floors.attention_flops(SHAPE, [20]) == 4 * SHAPE.hidden * SHAPE.layers * 210  # 1 + 2 + ... + 20 pairs
    pairs = SHAPE.layers * (1 + 2 + 3) + 7 * (3 * (SHAPE.layers - 1) + 1)  # in the last layer only the answer attends to it
    assert floors.attention_flops(SHAPE, [3], prefix=7) == 4 * SHAPE.hidden * pairs


def test_a_context_encoded_once_needs_what_a_whole_text_does() -> None:
    whole = floors.forward(SHAPE, [12])
    parted = floors.encoding(SHAPE, 9) + floors.forward(SHAPE, [3], prefix=9)
    looks_back = 4 * SHAPE.hidden * 9
    assert parted.flops == whole.flops - 2 * looks_back  # in the last layer only the one of three that is read attends to it


@pytest.mark.parametrize("kind", SIZES)
def test_floors_of_all_kinds_are_what_torch_counts(world: World, kind: str) -> None:
    config = KindWorld.of(world, kind).config
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(2, 52)[None], use_cache=False, logits_to_keep=3)
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    unseen = 2 * (2500 - 50 * 51 // 2)  # of all pairs; the first of two layers may have a window of 32
    unseen += 50 * 51 // 2 - 32 * 33 // 2 - 18 * 32 if kind == "gemma3_text" else 0
    asked = kind_floors.forward(config, [50], counts=[3])
    assert asked.flops + 4 * width * unseen == counter.get_total_flops()
    behind = kind_floors.encoding(config, 40) + kind_floors.forward(config, [10], prefix=40, counts=[3])
    assert behind.flops == asked.flops - 4 * width * 7 * 40  # in the last layer three of ten attend to it
    assert kind_floors.weights(config) <= sum(p.numel() for p in model.parameters() if p.ndim > 1)
    step = kind_floors.lora_step(config, [50, 50], [3, 3]).flops
    assert 1.9 < step / (2 * asked.flops) < 3


def test_writing_reads_the_weights_once_for_each_token_of_a_batch(world: World) -> None:
    config = KindWorld.of(world, "opt").config
    one = kind_floors.writing(config, [5] * 8, 40, 6, 8)
    assert one.flops == kind_floors.forward(config, [10] * 8, 40, counts=[6] * 8).flops
    assert kind_floors.writing(config, [5] * 8, 40, 6, 4).bytes - one.bytes == one.bytes * 5 // 6


def test_training_needs_three_forward_passes() -> None:
    model = build_model(SHAPE).train()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.arange(2, 22)[None], use_cache=False, logits_to_keep=1).logits.sum().backward()
    unseen = 3 * 4 * SHAPE.hidden * SHAPE.layers * (400 - 210)
    assert floors.training(SHAPE, [20], 1).flops + unseen == counter.get_total_flops()


def test_others_give_the_same_scores(world: World) -> None:
    ours = Evaluation.create(world, 4, 10)
    scorer, prompts = ours.scorer, ours.prompts
    scores, whole = ours.score()["token_logprobs"], [prompts.whole(i) for i in range(10)]
    assert len(prompts.prefix) > 20
    for found in (
        whole_prompts(scorer.model, whole, scorer.answers.ids),
        upstream_style(scorer.model, whole, scorer.answers.ids, SHAPE.positions),
    ):
        assert abs(found - scores).max() < 1e-5
    assert scores.std(axis=0).min() > 1e-3  # or agreeing would say nothing


def test_rereading_gives_the_targets_of_the_teacher_pass(world: World) -> None:
    ours = Distillation.create(world, 4, 6, 3)
    found = rereading_teacher(ours).targets(range(6))
    assert torch.allclose(found.logprobs, ours.teacher_pass().logprobs, atol=1e-5)


def test_training_arms_train(world: World) -> None:
    ours = Distillation.create(world, 4, 4, 2, "--learning_rate", 1e-2)
    ours.warm_up()
    target = ours.teacher_pass()
    for train in (ours.fine_tune, lambda: ours.distil(target), lambda: ours.distil_online(rereading_teacher(ours))):
        before = ours.student.model.model.decoder.layers[0].fc1.weight.clone()
        train()
        assert not torch.equal(before, ours.student.model.model.decoder.layers[0].fc1.weight)


@pytest.mark.parametrize("kind", SIZES)
def test_others_say_the_same_of_texts(world: World, kind: str) -> None:
    of_kind = KindWorld.of(world, kind)
    ours = Texts.create(of_kind, 70, 4, "--topk", 20, tokens=6)
    prompts, answers = ours.prompts("teacher"), [row["answer_ids"] for row in ours.queries]
    whole = [prompts.whole(i) for i in range(4)]
    assert 70 <= len(prompts.prefix) < 90  # with what stands between document and queries
    assert {len(answer) for answer in answers} == {6}
    theirs, _ = of_kind.load()
    logprobs = torch.cat([logprobs for logprobs, _ in peft_targets(theirs, whole, answers)])
    torch.testing.assert_close(ours.targets().logprobs[:, :20], logprobs, atol=1e-5, rtol=0)
    assert logprobs.std(0).min() > 1e-4  # or agreeing would say nothing
    assert ours.write() == generate(theirs, whole, 6)


def test_training_arms_on_texts_train(world: World) -> None:
    flags = ("--per_device_train_batch_size", 2, "--learning_rate", 1e-2)
    ours = Texts.create(KindWorld.of(world, "qwen2"), 40, 4, *flags, tokens=6, trains=True)
    targets = ours.targets()
    assert [part.shape for part in ours.any_targets()] == [part.shape for part in targets]
    (weight,) = (p for name, p in ours.student.model.named_parameters() if "layers.1.mlp.down_proj.lora_B" in name)
    for train in (ours.fine_tune, lambda: ours.distil(targets), lambda: ours.whole(2), ours.train_body):
        before = weight.detach().clone()
        train()
        assert not torch.equal(before, weight)
    examples = ours.examples()
    with torch.no_grad():
        loss = own_loss(ours.student.model, examples)
        logits = [ours.student.model(torch.tensor([one["input_ids"]])).logits[0, -6:] for one in examples]
    expected = F.cross_entropy(torch.cat(logits), torch.tensor([token for one in examples for token in one["answer"]]))
    torch.testing.assert_close(loss, expected)


def test_a_part_about_texts_gives_what_its_bounds_are_about(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_generation, "find_spec", lambda name: None)  # lm-eval takes long to import
    monkeypatch.setattr(text_teacher, "KINDS", ("opt",))
    monkeypatch.setattr(results, "copy_rate", lambda: 1e10)
    found = text_generation.measure(replace(world, turns=1))
    assert all(row["floor"] > 0 < row["value"] for row in found["rows"])
    values = found["values"] | {name.replace("opt", "qwen2"): value for name, value in found["values"].items()}
    assert values["qwen2: answers that differ"] == 0
    measured = {one["text"] for one in check_all({"part": {"values": values}}) if one["met"] is not None}
    about = {bound.text for bound in BOUNDS if bound.text.startswith("answers")}
    assert measured == {text for text in about if "lm-evaluation-harness" not in text}


def test_arms_take_turns() -> None:
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert len(times["a"].wall) == len(times["b"].cpu) == 3
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 1.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}


def test_peak_is_seen_though_it_is_gone() -> None:
    def work() -> None:
        with mmap.mmap(-1, 1 << 26) as block:  # not memory that malloc has kept from earlier tests, which is resident already
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1

    found = peak_beyond(work)["beyond"]
    assert 0.9 * (1 << 26) < found < 2 * (1 << 26)


def test_attention_is_clocked_and_the_clock_taken_off(world: World) -> None:
    ours = Evaluation.create(world, 4, 2)
    clocked, seconds = with_attention_clock(ours.scorer.model, ours.score)
    clocked()
    ours.score()
    assert len(seconds) == 1
    assert seconds[0] > 0
    assert not any(module._forward_hooks for module in ours.scorer.model.modules())


def test_bounds_say_pass_fail_and_not_measured() -> None:
    values = {"memory: ours": 4.0, "memory: upstream": 10.0, "exponent of queries": 2}
    checked = {found["text"]: found for found in check_all({"memory": {"values": values}})}
    assert len(checked) == len(BOUNDS)
    assert checked["memory: 16 shots over upstream style"]["met"] is True
    assert checked["100 to 10000 queries: time grows with the power"]["met"] is False
    assert checked["distill.py --help over a bare parser"]["met"] is None
    parts = {"ours": 5.0, "body": 2.0, "ours_64": 10.0, "body_64": 6.5}
    values = {f"text memory: {item}": value for item, value in parts.items()}
    values |= {f"wall: {kind} 2000: peft over targets": {"median": found} for kind, found in (("opt", 30), ("qwen2", 19))}
    checked = {found["text"]: found for found in check_all({"text": {"values": values}})}
    assert checked["texts, memory but for activations: 64 answers a step over 16"]["found"]["median"] == pytest.approx(
        (10 - (6.5 - 2)) / 5
    )
    assert checked["targets of 64 texts behind 2000 tokens: PEFT's way takes, times llmft's time"]["met"] is False


def test_whole_run_and_its_readme(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUICK", SHAPE)
    arguments = [
        "--quick",
        "--turns",
        "1",
        "--only",
        "in_context,windows",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
        "--data_dir",
    ]
    assert command.main([*arguments, str(world.data_dir)]) == 0
    printed = capsys.readouterr().out
    assert "pass" in printed
    assert "not measured" in printed
    (path,) = tmp_path.glob("*.json")
    results = json.loads(path.read_text())
    assert all(row["floor"] > 0 for part in ("in_context", "windows") for row in results["parts"][part]["rows"])
    assert results["parts"]["windows"]["values"]["scores: windows"] < 1e-5
    assert results["parts"]["windows"]["tokens"]["context"] > SMALL["sliding_window"]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme(readme, [results, results])
    parts = readme.read_text().split("\n\n" + tables(results))
    assert (parts[0], parts[1]) == (f"before\n{BEGIN}", "")
    missing = "; ".join(bound["text"] for bound in results["bounds"] if bound["met"] is None)
    assert parts[2] == f"\n\nNot measured: {missing}.\n\n{END}\nafter\n"
    assert "| in-context | llmft, 16 shots |" in readme.read_text()
    results["bounds"][0]["limit"] = "a limit of another day"
    path.write_text(json.dumps(results))
    assert command.main(["--from_file", str(path)]) == 0
    assert "another day" not in capsys.readouterr().out
    text = path.read_text()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text


def test_missing_data_are_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--data_dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: --data_dir: ")
