"""Where the logging services of `--report_to` write their logs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmft.arguments.run import RunArguments


@contextmanager
def reporting(run: RunArguments, folder: Path) -> Iterator[None]:
    """Context manager: sets the environment variables from which the Trainer's callbacks for the services read their settings.

    TensorBoard's files go to `<folder>/tensorboard`, unless $TENSORBOARD_LOGGING_DIR is set: the default would be the folder of
    checkpoints, which is removed at the end.

    Args:
        run: `report_to`, and the `wandb_` arguments.
        folder: the run's folder.
    """
    settings: dict[str, str | None] = {}
    if "tensorboard" in run.report_to:
        settings["TENSORBOARD_LOGGING_DIR"] = os.environ.get("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    if "wandb" in run.report_to:
        settings |= {
            "WANDB_PROJECT": run.wandb_project_name,
            "WANDB_RUN_GROUP": run.wandb_group_name,
            "WANDB_NAME": run.wandb_run_name,
            "WANDB_DIR": run.wandb_output_dir,
        }
    before = dict(os.environ)
    os.environ.update({name: value for name, value in settings.items() if value is not None})
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
