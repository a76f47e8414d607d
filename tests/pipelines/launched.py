"""What a launcher starts on each rank: runs of several command lines, one after the other, so that imports are paid for once. One
with the word `cut` in front ends in the middle of training.

PYTHONPATH=. deepspeed --num_accelerators 2 tests/pipelines/launched.py '[["ft.py", "--task", "toy", ...], ...]'
"""

import gc
import json
import sys
from contextlib import suppress

import pytest

from llmft.runs.ranks import end_together
from llmft.training.ft_trainer import FtTrainer
from tests.pipelines.conftest import MAIN
from tests.pipelines.test_training import Cut, cut

CUT_AT = 4
"""The batch at which a run that is interrupted ends."""

if __name__ == "__main__":
    (commands,) = (word for word in sys.argv if word.startswith("["))  # the launcher adds an argument of its own
    for command in json.loads(commands):
        script, *words = command[command[0] == "cut" :]
        with pytest.MonkeyPatch.context() as patch, suppress(Cut):
            if command[0] == "cut":
                cut(patch, FtTrainer, "compute_loss", CUT_AT)
            MAIN[script](words)
        gc.collect()  # DeepSpeed's engine, which would hold its config over the next run's
    end_together()
