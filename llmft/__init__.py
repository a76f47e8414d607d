"""llmft: few-shot fine-tuning, in-context learning and context distillation of decoder language models, side by side.

`in_context`, `fine_tune` and `distill` are the three methods as functions (`llmft.pipelines.functions`); `PromptFormat`,
`ChatFormat`, `AdapterArguments` and `Objective` are their arguments, and `load_model` loads a model and its tokenizer.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

PLACES = {
    "in_context": "llmft.pipelines.functions",
    "fine_tune": "llmft.pipelines.functions",
    "distill": "llmft.pipelines.functions",
    "PromptFormat": "llmft.prompts.render",
    "ChatFormat": "llmft.prompts.chat",
    "AdapterArguments": "llmft.arguments.methods",
    "Objective": "llmft.arguments.objective",
    "load_model": "llmft.models.load",
}
"""Name -> its module, imported on first use: importing torch takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
