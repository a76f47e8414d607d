"""Entry script of `llmft.pipelines.in_context`; `python eval.py --help` lists the arguments."""

from llmft.pipelines.prepare import run_main

if __name__ == "__main__":
    from llmft.pipelines.in_context import main

    run_main(main)
