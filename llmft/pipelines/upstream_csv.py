"""The csv of in-context learning that uds-lsv/llmft writes, with its columns, for scripts that read it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.errors import InputError, one_line
from llmft.models.load import short_name
from llmft.pipelines.job import Job
from llmft.runs.record import LONGEST_FOLDER, folder_name
from llmft.runs.store import lock, short_hash, whole_file

if TYPE_CHECKING:
    import pandas as pd

    from llmft.evaluation.scorer import Scorer
    from llmft.evaluation.scores import Scores

TIMES = ("_runtime", "_per_second")
"""The suffix of columns of measured times."""
BY_LABEL = {"paws-qqp": ("not-paraphrase", "paraphrase"), "cola-ood": ("unacceptable", "acceptable")}
"""Sets that upstream's eval.py scores label by label, and the names of the parts."""


def upstream_row(job: Job, scorer: Scorer, scores: dict[str, Scores]) -> dict[str, Any]:
    """One row: metrics of every set (those of the in-domain set last, as upstream orders them), then the settings."""
    data, shots, run = job.config.data, job.config.shots, job.config.run
    phases = {phase.set: phase for phase in job.meter.phases if phase.stage == "icl"}
    counts: dict[str, int] = {}
    row: dict[str, Any] = {}
    for name, of_set in scores.items():
        seconds = phases[name].wall_s
        columns: dict[str, Any] = {}
        for part, chosen in _parts(name, of_set):
            metrics, n = scorer.answers.metrics(chosen), len(chosen)
            wall = seconds * n / len(of_set)
            columns |= {f"{part}_{measure}": metrics[measure] for measure in ("loss", "accuracy", "score_accuracy")}
            columns[f"{part}_runtime"] = wall
            columns[f"{part}_samples_per_second"] = n / wall
            columns[f"{part}_steps_per_second"] = -(-n // run.per_device_eval_batch_size) / wall
            counts["in-domain" if name in job.data.in_domain else part] = n
        row = columns | row
    prompt = scorer.prompter.prompt_format
    return row | {
        "task_description": data.task_description or " ",
        "pattern": data.pattern or prompt.pattern,
        "target_tokens": data.target_tokens or ",".join(prompt.words),
        "num_shots": len(job.demonstrations),
        "separate_shots_by": data.separate_shots_by,
        "balanced": shots.balanced,
        "shuffle": shots.shuffle,
        "target_prefix": prompt.prefix if data.target_prefix is None else data.target_prefix,
        "group": job.config.in_context.group or data.pattern_name,
        "indices": [demonstration["idx"] for demonstration in job.demonstrations],
        "context": scorer.prompter.context,
        "data_seed": run.data_seed,
        **{f"keep_samples_{part}": count for part, count in counts.items()},
    }


def csv_of(job: Job) -> Path:
    """`<output_dir>/<model>_<task>_<evaluation task>.csv`."""
    evaluation = job.config.data.eval_task_name or next(iter(job.task.partners), None)
    model = job.model_name.replace("/", "-")
    if len(model.encode()) > LONGEST_FOLDER:
        model = f"{folder_name(short_name(job.model_name)[:80])}-{short_hash(job.model_name)}"
    return Path(job.config.run.output_dir) / f"{model}_{job.task.name}_{evaluation}.csv"


def frames_of(path: Path) -> list[pd.DataFrame]:
    """The csv as a frame, in a list; [] if there is none.

    Raises:
        InputError: it cannot be read.
    """
    import pandas as pd

    try:
        return [pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)] if path.is_file() else []
    except (OSError, ValueError) as error:
        raise InputError(f"--output_dir: {path} cannot be read ({one_line(error)}); move it away") from error


def append_row(job: Job, row: dict[str, Any]) -> Path:
    """Append the row to the csv; new columns are added.

    A row may be there already if an earlier session of the run was killed after writing it; it is the same except for its times.

    Raises:
        InputError: the csv cannot be read.
    """
    import pandas as pd

    path = csv_of(job)
    with lock(path):
        frames = frames_of(path)
        new = pd.DataFrame({name: [value] for name, value in row.items()})
        if job.record.continued and frames and _holds(frames[0], new):
            return path
        with whole_file(path) as aside:
            pd.concat([*frames, new]).to_csv(aside)
            job.record.stay()  # before writing the row: another session then looks for it
    return path


def _holds(rows: pd.DataFrame, new: pd.DataFrame) -> bool:
    """Whether one of the rows, as they are read, is the new one except for its times."""
    import pandas as pd

    written = pd.read_csv(io.StringIO(new.to_csv()), index_col=0, dtype=str, keep_default_na=False)
    settled = [name for name in written if not name.endswith(TIMES)]
    return set(settled) <= set(rows) and bool((rows[settled] == written[settled].iloc[0]).all(axis=1).any())


def _parts(name: str, scores: Scores) -> list[tuple[str, Scores]]:
    if name not in BY_LABEL:
        return [(name, scores)]
    parts = [(f"{name}-{label}", scores.where(scores["target"] == value)) for value, label in enumerate(BY_LABEL[name])]
    return [(part, chosen) for part, chosen in parts if len(chosen)]
