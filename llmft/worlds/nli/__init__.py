"""The embedded toy task: a world of templated sentence pairs (`world`), a small model that learns it in context
(`checkpoint/`, an ordinary Hugging Face directory) and the command that made it (`python -m llmft.worlds.nli.pretrain`).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
