"""Effects of training on a document elsewhere: reported in every run with text answers, and kept small on request."""

import json
import random

import pytest

from llmft.arguments.objective import Objective
from llmft.distillation.trainer import Retained
from llmft.errors import InputError
from llmft.evaluation.elsewhere import abstains, contaminating, names_in, unanswerable
from llmft.report.__main__ import main
from llmft.tasks.table import TASKS
from llmft.tasks.unrelated import UNRELATED, unrelated_rows
from llmft.worlds.notes.tokenizer import BOS
from llmft.worlds.notes.world import draw_notes, draw_unrelated, notes_documents, notes_unrelated
from tests.pipelines.conftest import IN_DOMAIN, run
from tests.pipelines.test_text_runs import SHORT

NAME = "notes"
LEARNING = (
    *(word for word in SHORT if word not in IN_DOMAIN),
    *("--max_train_samples", 32, "--num_train_epochs", 4, "--per_device_train_batch_size", 8),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def plain(folder):
    return run("distill.py", folder, *LEARNING)


def lines(record):
    return [json.loads(line) for line in (record.path / "elsewhere.jsonl").read_text().splitlines()]


def test_a_record_says_how_far_a_student_is_from_the_model_before_where_nobody_asked_it_to_change(plain, capsys):
    metrics, answers = plain.metrics, lines(plain)
    kl = {stage: of[NAME] for stage, of in metrics["off_context_kl"].items()}
    assert set(kl) == {"teacher", "after"} and min(kl.values()) > 0
    assert [line["prompt"] for line in answers] == notes_unrelated(None, 0)
    (document,) = notes_documents(None, 0).values()
    for stage, of in metrics["contamination"].items():
        named = [line for line in answers if line["names"][stage]]
        assert of[NAME] == pytest.approx(len(named) / 50)
        assert all(name in document and name not in line["prompt"] for line in named for name in line["names"][stage])
    assert metrics["contamination"]["before"][NAME] == 0
    rows = plain.predictions.query("target == 'not stated'")
    for stage, of in metrics["abstention"].items():
        assert of[NAME] == pytest.approx((rows[rows["stage"] == stage]["prediction"] == "not stated").mean())
    assert metrics["abstention"]["before"][NAME] == metrics["false_abstention"]["before"][NAME] == 1  # it knows nothing
    for stage in ("before", "teacher", "after"):
        asked, judged = (plain.phases[f"{kind} {stage} elsewhere"] for kind in ("evaluate", "reference"))
        assert asked["examples"] >= 50 and asked["tokens"] > asked["examples"] and judged["tokens"] > 0
    main(["show", str(plain.path)])
    assert f"elsewhere, after: KL from the original model {kl['after']:.3f}" in capsys.readouterr().out


def test_a_part_of_the_loss_keeps_the_student_as_it_was_elsewhere(folder, plain):
    prompts = draw_unrelated(random.Random("to retain"), draw_notes(0)[0], 60)
    prompts = [prompt for prompt in prompts if prompt not in notes_unrelated(None, 0)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"query": prompt}) + "\n" for prompt in prompts))
    keeping = run("distill.py", folder, *LEARNING, "--retain_weight", 0.3, "--retain_file", folder / "prompts.jsonl")
    assert keeping.metrics["off_context_kl"]["after"][NAME] < plain.metrics["off_context_kl"]["after"][NAME] / 2
    assert keeping.metrics["kl"]["after"][NAME] < keeping.metrics["kl"]["before"][NAME] / 2
    assert keeping.metrics["kl"]["before"] == plain.metrics["kl"]["before"]
    assert keeping.phases["train"]["tokens"] > plain.phases["train"]["tokens"]
    assert keeping.phases["train"]["examples"] == plain.phases["train"]["examples"]


def test_prompts_to_keep_are_drawn_by_the_seed_and_no_more_than_training_reads(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"query": "Who?" + " mill" * i**2}) + "\n" for i in range(20)))
    flags = ("--task", "notes", "--max_train_samples", 4, "--num_train_epochs", 2, "--max_eval_samples", 2, *IN_DOMAIN)
    flags += ("--retain_weight", 0.3, "--retain_file", tmp_path / "prompts.jsonl", "--no_evaluate_elsewhere")
    records = [run("distill.py", tmp_path / "out", *flags, "--seed", seed) for seed in (0, 1)]
    assert capsys.readouterr().err.count("training reads at most 2 of its 20 prompts, which --seed draws") == 2
    assert records[0].phases["retain"]["tokens"] != records[1].phases["retain"]["tokens"]  # each prompt has its own length


def test_with_a_cartridge_prompts_to_keep_begin_as_all_its_prompts_do_and_leave_it_room(tmp_path, monkeypatch):
    kept = []

    def keep(*fields):
        kept.append(Retained(*fields))
        return kept[-1]

    monkeypatch.setattr("llmft.distillation.trainer.Retained", keep)
    flags = (
        "--task",
        "notes",
        "--use_cartridge",
        "--max_steps",
        1,
        "--max_train_samples",
        4,
        "--max_eval_samples",
        2,
        *IN_DOMAIN,
    )
    flags += ("--retain_weight", 0.3, "--retain_file", tmp_path / "prompts.jsonl", "--no_evaluate_elsewhere")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"query": "Who?"}) + "\n")
    run("distill.py", tmp_path / "out", *flags)
    assert kept[0].examples[0]["input_ids"][0] != BOS  # the context, which is the cartridge now, had it
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"query": "Who?" + " mill" * 600}) + "\n")
    with pytest.raises(InputError, match=r"^--cartridge_tokens \d+: with them the longest prompt has 8\d\d tokens"):
        run("distill.py", tmp_path / "out", *flags)


def test_all_prompts_are_read_before_any_again_and_each_time_in_another_order():
    kept = Retained(0.1, [{"place": i} for i in range(6)], Objective(), seed=3)
    read = [row["place"] for row in kept.rows(range(24))]
    turns = [read[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(turn) == [*range(6)] for turn in turns) and len({*map(tuple, turns)}) == 4
    assert [row["place"] for row in kept.rows(range(9, 15))] == read[9:15]


@pytest.mark.parametrize(
    ("flags", "read"),
    [
        ("--num_train_epochs 2", 6),
        ("--num_train_epochs 0.5 --gradient_accumulation_steps 2", 2),
        ("--num_train_epochs 2 --gradient_accumulation_steps 2", 6),
        ("--max_steps 3 --gradient_accumulation_steps 2", 5),
        ("--num_train_epochs 1 --per_device_train_batch_size 1 --gradient_accumulation_steps 5", 5),  # two for five, one for two
    ],
)
def test_as_many_prompts_are_kept_as_training_reads(tmp_path, monkeypatch, flags, read):
    numbers = []
    rows = Retained.rows
    monkeypatch.setattr(
        Retained, "rows", lambda kept, some: rows(kept, [numbers.append((len(kept.examples), n)) or n for n in some])
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"query": f"Who is {i}?"}) + "\n" for i in range(20)))
    words = (
        "--task",
        "notes",
        "--max_train_samples",
        12,
        "--max_eval_samples",
        2,
        "--per_device_train_batch_size",
        4,
        *IN_DOMAIN,
    )
    words += ("--retain_weight", 0.3, "--retain_file", tmp_path / "prompts.jsonl", "--no_evaluate_elsewhere", *flags.split())
    run("distill.py", tmp_path / "out", *words)
    assert numbers == [(read, number) for number in range(read)]


def test_fifty_prompts_of_many_kinds_and_of_the_notes_none_that_the_document_speaks_of():
    assert len(set(UNRELATED)) == 50 == len(unrelated_rows(TASKS["questions"], None, 0))
    for seed in range(40):
        document, prompts = draw_notes(seed)[0], notes_unrelated(None, seed)
        assert len(set(prompts)) == 50
        assert not [prompt for prompt in prompts for place in document.places if place.name in prompt]
        assert len(set(prompts) & set(notes_unrelated(None, seed + 1))) > 35


def test_names_and_abstentions_are_told_from_other_words():
    names = names_in(["The Kelwick mill was founded by Ada Finch in 1843. Today it has 7 wheels. As people say, Olga likes it."])
    assert names == {"Kelwick", "Ada", "Finch", "1843", "Olga"}
    assert contaminating("Ada, in 1843.", "Who is Ada?", names) == ["1843"]
    assert contaminating("Adaptation", "", names) == []
    assert abstains("The text does not say; it is not stated.") and abstains("I don’t know.") and not abstains("Stated: yes")
    assert unanswerable(("Not stated.",)) and not unanswerable(("the Tomb of the Unknown Soldier",))
