"""The embedded free-text world: documents of invented facts with questions (`world`), a small model that answers them in words
when it has the document before it (`checkpoint/`, an ordinary Hugging Face directory) and the command that made it
(`python -m llmft.worlds.notes.pretrain`).
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
