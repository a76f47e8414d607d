"""Prompts that are unrelated to any document, to measure how a model has changed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from llmft.tasks.schema import Row, Task

UNRELATED = (
    "What is the capital of France?",
    "How many days are there in a leap year?",
    "Which planet is closest to the sun?",
    "Who wrote the play about Romeo and Juliet?",
    "What do bees make?",
    "What is the boiling point of water at sea level?",
    "Which ocean lies between Europe and North America?",
    "What is seven times eight?",
    "If I have twelve eggs and use five, how many are left?",
    "A train leaves at nine and arrives at half past eleven. How long does it travel?",
    "What is the square root of 81?",
    "Is 17 a prime number?",
    "What is the opposite of hot?",
    "Give a word that rhymes with light.",
    "What is the plural of mouse?",
    "Translate 'good morning' into Spanish.",
    "Translate 'thank you very much' into German.",
    "How do you say 'water' in Italian?",
    "Correct the sentence: He go to school every day.",
    "Make this sentence polite: Close the window.",
    "Put these words in order: the / sleeps / on / cat / sofa / the.",
    "Summarise in one sentence: It rained all week, so the match was moved to Sunday.",
    "Is this review positive or negative: The food was cold and the waiter was rude.",
    "Is this a question or a statement: The shop closes at six.",
    "Name three fruits.",
    "List the colours of the rainbow.",
    "List four things to pack for a day at the beach.",
    "Write a short poem about the wind.",
    "Write the first sentence of a story about a lost key.",
    "Write a birthday wish for a colleague.",
    "Write a short message to cancel a dentist's appointment.",
    "Write a Python function that returns the larger of two numbers.",
    "Write a Python loop that prints the numbers from 1 to 10.",
    "What does this print: print(len('apple'))",
    "Write an SQL query that counts the rows of a table called users.",
    "What is a variable in a computer program?",
    "Explain to a child why the sky is blue.",
    "Explain what a budget is.",
    "Why do leaves fall in autumn?",
    "How does a bicycle stay upright?",
    "How do I boil an egg?",
    "How can I fall asleep faster?",
    "What should I do if my phone gets wet?",
    "Give me one tip for learning a language.",
    "Should I take an umbrella if the forecast says heavy rain?",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "All cats are animals. Tom is a cat. Is Tom an animal?",
    "Anna is taller than Ben, and Ben is taller than Carl. Who is the shortest?",
    "Continue: Once upon a time, in a small village,",
    "Continue the series: 2, 4, 8, 16,",
)
"""Fifty prompts of many kinds. Changing one makes `off_context_kl` incomparable with earlier records."""


def unrelated_rows(task: Task, variant: str | None, data_seed: int) -> list[Row]:
    """The prompts as rows of a task with text answers, without answers: the task's own if its model can read no others."""
    texts: Sequence[str] = UNRELATED if task.unrelated is None else task.unrelated(variant, data_seed)
    empty = {"text2": "", "label": None, "answer": (), "document": None}
    return [{"text1": text, **empty, "idx": f"unrelated-{i}"} for i, text in enumerate(texts)]
