"""A model writes queries about documents and answers them; `python -m llmft.self_study --help` lists the arguments."""

from llmft.pipelines.entry import run_script

if __name__ == "__main__":
    run_script("self_study")
