"""Entry script of `llmft.pipelines.distill`; `python distill.py --help` lists the arguments."""

from llmft.pipelines.entry import run_script

if __name__ == "__main__":
    run_script("distill")
