"""Upstream's command lines parse and mean what they meant; every argument is read by some code."""

import ast
import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest
import transformers
from transformers import TrainingArguments

from llmft.arguments.command_line import modern
from llmft.arguments.composing import ComposeArguments
from llmft.arguments.flags import flags_of
from llmft.arguments.methods import PARTS
from llmft.arguments.run import RunArguments
from llmft.errors import InputError
from llmft.pipelines import distill, fine_tune, in_context, self_study
from llmft.tasks.table import OUT_OF_DOMAIN
from tests.parsing import parse

ROOT = Path(__file__).parents[2]
COMMON = "--cache_dir c --dataset_cache_dir d --output_dir o --seed 0 --data_seed 3 --fp16 --report_to none --do_eval"
COMMON += " --per_device_eval_batch_size 10 --model_name_or_path facebook/opt-13b"
IN_CONTEXT = rf"{COMMON} --num_shots 16 --balanced --shuffle --max_seq_length 2048 --separate_shots_by '\n\n'"
TRAIN = f"{COMMON} --do_train --overwrite_output_dir --max_train_samples 16 --per_device_train_batch_size 4"
TRAIN += " --gradient_accumulation_steps 1 --num_train_epochs 40 --warmup_ratio 0.5 --logging_first_step true --logging_steps 1"
TRAIN += " --learning_rate 1e-5 --weight_decay 0.0 --evaluation_strategy epoch --save_strategy no --max_seq_length 256"
TRAIN += " --wandb_project_name p --wandb_group_name g"
PATTERN = "--pattern '{text1} {text2} ?'"
VERBALIZER = f"{PATTERN} --target_tokens ĠYes,ĠNo"
GPT3 = "--pattern '{text1} question: {text2} Yes or No?' --target_prefix ' answer: ' --target_tokens ĠYes,ĠNo --group gpt-3"
SAME = r"--pattern 'Question 1: {text1}\nQuestion 2: {text2}\nSame?' --target_prefix ' Answer: ' --target_tokens ĠNo,ĠYes"
GRAMMAR = "--pattern '{text1} ?' --target_prefix ' ' --target_tokens ĠNo,ĠYes"
SOFT = "--pattern '</s></s> {text1} {text2} ?'"
UPSTREAM = {
    "eval minimal": f"{IN_CONTEXT} {VERBALIZER} --task_name mnli --target_prefix ' ' --eval_task_name hans",
    "eval gpt-3": f"{IN_CONTEXT} {GPT3} --task_name rte --eval_task_name hans",
    "eval qqp": f"{IN_CONTEXT} {SAME} --task_name qqp --eval_task_name paws-qqp --eval_task_path f.tsv",
    "eval cola": f"{IN_CONTEXT} {GRAMMAR} --task_name cola --eval_task_name cola-ood --eval_task_path f.tsv",
    "ft pattern-verbalizer": f"{TRAIN} {VERBALIZER} --task_name mnli --eval_on_hans --overwrite_cache True",
    "ft mismatched": f"{TRAIN} {VERBALIZER} --task_name mnli --eval_on_mnli_mismatched",
    "ft lora": f"{TRAIN} {VERBALIZER} --task_name rte --use_adapter --adapter_type lora --adapter_dim 8 --lora_alpha -1",
    "ft bitfit": f"{TRAIN} {VERBALIZER} --task_name rte --bitfit --eval_on_hans",
    "ft untied head": f"{TRAIN} {VERBALIZER} --task_name rte --head_only --untie_embeddings",
    "ft vanilla": f"{TRAIN} {PATTERN} --task_name qqp --eval_on_paws_qqp --paws_qqp_file f.tsv",
    "ft vanilla cola": f"{TRAIN} --pattern '{{text1}} ?' --task_name cola --eval_on_cola_ood --cola_ood_file f.tsv",
    "ft soft prompt": f"{TRAIN} {SOFT} --use_soft_prompt --num_soft_prompt_tokens 2 --task_name mnli --eval_on_hans",
}
UNSUPPORTED = {name for name, (_, rules) in flags_of(RunArguments).items() if not rules.supported}
PARSERS = {"eval": in_context.GROUPS, "ft": fine_tune.GROUPS}


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_command_lines(name):
    script, words = name.split()[0], shlex.split(UPSTREAM[name])
    groups, given = parse(PARSERS[script], words)
    values = {key: value for group in groups for key, value in vars(group).items()}
    assert values["task_name"] == words[words.index("--task_name") + 1]
    assert values["data_seed"] == 3
    assert values["fp16"]
    assert given["pattern"] == words[words.index("--pattern") + 1]
    if script == "ft":
        assert values["eval_strategy"] == "epoch"
        assert values["warmup_steps"] == 0.5
        assert values["logging_first_step"]
    else:
        assert values["balanced"] and values["shuffle"]
        assert values["separate_shots_by"] == r"\n\n"


def test_the_deepspeed_stage_is_checked_against_the_config():
    """One that agrees is accepted where the configs are trained with, in tests/arguments/test_deepspeed_config.py."""
    with pytest.raises(InputError, match=r"--deepspeed_stage 2: deepspeed_configs/zero3\.json has stage 3"):
        parse(fine_tune.GROUPS, ["--deepspeed", "deepspeed_configs/zero3.json", "--deepspeed_stage", "2", "--use_cpu"])
    with pytest.raises(InputError, match="--deepspeed_stage 2: has no effect without --deepspeed; add it"):
        parse(fine_tune.GROUPS, ["--deepspeed_stage", "2"])


def test_old_names_and_needless_arguments(capsys):
    assert modern(["--no_cuda", "--warmup_ratio=0.1", "--overwrite_cache", "True", "--use_auth_token", "--seed", "1"]) == [
        "--use_cpu",
        "--warmup_steps=0.1",
        "--seed",
        "1",
    ]
    assert capsys.readouterr().err.count("note: ") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seed", "1", "--seed", "2"], "--seed: given twice"),
        (["--task", "rte", "--task_name=toy"], "--task_name: given twice (earlier as --task)"),
        (["--evaluation_strategy", "no", "--eval_strategy", "epoch"], "--eval_strategy: given twice"),
        (["--balanced", "--no_balanced"], "--no_balanced: given twice (earlier as --balanced)"),
    ],
)
def test_an_argument_given_twice_is_an_error(words, says):
    with pytest.raises(InputError, match=re.escape(says)):
        parse(in_context.GROUPS, words)


@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\u2028b"])
def test_a_value_of_several_lines_makes_no_error_of_several(value):
    with pytest.raises(InputError, match=r"^argument --num_shots/--num-shots: invalid int value: ") as caught:
        parse(in_context.GROUPS, ["--num_shots", value])
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError) as caught:
        parse(in_context.GROUPS, [f"--{value}"])
    assert str(caught.value).startswith("--a b: no such argument")


def test_every_argument_of_ours_is_read():
    """By name: as an attribute somewhere, or as a string that `getattr` is given. Strings of the declarations are no readers."""
    read = set()
    for file in (ROOT / "llmft").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and file.parent.name != "arguments":
                read.add(node.value)
    read |= {f"{who}_{name}" for who in ("teacher", "student") for name in ("pattern", "target_prefix", "target_tokens")}
    read |= PARTS.keys()  # by `AdapterArguments.part`
    read |= {f"eval_on_{name.replace('-', '_')}" for name in OUT_OF_DOMAIN}
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    groups = {group for module in (in_context, fine_tune, distill, self_study) for group in module.GROUPS} | {ComposeArguments}
    own = {name for group in groups for name in flags_of(group)} - inherited
    assert len(own) > 40
    assert own - read == set()


def test_every_argument_of_transformers_is_read_there_or_refused():
    folder = Path(transformers.__file__).parent
    files = [
        folder / f"{name}.py" for name in ("trainer", "trainer_callback", "trainer_utils", "trainer_optimizer", "training_args")
    ]
    source = "".join(file.read_text() for file in [*files, *(folder / "integrations").glob("*.py")] if file.is_file())
    for field in dataclasses.fields(TrainingArguments):
        assert field.name in UNSUPPORTED or re.search(rf"[.'\"]{field.name}\b", source), field.name
    evaluation_loop = (
        "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps batch_eval_metrics"
    )
    never_reached = f"{evaluation_loop} include_for_metrics fp16_full_eval bf16_full_eval hub_strategy"
    assert set(never_reached.split()) <= UNSUPPORTED


@pytest.mark.parametrize("argument", sorted(UNSUPPORTED - {"resume_from_checkpoint", "include_for_metrics"}))
def test_what_nothing_would_read_is_refused(argument):
    field = next(field for field in dataclasses.fields(RunArguments) if field.name == argument)
    words = [f"--no_{argument}"] if field.default is True else [f"--{argument}"]
    if field.default is not True and field.default is not False:
        words.append("every_save" if argument == "hub_strategy" else "1")
    with pytest.raises(InputError, match=argument):
        parse(fine_tune.GROUPS, words)


def test_arguments_are_told_apart_by_their_help():
    for group in {group for module in (in_context, fine_tune, distill) for group in module.GROUPS}:
        assert group.__doc__
        for field in dataclasses.fields(group):
            if field.init and field.name in inspect.get_annotations(group):
                assert len(field.metadata["help"]) > 10, field.name
