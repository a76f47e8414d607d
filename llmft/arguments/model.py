"""Which model, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from llmft.arguments.checks import Checked
from llmft.arguments.flags import flag
from llmft.errors import InputError


@dataclass
class ModelArguments(Checked):
    """Which model, and how it is loaded."""

    _argument_group_name = "model"

    model_name_or_path: str | None = flag(
        "Hub name, folder, or `toy` (included in the package); default: the task's own.", kind="path"
    )
    model_revision: str = flag("Branch, tag or commit of a hub model.", "main")
    cache_dir: str | None = flag("Where hub models are cached.", kind="folder")
    torch_dtype: str | None = flag(
        "Precision of the weights (`auto`: as stored); default: float32; in eval.py the precision of --fp16 or --bf16.",
        choices=["float32", "bfloat16", "float16", "auto"],
    )
    attn_implementation: str | None = flag(
        "Attention implementation of transformers (sdpa, eager, ...); default: its own choice."
    )
    tokenizer_name: str | None = flag(
        "Hub name or folder of the tokenizer; default: the model's own.", kind="path", names_run=True
    )
    gguf_file: str | None = flag(
        "Name of a .gguf file in the model's folder to load the weights from.", kind="path", names_run=True
    )
    trust_remote_code: bool = flag("Run code that comes with the model.", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "/" in (self.attn_implementation or "") and not self.trust_remote_code:
            raise InputError(
                f"--attn_implementation {self.attn_implementation}: is code from the hub; add --trust_remote_code if you trust it"
            )
