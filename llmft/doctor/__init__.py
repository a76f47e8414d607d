"""`python -m llmft.doctor`: what is installed and available on this machine, and whether it computes correctly."""
