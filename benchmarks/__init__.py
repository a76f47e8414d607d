"""What the speed and memory of llmft rest on, measured beside what others do: `make bench`."""
