"""Metrics of answers in words: predictions are texts, references lists of accepted texts; the best match counts."""
