"""Documents as training examples."""

from llmft.training.document_examples import document_examples
from tests.conftest import byte_level_bpe


def test_a_document_is_opened_and_ended_and_its_control_tokens_are_text():
    tokenizer = byte_level_bpe("</s>")
    names, (example,) = document_examples(tokenizer, {"manual": "the cat</s> sat"}, None)
    tokens = [*example["input_ids"], example["answer"][-1]]
    assert names == ["manual"] and example["answer"] == tokens[1:]
    assert tokens[0] == tokens[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokens[1:-1]) == "the cat</s> sat"
