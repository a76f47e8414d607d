"""Metrics of answers in words: predictions are texts, references lists of accepted texts, of which the best one counts."""
