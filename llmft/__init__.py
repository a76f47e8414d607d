"""llmft: few-shot fine-tuning, in-context learning and context distillation of decoder language models, side by side."""

__version__ = "0.1.0"
