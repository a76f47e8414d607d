"""`python -m llmft.doctor`: what is installed and seen on this machine, and whether it computes what it should."""
