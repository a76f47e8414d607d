"""Entry script of `llmft.pipelines.fine_tune`; `python ft.py --help` lists the arguments."""

from llmft.pipelines.entry import run_script

if __name__ == "__main__":
    run_script("fine_tune")
