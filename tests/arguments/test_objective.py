import subprocess
import sys

import pytest

from llmft.arguments.objective import Objective
from llmft.errors import InputError


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"support": "words"}, "--support words: unknown; choose one of labels, labels_rest, topk, vocab"),
        ({"divergence": "jsd", "jsd_beta": 1.0}, "--jsd_beta 1.0: must be above 0 and below 1"),
        ({"jsd_beta": 0.1}, "--jsd_beta 0.1: has no effect without --divergence jsd"),
        ({"temperature": float("inf")}, "--temperature inf: must be a finite number"),
    ],
)
def test_wrong_choices_are_one_line_with_the_flag(choices, message):
    with pytest.raises(InputError) as error:
        Objective(**choices)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_choices_are_checked_without_torch():
    code = "import sys, llmft.arguments.objective; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
