"""Metrics of requests without a right answer: predictions are texts, references lists of rules (`Rule.as_text`)."""
