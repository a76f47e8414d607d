"""Weights that DeepSpeed ZeRO-3 has partitioned, in a separate process, since DeepSpeed's state is global."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmft.runs.launch import free_port
from tests.conftest import process_group

CODE = """
import deepspeed
import numpy as np
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from llmft.arguments.deepspeed_config import keep_off_the_compiler
from llmft.models.fingerprint import fingerprint_weights
from llmft.models.distributed import weights_on_rank_0
from llmft.models.wrapping import bare_model
from llmft.runs.launch import join_launch
from llmft.runs.ranks import end_together
from tests.conftest import adapted, tiny_model
from tests.models.reading.test_reader import LABELS, prompts
from tests.scoring import score_answers

join_launch(alone=True)
keep_off_the_compiler()
deepspeed.init_distributed("gloo")
settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
for part, flags in ((None, {}), ("lora", {}), ("ia3", {}), ("soft_prompt", {"num_soft_prompt_tokens": 4})):
    torch.manual_seed(0)
    whole, cut = (adapted(tiny_model("opt"), part, seed=1, **flags) for _ in range(2))
    cut.load_state_dict(whole.state_dict())
    deepspeed.zero.Init(module=cut, config_dict_or_path=settings)
    present = []

    def look(*_):
        there = [p for p in cut.parameters() if p.ds_status == ZeroParamStatus.AVAILABLE]
        present.append(sum(p.ds_numel for p in there))

    for layer in [module for module in cut.modules() if isinstance(module, torch.nn.Linear)]:
        layer.register_forward_hook(look)  # in front of those that let go
    expected, found = (score_answers(model, prompts(), LABELS, queries_per_row=4).label_logprobs for model in (whole, cut))
    np.testing.assert_array_equal(found, expected)
    total, largest = (how(p.ds_numel for p in cut.parameters()) for how in (sum, max))
    assert present and max(present) < largest + total / 20 < total, (part, max(present), largest, total)
    assert fingerprint_weights(cut) == fingerprint_weights(whole)
    with weights_on_rank_0(cut, bare_model(cut)):
        for name, weight in cut.state_dict().items():
            assert torch.equal(weight, whole.state_dict()[name]), name
    assert all(p.ds_status == ZeroParamStatus.NOT_AVAILABLE and p.numel() == 0 for p in cut.parameters())
    print("same:", part)
end_together()
"""


WRITING = """
import os
import deepspeed
import torch
from llmft.arguments.deepspeed_config import keep_off_the_compiler
from llmft.models.reading.generation import Generation
from llmft.runs.launch import join_launch
from llmft.runs.ranks import end_together
from tests.conftest import adapted
from tests.models.reading.test_generation import TOKENS, by_hand, cut, prompts, writer, written

join_launch(alone=True)
keep_off_the_compiler()
deepspeed.init_distributed("gloo")
settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
found = prompts()
for family, part in [("llama", "lora"), ("llama", "soft_prompt"), ("gpt_neo", None)]:
    torch.manual_seed(0)
    model = adapted(writer(family), part, seed=1).eval()
    expected = [by_hand(model, found.whole(i)) for i in range(len(found.suffixes))]
    ends = (expected[0][1], expected[3][0])  # ranks need unlike numbers of passes
    for stage in (2, 3):
        if stage == 3:
            deepspeed.zero.Init(module=model, config_dict_or_path=settings)
        answers = written(model, found, Generation(TOKENS, end_ids=ends), size=2)
        assert answers.ids == cut(expected, ends), (family, part, stage)
        assert len(answers.scored) == (3, 2)[int(os.environ["RANK"])]  # of five
        print("same")
end_together()
"""


@pytest.mark.deepspeed
def test_two_ranks_with_cut_up_weights_write_what_one_process_writes():
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    common = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                process_group(
                    [sys.executable, "-c", WRITING],
                    env={**common, **meeting, "RANK": rank, "LOCAL_RANK": rank},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in "01"
        ]
        for rank in ranks:
            out, err = rank.communicate(timeout=300)
            assert rank.returncode == 0, err
            assert out.count("same") == 6


@pytest.mark.deepspeed
def test_no_rank_holds_more_than_a_module_and_nothing_changes():
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=environment, timeout=570)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same: ") == 4
