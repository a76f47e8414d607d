"""Learning rate and epochs for the shipped checkpoint, by trained part."""

from llmft.arguments.training_defaults import Defaults, TrainingDefaults

NOTES_TRAINING: Defaults = {
    part: TrainingDefaults(learning_rate, most_epochs=30)
    for part, learning_rate in {
        None: 1e-3,
        "head_only": 3e-2,
        "bitfit": 1e-2,
        "lora": 3e-3,
        "ia3": 3e-2,
        "parallel": 1e-2,
        "parallel-attn": 1e-2,
        "parallel-fc": 1e-2,
        "soft_prompt": 1e-2,
        "cartridge": 3e-3,
    }.items()
}
"""Used in both fine-tuning and distillation."""
