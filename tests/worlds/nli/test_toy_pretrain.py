"""The pretraining script: what episodes contain, a smoke run that repeats bit by bit, flags."""

import random

import numpy as np
import pytest
import torch

from llmft.worlds.nli import grammar, pretrain
from llmft.worlds.nli.episodes import LATENT_TASKS, Pairs, choose_tasks, draw_batch
from llmft.worlds.nli.grammar import RULES
from llmft.worlds.nli.model import SIZES, build_model, redraw_placeholders
from llmft.worlds.nli.scaffold import TargetWeights, copying_targets
from llmft.worlds.nli.tokenizer import BLANK_LINE, BOS, ID, VOCABULARY
from llmft.worlds.nli.world import LABEL_WORDS

TINY = pretrain.Recipe(
    phases=(pretrain.Lesson(4, 24, 2), pretrain.Lesson(2, 64, 2, TargetWeights(copying=0.0, inference=0.0))), num_pairs=500
)


@pytest.fixture(scope="module")
def pairs():
    return Pairs(500, random.Random(0))


def words(ids) -> list[str]:
    return [VOCABULARY[i] for i in ids]


def test_episodes_follow_their_task(pairs):
    batch = draw_batch(random.Random(0), pairs, LATENT_TASKS, 64, 128)
    assert (batch.ids[:, 0] == BOS).all()
    for row in range(64):
        rule, flipped = LATENT_TASKS[batch.task[row]]
        text = words(batch.ids[row])
        assert (text[1:4] == [rule, "means", LABEL_WORDS[flipped]]) == batch.instructed[row]
        queries = np.flatnonzero(batch.answer[row] >= 0)
        assert [at for at, word in enumerate(text) if word == "?"] == list(queries)
        assert list(batch.shot[row, queries]) == list(range(len(queries)))
        for at in queries:
            answer = VOCABULARY[batch.answer[row, at]]
            if batch.plain[row, at]:
                assert answer == ("Yes" if batch.holds[row, at, RULES.index(rule)] != flipped else "No")
            else:
                assert text[at - 2 : at] == ["label", answer]
            assert text[at + 1 : at + 3] == [answer, BLANK_LINE][: 128 - 1 - at]
    assert 0 < batch.instructed.sum() < 64 and not batch.plain[batch.answer >= 0].all()


def test_no_pretraining_premise_is_held_out(pairs):
    for ids in pairs.ids:
        text = words(ids)
        assert not grammar.is_held_out(tuple(text[: text.index(".") + 1]))


@pytest.mark.parametrize("n", [1, 4, 10])
def test_task_diversity_restricts_the_tasks(pairs, n):
    tasks = choose_tasks(n, random.Random(0))
    assert len(set(tasks)) == n and choose_tasks(10, random.Random(1)) == LATENT_TASKS
    batch = draw_batch(random.Random(0), pairs, tasks, 100, 24)
    assert {LATENT_TASKS[task] for task in batch.task} <= set(tasks)


def test_copying_targets_by_hand():
    a, b, blank = ID["kings"], ID["poets"], ID[BLANK_LINE]
    offset, previous = copying_targets(torch.tensor([[BOS, a, b, a, blank, a, b, b]]))
    assert offset.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert previous.tolist() == [[0, 0, 0, 2, 0, 0, 0, 3]]


def test_placeholders_alone_are_redrawn():
    embeddings = build_model(SIZES["small"], 0).get_input_embeddings().weight.detach().clone()
    before = embeddings.clone()
    redraw_placeholders(embeddings, torch.Generator().manual_seed(0))
    changed = {VOCABULARY[i] for i in (embeddings != before).any(dim=1).nonzero()[:, 0]}
    assert changed == set(grammar.UNSEEN.words)


def test_pretraining_runs_and_repeats_to_the_bit():
    seen = []
    (first, tasks), (second, _) = (pretrain.pretrain(TINY, 3, lambda *report: seen.append(report)) for _ in range(2))
    assert tasks == LATENT_TASKS
    assert [step for step, _ in seen] == [1, 2, 3, 4] * 2 and seen[:4] == seen[4:]
    assert all(np.isfinite(means["loss"]) for _, means in seen)
    start, other = build_model(TINY.size, 3).state_dict(), second.state_dict()
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, other[name])
    assert not torch.equal(first.model.decoder.layers[0].fc1.weight, start["model.decoder.layers.0.fc1.weight"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--output_dir", "{new}", "--num_pretraining_tasks", "11"], "--num_pretraining_tasks 11"),
        (["--output_dir", "{new}", "--size", "huge"], "--size"),
    ],
)
def test_bad_flags_end_with_status_2_and_a_line_that_names_them(tmp_path, capsys, flags, named):
    with pytest.raises(SystemExit) as exit_:
        pretrain.main([flag.format(new=tmp_path / "new") for flag in flags])
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
