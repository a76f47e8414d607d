"""The start of a script. Nothing heavy is imported before it is known that there is something to do."""

from __future__ import annotations

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
    from llmft.pipelines.process import run_main

    run_main(import_module(f"llmft.pipelines.{pipeline}").main, command)
