"""What pretraining of all worlds shares: the optimizer, the schedule, the folder it ends in, flags."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.worlds.muon import Muon, orthogonalize
from llmft.worlds.nli import pretrain as nli_pretrain
from llmft.worlds.nli.model import SIZES, build_model
from llmft.worlds.nli.tokenizer import build_tokenizer
from llmft.worlds.notes import pretrain as notes_pretrain
from llmft.worlds.notes.model import SIZE, build_notes_model
from llmft.worlds.notes.tokenizer import build_notes_tokenizer
from llmft.worlds.pretraining import rate_factor, save_checkpoint


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


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ orthogonalize(matrices) @ right.mT
    values = turned.diagonal(dim1=1, dim2=2)
    assert ((values > 0.6) & (values < 1.3)).all()
    torch.testing.assert_close(turned, torch.diag_embed(values), atol=1e-4, rtol=0)


def test_the_rate_warms_up_stays_and_falls():
    factors = [rate_factor(step, 1000) for step in (0, 49, 99, 500, 600, 800, 999)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.03])


@pytest.mark.parametrize("world", ["nli", "notes"])
def test_the_checkpoint_is_an_ordinary_directory_and_appears_whole(tmp_path, monkeypatch, world):
    model = build_model(SIZES["small"], 0) if world == "nli" else build_notes_model(SIZE, 0)
    tokenizer = build_tokenizer() if world == "nli" else build_notes_tokenizer()
    place = tmp_path / "new" / "toy"
    save_checkpoint(model, tokenizer, place, {"seed": 0})
    loaded = AutoModelForCausalLM.from_pretrained(place)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert loaded.dtype == torch.float32 and loaded.config.max_position_embeddings >= 448
    assert len(AutoTokenizer.from_pretrained(place)) == loaded.config.vocab_size
    assert json.loads((place / "pretraining.json").read_text()) == {"seed": 0}
    assert len({file.stat().st_mode for file in place.iterdir()}) == 1  # who reads one reads the weights
    with pytest.raises(OSError, match="not empty"):  # one that has appeared in the meantime stays
        save_checkpoint(model, tokenizer, place, {"seed": 1})
    assert json.loads((place / "pretraining.json").read_text()) == {"seed": 0}
    monkeypatch.setattr(model, "save_pretrained", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        save_checkpoint(model, tokenizer, tmp_path / "other", {})
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("command", [nli_pretrain.main, notes_pretrain.main])
@pytest.mark.parametrize("flags", [["--output_dir", "{existing}"], ["--output_dir", "{existing}/file/model"], []])
def test_without_a_new_output_dir_it_ends_with_status_2_and_a_line_that_names_the_flag(tmp_path, capsys, command, flags):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        command([flag.format(existing=tmp_path) for flag in flags])
    assert exit_.value.code == 2
    assert "--output_dir" in capsys.readouterr().err.splitlines()[-1]
