"""The tokenizer of the toy world: one token per word, one for a blank line, and `</s>` before every text as in OPT."""

from typing import TYPE_CHECKING

from llmft.worlds.nli import grammar
from llmft.worlds.nli.world import LABEL_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS = 1, 2  # the ids OPT gives them; `</s>` opens a text and would end one
POSITIONS = 448  # the most tokens that a model of this world reads
BLANK_LINE = "\n\n"
VOCABULARY = (
    *("<s>", "<pad>", "</s>", "<unk>"),
    *LABEL_WORDS,
    BLANK_LINE,
    *grammar.FUNCTION_WORDS,
    *("means", "label"),
    *grammar.RULES,
    *grammar.ADJECTIVES,
    *grammar.PREPOSITIONS,
    *grammar.KNOWN.words,
    *grammar.UNSEEN.words,
)
ID = {word: i for i, word in enumerate(VOCABULARY)}


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A fast tokenizer that `save_pretrained` writes as an ordinary `tokenizer.json`; other words become `<unk>`.

    Spaces only separate: " Yes" and "Yes" are the same token, and a query with its label is a prefix of its demonstration.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n\n|[^ \n]+"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", BOS)])
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **special)
