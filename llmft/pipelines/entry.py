"""The start of a script. Nothing heavy is imported before it is known that there is something to do."""

from __future__ import annotations

import warnings
from importlib import import_module

from llmft.runs.finished import process_command


def run_script(pipeline: str) -> None:
    """Run a pipeline with the process's command line, unless that run is finished, and exit.

    Args:
        pipeline: name of its module.
    """
    command = process_command()
    if command.finished():
        return
    from llmft.cost.meter import process_meter

    process_meter().open()  # before the slow imports
    from llmft.runs.program import run_main

    main = import_module(f"llmft.pipelines.{pipeline}").main
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # raised by peft's calls, not by ours
    run_main(lambda: command.keep(main()))
