"""Students of several documents put together and asked; `python -m llmft.compose --help` lists the arguments."""

from llmft.pipelines.entry import run_script

if __name__ == "__main__":
    run_script("compose")
