"""What a run says about its student compared with itself before training."""

import numpy as np
import pytest

from llmft.evaluation.scores import Headline, Scores
from llmft.pipelines.comparison import say_whether_out_of_domain_suffers

SET = "notes-reverse"


@pytest.mark.parametrize(("before", "after", "higher_is_better", "worse"), [
    ((1, 1, 0), (0, 0, 0), True, True), ((1, 1, 0), (1, 1, 0), True, False), ((1, 0, 0), (1, 1, 0), True, False),
    ((1, 0, 0), (0, 1, 0), True, False), ((1, 0, 0), (1, 1, 0), False, True), ((1, 1, 0), (0, 0, 0), False, False),
])  # fmt: skip
def test_a_student_that_is_worse_out_of_domain_than_before_is_warned_of(capsys, before, after, higher_is_better, worse):
    ends = ({SET: Scores({"score": np.repeat(scores, 10)}, tokens_per_query=5.0)} for scores in (before, after))
    say_whether_out_of_domain_suffers([SET], *ends, Headline("exact_match", higher_is_better))
    figures = f"exact_match on {SET} was {np.mean(before):.3f} and is {np.mean(after):.3f}; try"
    line = f"warning: distillation has made the student worse out of domain: {figures}"
    written = capsys.readouterr().err
    assert written.startswith(line) and written.count("\n") == 1 if worse else not written


def test_one_row_in_thirty_is_no_reason_to_warn_nor_is_a_task_without_such_sets(capsys):
    before, after = ({SET: Scores({"score": scores}, tokens_per_query=5.0)} for scores in (np.eye(1, 30)[0], np.zeros(30)))
    say_whether_out_of_domain_suffers([SET], before, after, Headline("exact_match", higher_is_better=True))
    say_whether_out_of_domain_suffers([], before, after, Headline("exact_match", higher_is_better=True))
    assert not capsys.readouterr().err
