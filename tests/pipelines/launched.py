"""What a launcher starts on each rank: runs of several command lines, one after the other, so that imports are paid for once.

PYTHONPATH=. deepspeed --num_accelerators 2 tests/pipelines/launched.py '[["ft.py", "--task", "toy", ...], ...]'
"""

import gc
import json
import sys

from llmft.models.gather import leave_together
from tests.pipelines.conftest import MAIN

if __name__ == "__main__":
    (commands,) = (word for word in sys.argv if word.startswith("["))  # the launcher adds an argument of its own
    for script, *words in json.loads(commands):
        MAIN[script](words)
        gc.collect()  # DeepSpeed's engine, which would hold its config over the next run's
    leave_together()
