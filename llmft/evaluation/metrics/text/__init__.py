"""Metrics of text answers: predictions are texts, references lists of accepted texts; the best match counts."""
