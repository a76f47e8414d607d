"""distill.py with another model as the teacher."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch

from llmft.evaluation.labels import Labels
from llmft.evaluation.scorer import Scorer
from llmft.models.reading.batches import BatchSize
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from llmft.worlds.nli import CHECKPOINT
from tests.conftest import adapted, tiny_model
from tests.pipelines.conftest import run
from tests.pipelines.test_distill_modes import SHORT, SLOW, assert_same_training


def test_another_teacher_of_another_size(tmp_path):
    from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

    config = OPTConfig.from_pretrained(CHECKPOINT)
    config.num_hidden_layers, config.hidden_size, config.word_embed_proj_dim, config.ffn_dim = 3, 96, 96, 128
    torch.manual_seed(1)
    OPTForCausalLM(copy.deepcopy(config)).save_pretrained(tmp_path / "big")
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(tmp_path / "big")
    for mode in ("precompute", "online"):
        larger = ("--teacher_model_name_or_path", tmp_path / "big", "--teacher_mode", mode)
        record = run("distill.py", tmp_path / "out", *SHORT, *larger)
        assert record.metrics["stages"]["teacher"] != record.metrics["stages"]["before"]


def padded(folder):
    """The embedded world's model with 15 more rows in its output layer, which it finds the most likely."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    model.resize_token_embeddings(model.config.vocab_size + 15, mean_resizing=False)
    with torch.no_grad():
        answers = model.get_output_embeddings().weight
        answers[-15:] = 3 * answers[AutoTokenizer.from_pretrained(CHECKPOINT).convert_tokens_to_ids("Yes")]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mode", ["precompute", "online"])
@pytest.mark.parametrize("support", [("--support", "topk", "--topk", 5), ("--support", "vocab")])
def test_rows_that_pad_a_teachers_output_layer_are_no_tokens(tmp_path, support, mode):
    words = (*SHORT, *SLOW, *support, "--teacher_mode", mode, "--teacher_model_name_or_path")
    plain = run("distill.py", tmp_path / "plain", *words, CHECKPOINT)
    wide = run("distill.py", tmp_path / "wide", *words, padded(tmp_path / "teacher"))
    assert_same_training(plain, wide, 1e-5)


def test_a_student_with_more_logits_than_its_teacher_learns_its_largest(tmp_path):
    words = ("--teacher_model_name_or_path", CHECKPOINT, "--model_name_or_path", padded(tmp_path / "wide"))
    record = run("distill.py", tmp_path / "out", *SHORT, *SLOW, *words, "--support", "topk", "--topk", 5)
    assert record.metrics["stages"]["teacher"] != record.metrics["stages"]["before"]


def test_another_teacher_is_out_of_memory_once_it_has_answered(tmp_path, monkeypatch):
    from llmft.pipelines import teachers
    from llmft.training.ft_trainer import FtTrainer

    models, original, compute_loss, alive = [], teachers.teacher_model, FtTrainer.compute_loss, []

    def watched(*args):
        loaded = original(*args)
        models.append(weakref.ref(loaded[0]))
        return loaded

    def looking(*args, **kwargs):
        gc.collect()
        alive.append(models[0]() is not None)
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(teachers, "teacher_model", watched)
    monkeypatch.setattr(FtTrainer, "compute_loss", looking)
    for mode, stays in (("precompute", False), ("online", True)):
        models.clear(), alive.clear()
        run("distill.py", tmp_path, *SHORT, "--teacher_model_name_or_path", CHECKPOINT, "--teacher_mode", mode)
        assert alive == [stays, stays]


def test_room_for_a_teachers_virtual_tokens_is_free_again_for_its_student(tokenizers):
    student = tiny_model("opt")
    teacher = adapted(tiny_model("opt"), "soft_prompt", num_soft_prompt_tokens=4)
    row = {"text1": "the cat sat on a mat", "text2": None, "label": 0, "idx": 0}
    prompter = Prompter(tokenizers["opt"], PromptFormat("{text1} ?", "", r"\n", ("Yes", "No")))
    prompter = replace(prompter, max_length=prompter.prompts([row]).longest)
    scorer = Scorer.create(teacher, prompter, Labels, row, BatchSize(1))
    assert scorer.prompter.prompts([row]).shortened == 1
    assert scorer.with_model(student).prompter.prompts([row]).shortened == 0
