"""The ensemble of decoders against transformers' GPT-2, and what it can see."""

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from llmft.worlds.regression.model import TOKENS, Regressors, RegressorShape, as_tokens


def an_ensemble(tokens, members=2):
    """Members of different weights, none of them 0 or 1."""
    model = Regressors(RegressorShape(3, 5, layers=2, heads=4, width=16, tokens=tokens), members, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def sequences(members=2):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(7, 5, 3, generator=generator), torch.randn(members, 7, 5, generator=generator)


def gpt2_of(model, member):
    """transformers' model with the weights of a member; its Conv1D has them the other way round."""
    shape, length = model.shape, model.positions.shape[1]
    config = GPT2Config(
        vocab_size=1, n_positions=length, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads, bos_token_id=0,
        eos_token_id=0, activation_function="gelu_pytorch_tanh",
    )  # fmt: skip
    gpt2 = GPT2Model(config).eval()
    names = {
        "attention_norm": "ln_1", "mlp_norm": "ln_2", "qkv": "attn.c_attn", "attention_out": "attn.c_proj",
        "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj",
    }  # fmt: skip
    with torch.no_grad():
        for ours, theirs in [
            (model.norm, gpt2.ln_f),
            *(
                (block.get_submodule(name), layer.get_submodule(other))
                for block, layer in zip(model.blocks, gpt2.h, strict=True)
                for name, other in names.items()
            ),
        ]:
            theirs.weight.copy_(ours.weight[member].mT if ours.weight.ndim == 3 else ours.weight[member])
            theirs.bias.copy_(ours.bias[member].flatten())
        gpt2.wpe.weight.copy_(model.positions[member])
    return gpt2


@pytest.mark.parametrize("tokens", TOKENS)
@torch.no_grad()
def test_each_member_is_gpt2(tokens):
    model, (x, labels) = an_ensemble(tokens), sequences()
    predictions = model(x, labels)
    read = as_tokens(x.expand(2, *x.shape), labels, tokens)
    for member in range(2):
        hidden = gpt2_of(model, member)(inputs_embeds=read[member] @ model.read_in[member].T).last_hidden_state
        expected = (hidden @ model.read_out[member, 0])[:, :: model.shape.tokens_per_example]
        torch.testing.assert_close(predictions[member], expected, atol=1e-5, rtol=1e-5)
    assert (predictions[0] - predictions[1]).abs().max() > 0.01


@pytest.mark.parametrize("tokens", TOKENS)
@torch.no_grad()
def test_a_prediction_depends_on_all_examples_before_it_and_on_nothing_after(tokens):
    model, (x, labels) = an_ensemble(tokens, 1), sequences(1)
    before = model(x, labels)
    for k in range(5):
        other_labels, other_x = labels.clone(), x.clone()
        other_labels[:, :, k] += 1
        other_x[:, k] += 1
        changed = (model(x, other_labels) != before).any(1)[0]
        assert changed.tolist() == [later > k for later in range(5)]
        assert (model(other_x, labels) != before).any(1)[0].tolist() == [later >= k for later in range(5)]
    torch.testing.assert_close(model(x[:, :2], labels[:, :, :2]), before[:, :, :2])  # shorter sequences are read, too


def test_the_papers_tokens_written_out():
    x, labels = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[5.0, 6.0]]])
    assert as_tokens(x, labels, "paper").tolist() == [[[[0, 1, 2], [5, 0, 0], [0, 3, 4], [6, 0, 0]]]]
    assert as_tokens(x, labels, "paired").tolist() == [[[[0, 1, 2], [5, 1, 2], [0, 3, 4], [6, 3, 4]]]]
    assert as_tokens(x, labels, "compact").tolist() == [[[[0, 0, 0, 1, 2], [5, 1, 2, 3, 4]]]]


def test_members_start_alike_and_copies_are_their_own():
    model = Regressors(RegressorShape(4, 8, init_std=0.08), 3, seed=5)
    for name, weight in model.state_dict().items():
        assert (weight == weight[:1]).all(), name
    assert model.blocks[0].qkv.weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert model.blocks[0].mlp_out.weight.std().item() == pytest.approx(0.08 / 6**0.5, rel=0.05)
    assert model.read_in.std().item() == pytest.approx(0.5, rel=0.1)
    assert len(model.kernels()) == 4 * 3
    different = an_ensemble("compact")
    copies = different.copies(2)
    assert copies.members == 4 and torch.equal(copies.read_in[1], different.read_in[0])
    assert torch.equal(copies.read_in[2], different.read_in[1])
    with torch.no_grad():
        copies.read_in += 1
    assert not torch.equal(copies.read_in[2], different.read_in[1])
