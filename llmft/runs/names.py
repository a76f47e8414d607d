"""Names of files in a run's folder that several modules look for."""

DONE = "DONE"
"""Written last: the run is finished."""
PROGRESS = "progress.json"
"""The file of a checkpoint that is written last."""
