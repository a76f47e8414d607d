"""Metrics of labels: predictions and references are numbers of labels."""
