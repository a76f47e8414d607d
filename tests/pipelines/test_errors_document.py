"""Every line of docs/errors.md happens: exit status 2, that line alone on stderr, and the output folder as it was."""

import errno
import json
import os
import re
import shutil
import socket
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BartConfig, BartForCausalLM

from llmft.arguments import run_checks
from llmft.distillation.trainer import ContextDistillationTrainer
from llmft.models.parts.head import classification_head, put_head, save_head
from llmft.models.reading import kv_cache, reader
from llmft.pipelines import loading, prepare
from llmft.runs.launch import Process
from llmft.runs.program import run_main
from llmft.training import ft_trainer
from llmft.worlds.nli import CHECKPOINT
from tests.evaluation.test_labels import MODULE
from tests.models.test_load import of_a_resized_base
from tests.pipelines.conftest import MAIN, last_wins
from tests.pipelines.test_other_teachers import padded
from tests.pipelines.test_safety import RunsCode

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"


def read_rows():
    """What went wrong -> the line's template."""
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[1].startswith("`"):
            assert cells[0] not in rows
            rows[cells[0]] = cells[1].strip("`")
    return rows


ROWS = read_rows()


def pattern(template):
    parts = re.split(r"(<[a-z ]+>)", template)
    return "".join(".*" if part.startswith("<") and part.endswith(">") else re.escape(part) for part in parts)


@dataclass
class Case:
    """A command line that fails. `{name}` in an argument is a file of `files`; `breaks` breaks something else."""

    script: str
    arguments: str
    breaks: object = None
    cpu: bool = True


SMALL = {"eval.py": "--num_shots 4 --max_eval_samples 8", "self_study": "", "compose": ""}
SMALL["ft.py"] = "--max_eval_samples 8 --max_train_samples 8 --num_train_epochs 1 --per_device_train_batch_size 4"
SMALL["distill.py"] = f"{SMALL['ft.py']} --num_shots 4"
OWN = "--model_name_or_path toy --train_file {} --validation_file {}"
QUESTIONS = "--model_name_or_path toy --task questions --train_file {} --validation_file {{questions}} --document_column document"

ABOUT_TWO = "--task questions --model_name_or_path notes --query_file {two} --validation_file {two} --document_column document"
ABOUT_FILE = "--task questions --model_name_or_path notes --context file --context_file {short_text} --num_shots 16"
ABOUT_TWO += " --context document --num_shots 16"

CHUNKED = (
    "--task questions --model_name_or_path notes --validation_file {questions} --context file --chunk_tokens 12 --num_shots 16"
)
RULED = "--task questions --model_name_or_path notes --validation_file {requests} --num_shots 0"
CODE = "--task code --model_name_or_path toy --num_shots 0"
TALKS = (
    "--task questions --validation_file {} --document_column document --context file --context_file {{short_text}} --num_shots 16"
)
STUDY = "--model_name_or_path notes --output_file pairs.jsonl"


def own(train="{good}", validation="{good}", more=""):
    return f"{OWN.format(train, validation)} {more}"


def loss_of_nan(monkeypatch):
    original = ft_trainer.FtTrainer.answer_loss
    monkeypatch.setattr(
        ft_trainer.FtTrainer,
        "answer_loss",
        lambda self, *args: original(self, *args) / 0 * 0 if self.state.global_step else original(self, *args),
    )


def first_loss_of_nan(monkeypatch):
    original = ft_trainer.FtTrainer.answer_loss
    monkeypatch.setattr(ft_trainer.FtTrainer, "answer_loss", lambda self, *args: original(self, *args) * torch.nan)


def infinite_loss(monkeypatch):
    original = ContextDistillationTrainer.answer_loss
    monkeypatch.setattr(ContextDistillationTrainer, "answer_loss", lambda self, *args: original(self, *args) + torch.inf)


def weights_of_nan(monkeypatch):
    def spoil(self, *_, **__):
        with torch.no_grad():
            next(self.model.parameters()).fill_(torch.inf)

    monkeypatch.setattr(ft_trainer.FtTrainer, "_get_learning_rate", spoil)  # after the last step, before its checkpoint


def no_room(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(ft_trainer.FtTrainer, "answer_loss", full)


def no_room_for_the_model(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(loading, "load_model", full)


def no_room_to_read(monkeypatch):
    monkeypatch.setattr(reader.PrefixReader, "read", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))


def no_room_for_the_context(monkeypatch):
    monkeypatch.setattr(reader, "encode", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError))


def no_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))


def shares_nothing(monkeypatch):
    monkeypatch.setattr(kv_cache, "can_share", lambda _: False)


def full_disk(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)


def no_folder(monkeypatch):
    def refuse(path, *_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))  # as below /proc

    monkeypatch.setattr(os, "mkdir", refuse)


def gpu_asked_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def variables(**values):
    return lambda monkeypatch: [monkeypatch.setenv(name, value) for name, value in values.items()]


def third_of_two(monkeypatch):
    variables(RANK="2", LOCAL_RANK="0", WORLD_SIZE="2")(monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # in which its launcher would end it


def port_in_use(monkeypatch):
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(socket, "unrelated", listener, raising=False)  # it is open as long as this
    port = str(listener.getsockname()[1])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)  # an earlier test may have left this process's group
    variables(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)(monkeypatch)


def no_float16(monkeypatch):
    monkeypatch.setattr("deepspeed.accelerator.cpu_accelerator.CPU_Accelerator.is_fp16_supported", lambda _: False)


def other_runs(monkeypatch):
    monkeypatch.setattr(prepare, "all_gather", lambda runs: [runs, ["out/icl/toy/toy/0123456789ab"]])


def another_rank(monkeypatch):
    monkeypatch.setattr(run_checks, "this_process", lambda: Process(world_size=2))
    monkeypatch.setenv("MASTER_PORT", "0")  # any


def damaged_checkpoint(monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(EOFError("Ran out of input")))


RESUMABLE = "--save_strategy steps --save_steps 1"
CASES = {
    "unknown argument": Case("eval.py", "--num_shot 4"),
    "an argument given twice": Case("eval.py", "--balanced --no_balanced"),
    "not a number": Case("eval.py", "--num_shots many"),
    "not one of the choices": Case("eval.py", "--torch_dtype int8"),
    "an empty value": Case("eval.py", "--model_name_or_path ''"),
    "not a finite number": Case("ft.py", "--learning_rate nan"),
    "out of its range": Case("eval.py", "--seed 4294967296"),
    "no number of steps": Case("ft.py", "--save_steps 2.5"),
    "a path that is too long": Case("eval.py", f"--output_dir {'a' * 300}"),
    "not UTF-8": Case("eval.py", "--group \udcff"),
    "a flag that nothing would read": Case("ft.py", "--adapter_dim 4"),
    "two flags that exclude each other": Case("ft.py", "--fp16 --bf16"),
    "an argument of transformers that is not supported": Case("ft.py", "--torch_compile"),
    "settings that are not JSON": Case("ft.py", "--lr_scheduler_kwargs {broken_json}"),
    "a setting that there is not": Case("eval.py", "--accelerator_config '{{\"foo\":1}}'"),
    "an optimizer that is not installed": Case("ft.py", "--optim lomo"),
    "an optimizer that is not for training here": Case("ft.py", "--optim schedule_free_sgd"),
    "a schedule without its settings": Case("ft.py", "--lr_scheduler_type cosine_with_min_lr"),
    "a schedule that is not for training here": Case("ft.py", "--lr_scheduler_type reduce_lr_on_plateau"),
    "a flag of training in eval.py": Case("eval.py", "--save_best_models"),
    "a push without weights": Case("ft.py", "--push_to_hub --no_save_final_model"),
    "an unknown logging service": Case("ft.py", "--report_to carrier_pigeon"),
    "unknown task": Case("eval.py", "--task rtee"),
    "a set of another task": Case("eval.py", "--task sst2 --eval_task_name hans"),
    "no such data folder": Case("eval.py", "--data_dir /nowhere"),
    "no such file in it": Case("eval.py", "--task sst2 --data_dir {folder}"),
    "a pattern without {text1}": Case("eval.py", "--pattern text"),
    "an unknown placeholder": Case("eval.py", "--pattern '{{text1}} {{text3}}'"),
    "a second text that rows do not have": Case("eval.py", "--task notes --num_shots 0 --pattern '{{text1}} {{text2}}'"),
    "a metric that is not there": Case("eval.py", "--metric /nowhere.py"),
    "a metric that fails": Case("eval.py", "--metric {failing_metric}"),
    "a metric of another kind of answers": Case("eval.py", "--metric exact_match"),
    "a row with an empty text": Case("eval.py", own("{good}", "{empty_text}", "--target_tokens Yes,No --pattern '{{text1}}'")),
    "too few label words": Case("eval.py", "--target_tokens Yes"),
    "the same label word twice": Case("eval.py", "--target_tokens Yes,Yes"),
    "a label word of several tokens": Case("eval.py", "--target_tokens Yes,Nope"),
    "a label that merges with the pattern": Case("eval.py", "--label_delimiter ''"),
    "a label that merges with a row": Case(
        "eval.py", own("{good}", "{newlines}", "--target_tokens Yes,No --pattern '{{text1}}' --label_delimiter ''")
    ),
    "a model without a chat template": Case("eval.py", "--chat"),
    "a chat template that fails": Case("eval.py", "--chat --model_name_or_path {failing_chat}"),
    "a chat template without a system message": Case(
        "distill.py", "--chat --model_name_or_path {no_system} --context file --context_file {long_text} --num_shots 16"
    ),
    "a chat template that changes texts": Case("eval.py", "--chat --model_name_or_path {upper_chat}"),
    "a chat template that opens a block of thoughts": Case("eval.py", "--chat --model_name_or_path {thinking_chat}"),
    "a chat template that adds more than the context": Case(
        "distill.py", "--chat --model_name_or_path {uneven_chat} --context file --context_file {short_text} --num_shots 16"
    ),
    "a query whose first tokens change after the context": Case(
        "distill.py",
        f"{own('{tall}', '{tall}', '--target_tokens Yes,No')} --chat --model_name_or_path {{chat}} "
        "--context_role user --separate_shots_by '' --context file --context_file {short_text} --num_shots 16",
    ),
    "turns that a chat template refuses": Case(
        "eval.py", f"{TALKS.format('{talk_twice}')} --chat --model_name_or_path {{alternating_chat}}"
    ),
    "turns that a chat template changes after a context": Case(
        "eval.py", f"{TALKS.format('{talk}')} --chat --model_name_or_path {{counting_chat}}"
    ),
    "an answer of no tokens": Case(
        "eval.py", "--task questions --validation_file {questions} --num_shots 0 --model_name_or_path {no_ada}"
    ),
    "an answer that merges with its query": Case(
        "eval.py",
        "--task questions --validation_file {questions} --num_shots 0 --model_name_or_path toy --pattern '{{text1}} Yes' "
        "--label_delimiter ''",
    ),
    "a completion that merges with its query": Case(
        "eval.py", f"{CODE} --validation_file {{questions}} --pattern '{{{{text1}}}} Yes'"
    ),
    "a dialogue that is no JSON": Case("eval.py", "--context dialogue --context_file {short_text} --num_shots 16"),
    "a dialogue of an unknown role": Case("eval.py", "--context dialogue --context_file {tool_turn} --num_shots 16"),
    "a context over the window": Case("eval.py", "--num_shots 100"),
    "a text over the window": Case("distill.py", "--context file --context_file {long_text} --num_shots 16"),
    "no room for an answer": Case("distill.py", "--task notes --context document --num_shots 16 --max_new_tokens 600"),
    "an answer longer than answers may be": Case("distill.py", "--task notes --max_new_tokens 2"),
    "a stop text within the right answers": Case("eval.py", f"{CODE} --validation_file {{two_lines}}"),
    "a text file that cannot be read": Case("distill.py", "--context file --context_file {bytes} --num_shots 16"),
    "a folder of documents that is not there": Case("distill.py", f"{CHUNKED} --context_dir nowhere"),
    "an invalid file pattern": Case("distill.py", f"{CHUNKED} --context_dir {{saved}} --context_glob /etc/*.md"),
    "a folder without such documents": Case("distill.py", f"{CHUNKED} --context_dir {{saved}} --context_glob *.md"),
    "a folder of files without text": Case("distill.py", f"{CHUNKED} --context_dir {{saved}}"),
    "a file of a folder that is no text": Case("eval.py", f"{CHUNKED} --context_dir {{no_texts}}"),
    "a document in two places": Case("distill.py", f"{CHUNKED} --context_dir {{saved}} --context_file {{short_text}}"),
    "chunks that share too much": Case("distill.py", f"{CHUNKED} --context_file {{short_text}} --chunk_overlap 6"),
    "a file without rules": Case("eval.py", f"{RULED} --rules {{empty_prompts}}"),
    "an invalid name of a rule": Case("eval.py", f"{RULED} --rules {{named_rules}}"),
    "an unknown check": Case("eval.py", f"{RULED} --rules {{odd_rules}}"),
    "a rule without what it needs": Case("eval.py", f"{RULED} --rules {{short_rules}}"),
    "a rule with what it does not read": Case("eval.py", f"{RULED} --rules {{long_rules}}"),
    "rules and nothing to evaluate on": Case("distill.py", "--task questions --query_file {requests} --rules {rules}"),
    "rules and a metric of right answers": Case("eval.py", f"{RULED} --rules {{rules}} --metric rougeL"),
    "more shots than rows": Case("eval.py", "--num_shots 9000"),
    "shots that cannot be shared out": Case("eval.py", "--num_shots 3"),
    "a class without rows": Case("eval.py", own(more="--label_names no,yes,maybe --target_tokens Yes,No,rain --num_shots 6")),
    "queries that are all shown": Case("distill.py", own(more="--target_tokens Yes,No --num_shots 20")),
    "no or too many training rows": Case("ft.py", "--max_train_samples 0"),
    "rows that are all dropped": Case("ft.py", "--dataloader_drop_last True --per_device_train_batch_size 16"),
    "an unusable list of rows": Case("eval.py", "--sample_indices_file {good} --num_shots 16"),
    "no such file": Case("eval.py", own("/nowhere.csv")),
    "a folder for a file": Case("eval.py", own("{folder}")),
    "an empty file": Case("eval.py", own("{empty}")),
    "a file of a header alone": Case("eval.py", own("{header}")),
    "an unknown ending": Case("eval.py", own("{sheet}")),
    "a folder of save_to_disk": Case("eval.py", own("{saved}")),
    "a truncated or wrong format": Case("eval.py", own("{cut_parquet}")),
    "a file that is not what its name says": Case("eval.py", own("{workbook}")),
    "another encoding": Case("eval.py", own("{latin}")),
    "another separator": Case("eval.py", own("{semicolons}")),
    "a tsv that is quoted as a csv": Case("eval.py", own("{quoted}")),
    "white space before a quoted cell": Case("eval.py", own("{spaced}")),
    "JSON by columns": Case("eval.py", own("{by_columns}")),
    "a file of the hub's that is missing": Case("eval.py", "--task sst2 --data_dir {one_of_two}"),
    "files of two downloads": Case("eval.py", "--task sst2 --data_dir {two_downloads}"),
    "a missing column": Case("eval.py", own(more="--text1_column 🙂")),
    "a second text that another file lacks": Case("eval.py", own("{good}", "{second}", "--target_tokens Yes,No")),
    "NaN or a number for a text": Case("eval.py", own("{nan}", more="--target_tokens Yes,No --label_names no,yes")),
    "a label out of range": Case("eval.py", own("{numbers}", "{high}", "--target_tokens Yes,No")),
    "an unknown label": Case("eval.py", own("{good}", "{other_label}", "--target_tokens Yes,No")),
    "labels that differ in case alone": Case("eval.py", own("{case}")),
    "labels as text where numbers are": Case("eval.py", own("{numbers}", "{good}", "--target_tokens Yes,No")),
    "labels of mixed types": Case("eval.py", own("{mixed}")),
    "a row without label": Case("eval.py", own("{unlabelled}")),
    "labels numbered from -1": Case("eval.py", own("{sentiment}", more="--label_names negative,neutral,positive")),
    "one label alone": Case("eval.py", own("{one_label}")),
    "no column of answers": Case("eval.py", "--task questions --validation_file {good}"),
    "no answers": Case("eval.py", "--task questions --validation_file {unanswered}"),
    "an answer that is no text": Case("eval.py", "--task questions --validation_file {numbers} --answer_column label"),
    "a row of a rule that is not there": Case("eval.py", f"{RULED} --rules {{rules}}"),
    "a category that is a list": Case("eval.py", RULED.replace("requests", "listed_category")),
    "no column of conversations": Case("eval.py", "--task questions --validation_file {questions} --turns_column turns"),
    "conversations beside single questions": Case("eval.py", TALKS.format("{talk_and_question}")),
    "a malformed conversation": Case("eval.py", TALKS.format("{talk_of_text}")),
    "a conversation without turns": Case("eval.py", TALKS.format("{talk_of_nothing}")),
    "a turn of an unknown role": Case("eval.py", TALKS.format("{talk_of_tool}")),
    "a turn without text": Case("eval.py", TALKS.format("{talk_of_spaces}")),
    "an answer to nothing": Case("eval.py", TALKS.format("{talk_of_answer}")),
    "a document of the assistant's turn": Case("eval.py", TALKS.format("{talk_of_document}")),
    "a query about another document": Case(
        "distill.py", f"{ABOUT_FILE} --query_file {{about_other}} --validation_file {{questions}}"
    ),
    "names of documents where all rows are asked after the same": Case(
        "eval.py", f"{ABOUT_FILE} --validation_file {{by_name}} --document_column document"
    ),
    "nothing to evaluate on": Case("ft.py", "--task questions --train_file {questions}"),
    "a library that is not there": Case("eval.py", f"{CODE} --validation_file {{questions}} --run_code nowhere"),
    "a right answer that does not run": Case("eval.py", f"{CODE} --validation_file {{questions}} --run_code {{folder}}"),
    "a document that is not there": Case("distill.py", QUESTIONS.format("{lost}")),
    "a chunk of another text": Case("distill.py", f"{CHUNKED} --query_file {{other_chunk}} --context_file {{short_text}}"),
    "a malformed chunk": Case("distill.py", f"{CHUNKED} --query_file {{no_chunk}} --context_file {{short_text}}"),
    "an empty document": Case("distill.py", QUESTIONS.format("{blank}")),
    "a query file without rows": Case("distill.py", "--query_file {no_queries}"),
    "queries without the columns": Case("distill.py", "--query_file {good}"),
    "no such model folder": Case("eval.py", "--model_name_or_path /nowhere"),
    "a folder that is no model": Case("eval.py", "--model_name_or_path {folder}"),
    "no weights, a damaged file, no such hub model": Case("eval.py", "--model_name_or_path {cut_model}"),
    "a model without tokenizer": Case("eval.py", "--model_name_or_path {no_tokenizer}"),
    "a damaged tokenizer": Case("eval.py", "--tokenizer_name {cut_tokenizer}"),
    "a model with its own way of counting positions": Case("eval.py", "--model_name_or_path {bart}"),
    "weights that are missing": Case("eval.py", "--model_name_or_path {more_layers}"),
    "an adapter without base": Case("eval.py", "--model_name_or_path {no_base}"),
    "an adapter of a kind that is not supported": Case("eval.py", "--model_name_or_path {prefix}"),
    "an adapter of a base that was resized": Case("eval.py", "--model_name_or_path {resized}"),
    "weights in a pickle that could run code": Case("eval.py", "--model_name_or_path {pickled}"),
    "a model with code of its own": Case("eval.py", "--model_name_or_path {own_code}"),
    "attention from the hub": Case("eval.py", "--attn_implementation someone/kernel"),
    "attention that is not installed, or that the model lacks": Case("eval.py", "--attn_implementation flush"),
    "a tokenizer of another vocabulary": Case("eval.py", "--tokenizer_name {other_tokenizer}"),
    "a chat template with tokens that the model lacks": Case("eval.py", "--chat --model_name_or_path {new_token_chat}"),
    "a teacher of another vocabulary": Case("distill.py", "--teacher_model_name_or_path {other_teacher}"),
    "a classifier of other labels": Case("eval.py", "--model_name_or_path {classifier_of_3}"),
    "a classifier of the labels in another order": Case("eval.py", own(more="--model_name_or_path {classifier_of_2}")),
    "a model that gives NaN": Case("eval.py", "--model_name_or_path {nan_model}"),
    "weights that are infinite from the start": Case("ft.py", "--model_name_or_path {infinite}"),
    "k above the vocabulary": Case("distill.py", "--support topk --topk 99999"),
    "k above half of it, where the teacher's are compared, too": Case("distill.py", "--task notes --answers mixed --topk 400"),
    "a student with more logits than its teacher": Case(
        "distill.py", f"--support vocab --teacher_model_name_or_path {CHECKPOINT} --model_name_or_path {{wide}}"
    ),
    "a student that writes and has more logits than its teacher": Case(
        "distill.py", f"--task notes --answers student --teacher_model_name_or_path {CHECKPOINT} --model_name_or_path {{wide}}"
    ),
    "distributions that do not fit in memory": Case("distill.py", "--task notes --support vocab", no_memory),
    "a cartridge with nothing to train": Case("distill.py", "--use_cartridge --cartridge_frozen_tokens 999"),
    "no context": Case("distill.py", "--num_shots 0"),
    "distillation with --context none": Case("distill.py", "--task notes --context none --num_shots 16"),
    "documents of a task without any": Case("distill.py", "--context document --num_shots 16"),
    "several documents for one cartridge": Case("distill.py", f"{ABOUT_TWO} --use_cartridge"),
    "a teacher that cannot read along token by token": Case("distill.py", "--task notes --answers mixed", shares_nothing),
    "several contexts for text answers": Case("distill.py", "--task notes --num_contexts 2"),
    "labels of text answers": Case("distill.py", "--task notes --support labels"),
    "the right label of text answers": Case("distill.py", "--task notes --context label --num_shots 16"),
    "patterns that differ for text answers": Case("distill.py", "--task notes --student_pattern 'Q: {{text1}} Answer:'"),
    "an invalid pattern of answers": Case("distill.py", "--task notes --answer_pattern ("),
    "a pattern of answers without a group": Case("distill.py", "--task notes --answer_pattern Answer:"),
    "a pattern that fits no answer": Case("distill.py", "--task notes --answer_pattern Answer:(.+)"),
    "a flag for answers of another kind": Case("distill.py", "--task notes --calibrate"),
    "one context after the other in one run": Case("distill.py", "--num_contexts 2 --context_schedule sequential"),
    "a teacher for each of them": Case("distill.py", "--stage_teacher=last"),
    "a cache that cannot be written to": Case("distill.py", "--teacher_cache_dir {good}"),
    "pairs in a file of another kind": Case("self_study", f"{STUDY} --context_file {{short_text}} --output_file pairs.csv"),
    "no file for the pairs": Case("self_study", "--model_name_or_path notes --context_file {short_text}"),
    "no documents to study": Case("self_study", STUDY),
    "a file of other pairs": Case(
        "self_study", "--model_name_or_path notes --output_file {questions} --context_file {short_text}"
    ),
    "seed prompts that are no texts": Case(
        "self_study", f"{STUDY} --context_file {{short_text}} --seed_prompts {{empty_prompts}}"
    ),
    "fewer than two runs to put together": Case("compose", "--runs {lora_run},{lora_run}/"),
    "an unknown way to merge": Case("compose", "--runs {lora_run},{other_run} --merge cat,svd"),
    "a run without a student": Case("compose", "--runs {lora_run},{folder}"),
    "a student that cannot be put together": Case("compose", "--runs {lora_run},{ia3_run}"),
    "adapters that do not go together": Case("compose", "--runs {lora_run},{cartridge_run}"),
    "runs that are scored by different metrics": Case("compose", "--runs {lora_run},{ruled_run}"),
    "cartridges that are to be merged": Case("compose", "--runs {cartridge_run},{same_cartridge_run} --merge cat"),
    "adapters of different ranks": Case("compose", "--runs {lora_run},{other_run}"),
    "a GPU that is not there": Case("eval.py", "", gpu_asked_for, cpu=False),
    "a GPU's precision without GPU": Case("ft.py", "--bf16", cpu=False),
    "DeepSpeed's float16 on a CPU without it": Case("ft.py", "--deepspeed zero2 --fp16", no_float16),
    "a GPU's network without GPU": Case("ft.py", "--ddp_backend nccl"),
    "ranks that no launcher has numbered": Case("eval.py", "", variables(WORLD_SIZE="2")),
    "a rank beyond the number of ranks": Case("eval.py", "", third_of_two),
    "a rank that is no number": Case("eval.py", "", variables(LOCAL_RANK="first", WORLD_SIZE="1")),
    "ranks on several machines that do not know where to meet": Case(
        "eval.py", "", variables(RANK="0", LOCAL_RANK="0", WORLD_SIZE="4", LOCAL_WORLD_SIZE="2")
    ),
    "a port that another launch uses": Case("eval.py", "", port_in_use),
    "ranks that are asked for different runs": Case("eval.py", "", other_runs),
    "a rank that accelerate takes for another": Case("eval.py", "", another_rank),
    "no such config of DeepSpeed": Case("ft.py", "--deepspeed /nowhere.json"),
    "a config of DeepSpeed that does not parse": Case("ft.py", "--deepspeed {broken_json}"),
    "a config of DeepSpeed that is no object": Case("ft.py", "--deepspeed {empty_list}"),
    "a section that is no object": Case("ft.py", "--deepspeed {zero_number}"),
    "a setting of ZeRO that is wrong": Case("ft.py", "--deepspeed {zero_nine}"),
    "a config that contradicts the arguments": Case("ft.py", "--deepspeed {batch_of_7}"),
    "another stage than named": Case("ft.py", "--deepspeed {zero_two} --deepspeed_stage 3"),
    "contexts by turns under ZeRO-3": Case(
        "distill.py",
        "--deepspeed zero3 --teacher_mode online --context_schedule cycle --num_contexts 2 --use_adapter --adapter_type lora",
    ),
    "on-policy answers under ZeRO-3": Case(
        "distill.py", "--task notes --answers student --deepspeed zero3 --use_adapter --adapter_type lora"
    ),
    "on-policy answers of a student that is its own teacher under DeepSpeed": Case(
        "distill.py", "--task notes --answers student --deepspeed zero2"
    ),
    "an output folder that cannot be": Case("eval.py", "--output_dir {good}"),
    "a csv of in-context learning that is damaged": Case("eval.py", "--output_dir {spoilt_csv}"),
    "an output folder that the system does not make": Case("eval.py", "", no_folder),
    "a full disk": Case("ft.py", "", full_disk),
    "a loss of NaN or infinity": Case("ft.py", "", loss_of_nan),
    "a loss of NaN from the start": Case("ft.py", "", first_loss_of_nan),
    "a divergence that is infinite": Case("distill.py", "", infinite_loss),
    "weights of NaN or infinity": Case("ft.py", RESUMABLE, weights_of_nan),
    "a device without room in training": Case("ft.py", "", no_room),
    "a device without room for the model": Case("eval.py", "", no_room_for_the_model),
    "a device without room in evaluation": Case("eval.py", "--max_batch_tokens 4000", no_room_to_read),
    "a device without room for the context": Case("eval.py", "", no_room_for_the_context),
    "a damaged checkpoint": Case("ft.py", RESUMABLE, damaged_checkpoint),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizers):
    """Names -> files and folders that cause errors."""
    folder = tmp_path_factory.mktemp("files")
    rows = [{"text1": f"row {i}", "label": ("no", "yes")[i % 2]} for i in range(20)]

    def lines(rows):
        return "".join(json.dumps(row) + "\n" for row in rows)

    texts = {
        "good.jsonl": lines(rows),
        "second.jsonl": lines([{**row, "text2": "a second one"} for row in rows]),
        "empty.csv": "",
        "header.csv": "text1,label\n",
        "no_queries.csv": "text1,text2\n",
        "sheet.xlsx": "PK",
        "nan.jsonl": lines([{**rows[0], "text1": float("nan")}, *rows[1:]]),
        "numbers.jsonl": lines([{**row, "label": i % 2} for i, row in enumerate(rows)]),
        "sentiment.jsonl": lines([{**row, "label": i % 3 - 1} for i, row in enumerate(rows)]),
        "booleans.jsonl": lines([{**row, "label": i % 2 == 1} for i, row in enumerate(rows)]),
        "high.jsonl": lines([{**rows[0], "label": 2}]),
        "other_label.jsonl": lines([{**rows[0], "label": "perhaps"}]),
        "mixed.jsonl": lines([{**rows[0], "label": 5}, *rows[1:]]),
        "newlines.jsonl": lines([{**rows[0], "text1": "row 0\n\n"}, rows[1]]),
        "empty_text.jsonl": lines([{**row, "text1": ""} for row in rows]),
        "unlabelled.jsonl": lines([{**rows[0], "label": None}, *rows[1:]]),
        "one_label.jsonl": lines(rows[::2]),
        "case.jsonl": lines([{**rows[0], "label": "NO"}, *rows[1:]]),
        "questions.jsonl": lines([{"text1": "Who?", "answer": "Ada", "document": "It was Ada."}] * 2),
        "two_lines.jsonl": lines([{"text1": "plum =", "answer": " first(\n1)"}] * 2),
        "unanswered.jsonl": lines([{"text1": "Who?", "answer": None}]),
        "requests.jsonl": lines([{"text1": "Who?", "rules": ["polite"]}] * 8),
        "listed_category.jsonl": lines([{"text1": "Who?", "answer": "Ada", "category": ["who"]}]),
        "rules.json": '{"lower": {"check": "lower_case"}}',
        "named_rules.json": '{"Lower case": {"check": "lower_case"}}',
        "odd_rules.json": '{"polite": {"check": "is_polite"}}',
        "short_rules.json": '{"ending": {"check": "ends_with", "text": ""}}',
        "long_rules.json": '{"lower": {"check": "lower_case", "text": "abc"}}',
        "lost.jsonl": lines([{"text1": "Who?", "answer": "Ada", "document": "guide-12345678"}]),
        "blank.jsonl": lines([{"text1": "Who?", "answer": "Ada", "document": " "}]),
        "other_chunk.jsonl": lines([{"text1": "Who?", "chunk": "0-7-00000000"}] * 8),
        "no_chunk.jsonl": lines([{"text1": "Who?", "chunk": "the second"}] * 8),
        "about_other.jsonl": lines(
            [{"query": "Who?", "answer": "A", "answer_ids": None, "document": f"{name}.txt"} for name in ("short_text", "other")]
        ),
        "by_name.jsonl": lines([{"text1": "Who?", "answer": "Ada", "document": "short_text.txt"}]),
        "two.jsonl": lines([{"text1": "Who?", "answer": "Ada", "document": f"It was {name}."} for name in ("Ada", "Ben")] * 4),
        **{f"{name}.jsonl": lines([row]) for name, row in talks().items()},
        "semicolons.csv": "text1;label\na;0\n",
        "quoted.tsv": 'text1\tlabel\n"say ""hi"""\t0\n',
        "spaced.csv": 'text1,label\nWhen?, "no"\n',
        "by_columns.json": pd.DataFrame(rows).to_json(),
        "tool_turn.jsonl": lines([{"role": "user", "content": "Who?"}, {"role": "tool", "content": "x"}]),
        "short_text.txt": "overlap means Yes",
        "tall.jsonl": lines([{**row, "text1": f"tall {i}"} for i, row in enumerate(rows)]),
        "long_text.txt": "overlap Yes " * 2000,
        "empty_prompts.json": "{}",
        "broken_json.json": "{broken",
        "empty_list.json": "[]",
        "zero_number.json": '{"zero_optimization": 5}',
        "zero_nine.json": '{"zero_optimization": {"stage": 9}}',
        "zero_two.json": '{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}',
        "batch_of_7.json": '{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 7}',
    }
    found = {Path(name).stem: folder / name for name in texts}
    for name, text in texts.items():
        (folder / name).write_text(text)
    found["failing_metric"] = folder / "failing_metric.py"
    found["failing_metric"].write_text(MODULE.replace("RESULT", "1 / 0"))
    found["spoilt_csv"] = folder / "spoilt_csv"
    found["spoilt_csv"].mkdir()
    (found["spoilt_csv"] / "toy_toy_None.csv").touch()
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    pd.DataFrame(rows).to_parquet(folder / "whole.parquet")
    (folder / "cut.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-30])
    found |= {"bytes": folder / "bytes.txt", "cut_parquet": folder / "cut.parquet", "folder": folder / "folder"}
    found["folder"].mkdir()
    found |= files_that_are_something_else(folder)
    return {**found, **models(folder, tokenizers), **finished_runs(folder)}


def talks():
    """Conversations by the names of their files, most of them with something wrong."""
    asked, answered = {"role": "user", "content": "Who?", "document": "It was Ada."}, {"role": "assistant", "content": "Ada"}
    turns = {
        "talk": [asked, answered, asked, answered],
        "talk_twice": [asked, asked, answered],
        "talk_of_text": "Who?",
        "talk_of_nothing": [],
        "talk_of_tool": [asked, {**answered, "role": "tool"}],
        "talk_of_spaces": [asked, {**answered, "content": " "}],
        "talk_of_answer": [answered],
        "talk_of_document": [asked, {**answered, "document": "It was Ada."}],
    }
    return {
        **{name: {"turns": cell, "kind": "a"} for name, cell in turns.items()},
        "talk_and_question": {"turns": [asked], "text1": "Who?"},
    }


def files_that_are_something_else(folder):
    """Files and folders that are complete, but in a form that is not supported."""
    (folder / "latin.csv").write_bytes("text1,label\né,0\n".encode("latin-1"))
    with zipfile.ZipFile(folder / "workbook.csv", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    (folder / "no_texts").mkdir()
    (folder / "no_texts" / "b.parquet").write_bytes(b"PAR1")
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").touch()
    for name, numbers in {"one_of_two": ["00000-of-00002"], "two_downloads": ["00000-of-00001", "00000-of-00002"]}.items():
        (folder / name / "glue" / "sst2").mkdir(parents=True)
        for number in numbers:
            (folder / name / "glue" / "sst2" / f"train-{number}.parquet").touch()
    names = ("latin.csv", "workbook.csv", "no_texts", "saved", "one_of_two", "two_downloads")
    return {Path(name).stem: folder / name for name in names}


def finished_runs(folder):
    """Runs whose students are adapters, with only the files that are checked before one is loaded."""
    settings = {
        "lora_run": {"peft_type": "LORA", "r": 4},
        "other_run": {"peft_type": "LORA", "r": 8},
        "ruled_run": {"peft_type": "LORA", "r": 4},
        "ia3_run": {"peft_type": "IA3"},
        "cartridge_run": {"peft_type": "CARTRIDGE"},
        "same_cartridge_run": {"peft_type": "CARTRIDGE"},
    }
    for name, one in settings.items():
        (folder / name / "model").mkdir(parents=True)
        adapter = json.dumps({**one, "base_model_name_or_path": str(CHECKPOINT)})
        metrics = json.dumps({"headline": {"name": "rules" if name == "ruled_run" else "exact_match"}})
        texts = {"model/adapter_config.json": adapter, "config.json": "{}", "metrics.json": metrics, "DONE": ""}
        for file, text in texts.items():
            (folder / name / file).write_text(text)
    return {name: folder / name for name in settings}


def models(folder, tokenizers):
    """Models with something wrong."""

    def model(name):
        shutil.copytree(CHECKPOINT, folder / name)
        return folder / name

    def cut(file, size):
        file.write_bytes(file.read_bytes()[:size])

    def configure(path, **settings):
        file = path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    names = "cut_model no_tokenizer cut_tokenizer more_layers no_base pickled own_code other_tokenizer other_teacher nan_model"
    made = {name: model(name) for name in [*names.split(), "infinite", "prefix"]}
    chat = "{% for m in messages %}{{ m.content }}\n\n{% endfor %}"
    templates = {
        "chat": chat,
        "failing_chat": "{{ raise_exception('not today') }}",
        "no_system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + chat,
        "alternating_chat": "{% for m in messages %}{% if not loop.first and m.role == loop.previtem.role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + chat,
        "counting_chat": chat.replace("}}\n", "}}{{ ' ' ~ loop.index if m.role == 'assistant' }}\n"),
        "upper_chat": chat.replace("m.content", "m.content | upper"),
        "thinking_chat": chat + "{% if add_generation_prompt %}<think>{% endif %}",
        "new_token_chat": "<|turn|>" + chat,
        "uneven_chat": "{% if messages[0].role != 'system' %}tall{% endif %}" + chat,
    }
    for name, template in templates.items():
        made[name] = model(name)
        (made[name] / "chat_template.jinja").write_text(template)
    tokenizer = AutoTokenizer.from_pretrained(made["new_token_chat"])
    tokenizer.add_tokens("<|turn|>", special_tokens=True)
    tokenizer.save_pretrained(made["new_token_chat"])
    made["no_ada"] = model("no_ada")
    tokenizer = json.loads((made["no_ada"] / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "Ada"}, "content": ""}
    (made["no_ada"] / "tokenizer.json").write_text(json.dumps(tokenizer))
    cut(made["cut_model"] / "model.safetensors", 50000)
    cut(made["cut_tokenizer"] / "tokenizer.json", 500)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made["no_tokenizer"] / name).unlink()
    configure(made["more_layers"], num_hidden_layers=9)
    (made["no_base"] / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    prefix = '{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "base_model_name_or_path": "toy"}'
    (made["prefix"] / "adapter_config.json").write_text(prefix)
    (made["pickled"] / "model.safetensors").unlink()
    torch.save({"weight": RunsCode(folder / "code_has_run")}, made["pickled"] / "pytorch_model.bin")
    configure(made["own_code"], model_type="ours", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    tokenizers["opt"].save_pretrained(made["other_tokenizer"])
    vocabulary = json.loads((made["other_teacher"] / "tokenizer.json").read_text())
    text = (made["other_teacher"] / "tokenizer.json").read_text()
    assert "overlap" in vocabulary["model"]["vocab"] or "Ġoverlap" in text
    (made["other_teacher"] / "tokenizer.json").write_text(text.replace("overlap", "overlep"))
    weights = load_file(made["nan_model"] / "model.safetensors")
    weights[next(name for name in weights if "q_proj.weight" in name)][:] = torch.nan
    save_file(weights, made["nan_model"] / "model.safetensors", metadata={"format": "pt"})
    weights = load_file(made["infinite"] / "model.safetensors")
    weights[next(name for name in weights if "final_layer_norm.bias" in name)][3] = -torch.inf
    save_file(weights, made["infinite"] / "model.safetensors", metadata={"format": "pt"})
    made["resized"] = folder / "resized"
    of_a_resized_base(made["resized"], CHECKPOINT, 300, target_modules=["embed_tokens"])
    for names in (["yes", "no"], ["no", "yes", "maybe"]):
        folder_of = made[f"classifier_of_{len(names)}"] = model(f"classifier_of_{len(names)}")
        classifier = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
        put_head(classifier, "linear", names, 0)
        save_head(classification_head(classifier), folder_of)
    made["bart"] = model("bart")
    bart = BartConfig(
        vocab_size=600, d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, is_decoder=True
    )
    BartForCausalLM(bart).save_pretrained(made["bart"])
    return {**made, "wide": padded(folder / "wide")}


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_every_row_has_a_case():
    assert list(CASES) == list(ROWS)


@pytest.mark.parametrize("what", ROWS)
def test_the_line_and_nothing_else(what, files, tmp_path, monkeypatch, capsys):
    case = CASES[what]
    if torch.cuda.is_available() and "GPU" in what:
        pytest.skip("needs a machine without a GPU")
    monkeypatch.chdir(tmp_path)
    words = [word.strip("'").format(**files) for word in re.findall(r"'[^']*'|\S+", case.arguments)]
    base = ["--output_dir", "out", *SMALL[case.script].split(), *(["--use_cpu"] if case.cpu else [])]
    base = {"self_study": [*base[:2], "--use_cpu"], "compose": base[:2]}.get(case.script, base)
    named = case.script in ("self_study", "compose") or {"--train_file", "--task"} & {*words}
    base = base if named else ["--task", "toy", *base]
    argv = last_wins([*base, *words]) if what != "an argument given twice" else [*base, *words]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "earlier").write_text("a result")
    if what == "a damaged checkpoint":
        with monkeypatch.context() as patch:
            loss_of_nan(patch)
            stop(case.script, argv)
        assert list((tmp_path / "out").rglob("checkpoint-1"))
    before = snapshot(tmp_path)
    if case.breaks:
        case.breaks(monkeypatch)
    capsys.readouterr()
    stop(case.script, argv)
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert re.fullmatch("error: " + pattern(ROWS[what]), line), line
    after = {path: content for path, content in snapshot(tmp_path).items() if "teacher_cache" not in path.parts}
    assert after == before
    assert not (files["folder"].parent / "code_has_run").exists()


def stop(script, argv):
    """Run an entry script; it must exit with status 2."""
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: MAIN[script](argv))
    assert caught.value.code == 2
