"""The pretraining script: what episodes contain, the optimizer, a smoke run that repeats bit by bit, files, flags."""

import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.worlds.muon import Muon, orthogonalize
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


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (8, 16)])
def test_muon_is_the_muon_of_torch(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizers = Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()  # theirs rounds to bfloat16


def test_orthogonalized_matrices_keep_their_singular_vectors():
    matrices = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert ((values > 0.6) & (values < 1.3)).all()


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


def test_the_checkpoint_is_an_ordinary_directory_and_appears_whole(tmp_path, monkeypatch):
    model = build_model(SIZES["small"], 0)
    pretrain.save_checkpoint(model, tmp_path / "new" / "toy", {"seed": 0})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "toy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new" / "toy")
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert loaded.dtype == torch.float32 and loaded.config.max_position_embeddings >= 448
    assert len(tokenizer) == loaded.config.vocab_size
    assert json.loads((tmp_path / "new" / "toy" / "pretraining.json").read_text()) == {"seed": 0}
    assert len({file.stat().st_mode for file in (tmp_path / "new" / "toy").iterdir()}) == 1  # who reads one reads the weights
    with pytest.raises(OSError, match="not empty"):  # one that has appeared in the meantime stays
        pretrain.save_checkpoint(model, tmp_path / "new" / "toy", {"seed": 1})
    assert json.loads((tmp_path / "new" / "toy" / "pretraining.json").read_text()) == {"seed": 0}
    monkeypatch.setattr(model, "save_pretrained", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        pretrain.save_checkpoint(model, tmp_path / "other", {})
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--output_dir", "{new}", "--num_pretraining_tasks", "11"], "--num_pretraining_tasks 11"),
        (["--output_dir", "{existing}"], "--output_dir"),
        (["--output_dir", "{new}", "--size", "huge"], "--size"),
        ([], "--output_dir"),
    ],
)
def test_bad_flags_end_with_status_2_and_a_line_that_names_them(tmp_path, capsys, flags, named):
    places = {"new": tmp_path / "new", "existing": tmp_path}
    with pytest.raises(SystemExit) as exit_:
        pretrain.main([flag.format(**places) for flag in flags])
    assert exit_.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
