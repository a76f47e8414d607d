from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import OPTConfig, OPTForCausalLM

from llmft.models.reading.batches import DEFAULT_TOKENS, LARGE_MEMORY, MASKED, BatchSize, answer_logits, left_pad


@given(
    st.lists(st.integers(1, 50), max_size=40),
    st.integers(1, 9),
    st.integers(1, 120),
    st.booleans(),
    st.sampled_from(["cpu", "cuda"]),
)
def test_every_query_once_and_no_batch_over_the_limits(lengths, queries, tokens, padded, device):
    batches = BatchSize(queries, tokens).batches(lengths, device, padded=padded)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths)
    for batch in batches:
        taken = [lengths[i] for i in batch]
        assert 1 <= len(batch) <= queries
        assert len(batch) == 1 or (len(batch) * max(taken) if padded else sum(taken)) <= tokens
    for batch, following in pairwise(batches):  # no batch could have held one more
        taken = [lengths[i] for i in [*batch, following[0]]]
        assert len(batch) == queries or (len(taken) * max(taken) if padded else sum(taken)) > tokens


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 9), st.integers(60, 120), st.integers(2, 5))
def test_ranks_get_as_much_as_each_other(lengths, queries, tokens, ranks):
    batches = BatchSize(queries, tokens).batches(lengths, "cpu", padded=True, ranks=ranks)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= queries and len(batch) * max(lengths[i] for i in batch) <= tokens for batch in batches)
    shares = [[i for batch in batches[rank::ranks] for i in batch] for rank in range(ranks)]
    assert [len(share) for share in shares] == [len(lengths[rank::ranks]) for rank in range(ranks)]
    work = [sum(lengths[i] for i in share) for share in shares]
    assert max(work) - min(work) <= max(lengths)


def test_the_default_depends_on_the_device():
    assert BatchSize(8).tokens_on("cpu") == DEFAULT_TOKENS["cpu"]
    assert BatchSize(8).tokens_on("cuda") == LARGE_MEMORY
    assert BatchSize(8).tokens_on("cpu", written=True) > DEFAULT_TOKENS["cpu"]
    assert BatchSize(8, 77).tokens_on("cuda") == BatchSize(8, 77).tokens_on("cpu", written=True) == 77


def test_a_mask_over_the_row_keeps_batches_small():
    assert BatchSize(8).tokens_on("cuda", masked=True) == MASKED < LARGE_MEMORY
    assert BatchSize(8).tokens_on("cpu", masked=True) == DEFAULT_TOKENS["cpu"]
    assert BatchSize(8, 9999).tokens_on("cuda", masked=True) == 9999
    assert len(BatchSize(99).batches([1000] * 8, "cuda", padded=False, masked=True)) == 2


def test_a_model_with_code_of_its_own_may_give_logits_at_all_positions_only():
    class Old(OPTForCausalLM):
        def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
            return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache)

    torch.manual_seed(0)
    config = OPTConfig(hidden_size=8, ffn_dim=8, word_embed_proj_dim=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=20)
    model = Old(config).eval()
    texts = [[5, 6, 7], [8, 9]]
    with torch.no_grad():
        found = answer_logits(model, left_pad(texts))
        for row, text in zip(found, texts, strict=True):
            torch.testing.assert_close(row, model(torch.tensor([text])).logits[0, -1])
