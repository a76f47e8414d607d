"""Entry script of `llmft.pipelines.distill`; `python distill.py --help` lists the arguments."""

from llmft.runs.finished import Command

if __name__ == "__main__" and not (command := Command.seen()).finished():
    from llmft.cost.meter import process_meter

    process_meter().open()  # before what takes long to import

    from llmft.pipelines.distill import main
    from llmft.pipelines.process import run_main

    run_main(main, command)
