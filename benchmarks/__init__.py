"""Measures the speed and memory of llmft, and of other tools for comparison: `make bench`."""
