"""Consistency of distillation's arguments across groups."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from llmft.arguments.config import Config
from llmft.arguments.context import ContextArguments, WritingArguments
from llmft.arguments.data import CalibrationArguments, DataArguments, DemonstrationArguments
from llmft.arguments.distillation import DistillationArguments
from llmft.arguments.methods import AdapterArguments
from llmft.arguments.model import ModelArguments
from llmft.arguments.objective import SUPPORTS, Objective
from llmft.errors import InputError
from llmft.evaluation.scores import Headline
from llmft.pipelines.comparison import say_whether_context_helps
from llmft.pipelines.distillation_checks import check_distillation, check_support
from llmft.prompts.render import PromptFormat
from llmft.tasks.table import get_task


def prompt_format(**changes):
    return PromptFormat(**{"pattern": "{text1} ?", "prefix": "", "separator": "\n", "words": ("Yes", "No")} | changes)


@pytest.mark.parametrize("support", SUPPORTS)
def test_only_labels_correspond_behind_different_prompts(support):
    objective, same = Objective(support=support), prompt_format()
    check_support(objective, prompt_format(description="Say yes or no."), same, calibrate=False)
    others = [{"pattern": "{text1} !"}, {"prefix": " Answer:"}, {"words": ("True", "False")}]
    for changes, text in zip(others, ("patterns", "target prefixes", "target tokens"), strict=True):
        if support == "labels":
            check_support(objective, same, prompt_format(**changes), calibrate=True)
        else:
            with pytest.raises(InputError, match=f"--support {support}: teacher and student have different {text}"):
                check_support(objective, same, prompt_format(**changes), calibrate=False)
    if support != "labels":
        with pytest.raises(InputError, match=f"--support {support}: --calibrate"):
            check_support(objective, same, same, calibrate=True)


@pytest.mark.parametrize(("stage", "mode", "schedule", "wrong"), [
    (3, "online", "cycle", True), (2, "online", "cycle", False), (3, "precompute", "cycle", False), (3, "online", "mean", False),
])  # fmt: skip
def test_ranks_that_share_weights_read_equally_often(stage, mode, schedule, wrong):
    config = Config(
        ModelArguments(),
        DataArguments(task_name="toy"),
        DemonstrationArguments(),
        ContextArguments(),
        WritingArguments(),
        calibration=CalibrationArguments(),
        trained=AdapterArguments(use_adapter=True),
        distillation=DistillationArguments(num_contexts=2, teacher_mode=mode, context_schedule=schedule),
        run=SimpleNamespace(deepspeed={"zero_optimization": {"stage": stage}}, save_strategy="no"),
    )
    job = SimpleNamespace(config=config, given={}, task=get_task("toy"))
    with pytest.raises(InputError, match="--context_schedule cycle: with --teacher_mode online") if wrong else nullcontext():
        check_distillation(job)


@pytest.mark.parametrize(("teacher", "warned"), [(0.4, False), (0.3, True), (0.2, True)])
def test_a_context_that_does_not_help_its_teacher_is_warned_of(capsys, teacher, warned):
    stages = {"teacher": {"notes": {"exact_match": teacher, "n": 50}}, "before": {"notes": {"exact_match": 0.3, "n": 50}}}
    record = SimpleNamespace(stages=stages, writes=True)
    job = SimpleNamespace(record=record, data=SimpleNamespace(in_domain={"notes": []}))
    say_whether_context_helps(job, Headline("exact_match", higher_is_better=True))
    text = f"the context does not help the teacher: exact_match is {teacher:.3f} with it and 0.300 without"
    assert (text in capsys.readouterr().err) == warned
