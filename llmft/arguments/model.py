"""Which model, and how it is held."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError


@dataclass
class ModelArguments(Checked):
    """Which model, and how it is held."""

    _argument_group_name = "model"

    model_name_or_path: str | None = flag("Hub name, folder, or `toy` (in the package); default: the task's own.", kind="path")
    model_revision: str = flag("Branch, tag or commit of a hub model.", "main")
    cache_dir: str | None = flag("Where hub models are kept.", kind="folder")
    torch_dtype: str | None = flag(
        "Precision of the weights (`auto`: as stored); default: float32, in eval.py the precision that --fp16 or --bf16 name.",
        choices=["float32", "bfloat16", "float16", "auto"],
    )
    attn_implementation: str | None = flag("Attention as transformers names it (sdpa, eager, ...); default: its choice.")
    tokenizer_name: str | None = flag(
        "Hub name or folder of the tokenizer; default: the model's own.", kind="path", names_run=True
    )
    gguf_file: str | None = flag(
        "Name of a .gguf file within the model's folder, whose weights are to be used.", kind="path", names_run=True
    )
    trust_remote_code: bool = flag("Run code that comes with the model.", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "/" in (self.attn_implementation or "") and not self.trust_remote_code:
            raise InputError(
                f"--attn_implementation {self.attn_implementation}: is code from the hub; add --trust_remote_code if you trust it"
            )
