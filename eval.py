"""Entry script of `llmft.pipelines.in_context`; `python eval.py --help` lists the arguments."""

from llmft.pipelines.entry import run_script

if __name__ == "__main__":
    run_script("in_context")
