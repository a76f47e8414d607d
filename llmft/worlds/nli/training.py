"""Learning rate and epochs for the shipped checkpoint: it is so small that it needs larger rates than a language model."""

from llmft.arguments.training_defaults import QUERIES_SEEN, Defaults, TrainingDefaults

TOY_TRAINING: Defaults = {
    part: TrainingDefaults(learning_rate, QUERIES_SEEN, most_epochs=100)
    for part, learning_rate in {
        None: 3e-4,
        "head_only": 3e-2,
        "bitfit": 3e-3,
        "lora": 1e-3,
        "ia3": 1e-2,
        "parallel": 1e-2,
        "parallel-attn": 1e-2,
        "parallel-fc": 1e-2,
        "soft_prompt": 1e-2,
        "cartridge": 1e-3,
    }.items()
}
"""Used in both fine-tuning and distillation; the search is in docs/defaults.md."""
