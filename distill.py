"""Entry script of `llmft.pipelines.distill`; `python distill.py --help` lists the arguments."""

from llmft.pipelines.prepare import run_main

if __name__ == "__main__":
    from llmft.pipelines.distill import main

    run_main(main)
