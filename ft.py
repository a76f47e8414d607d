"""Entry script of `llmft.pipelines.fine_tune`; `python ft.py --help` lists the arguments."""

from llmft.pipelines.prepare import run_main

if __name__ == "__main__":
    from llmft.pipelines.fine_tune import main

    run_main(main)
