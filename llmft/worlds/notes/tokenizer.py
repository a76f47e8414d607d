"""The tokenizer of the notes world: one token per word, punctuation mark or blank line, and `<s>` before every text."""

import re
from typing import TYPE_CHECKING

from llmft.worlds.notes import grammar
from llmft.worlds.notes.world import PATTERN, SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
POSITIONS = 768  # the most tokens that a model of this world reads
TOKEN = r"\n\n|[.,?]|[^\s.,?]+"


def split_words(text: str) -> list[str]:
    """The tokens of a text, without special ones."""
    return re.findall(TOKEN, text)


def _texts() -> list[str]:
    """Texts that together contain every word of the world."""
    pools = [grammar.NAMES, grammar.TYPES, *(pool for attribute in grammar.ATTRIBUTES for pool in attribute.slots)]
    frames = [PATTERN, SEPARATOR, grammar.NOT_STATED, "The the and", *grammar.OPENERS, *grammar.REVERSE_FRAMES]
    for attribute in grammar.ATTRIBUTES:
        frames += [*attribute.statements, *attribute.questions, attribute.reverse]
    return [re.sub(r"\{\w+\}", " ", frame) for frame in frames] + [" ".join(pool) for pool in pools]


VOCABULARY = tuple(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *split_words(" ".join(_texts()))]))
ID = {word: i for i, word in enumerate(VOCABULARY)}


def build_notes_tokenizer() -> "PreTrainedTokenizerFast":
    """A fast tokenizer that `save_pretrained` writes as an ordinary `tokenizer.json`; other words become `<unk>`.

    Spaces only separate: " plum" and "plum" are the same token, and a query with its answer is a prefix of its demonstration.
        Decoding joins words by spaces, with none before a punctuation mark.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **special)
