"""Students without llmft: what plain transformers and peft load, with the card's own code, scores as the record says."""

import json
import re
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForCausalLM

from llmft.errors import InputError
from llmft.models.load import load_model
from llmft.worlds.nli import CHECKPOINT
from llmft.worlds.nli.world import toy_splits
from tests.conftest import tiny_model
from tests.models.test_load import write_gguf
from tests.pipelines.conftest import IN_DOMAIN, MAIN, Record, last_wins, run

SHORT = ("--max_eval_samples", 8, "--max_train_samples", 8, "--num_train_epochs", 1, "--learning_rate", 1e-2)
SHORT += ("--per_device_train_batch_size", 4, *IN_DOMAIN)
PARTS = {
    "full": (),
    "bitfit": ("--bitfit",),
    "head_only": ("--head_only",),
    "lora": ("--use_adapter", "--adapter_dim", 2),
    "wide lora": ("--use_adapter", "--adapter_dim", 3, "--lora_alpha", 5, "--lora_targets", "query-value"),
    "ia3": ("--use_adapter", "--adapter_type", "ia3"),
    "soft_prompt": ("--use_soft_prompt", "--num_soft_prompt_tokens", 3),
    "cartridge": ("--use_cartridge", "--cartridge_tokens", 3),
    "parallel": ("--use_adapter", "--adapter_type", "parallel"),
}
STACKS = [(part,) for part in PARTS if part not in ("parallel", "wide lora")]
STACKS += [(first, second) for first in ("lora", "ia3", "full") for second in ("wide lora", "ia3")]
STACKS += [("lora", "soft_prompt"), ("lora", "wide lora", "lora")]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The run that trains the last part of a stack, each on the student of those before it."""

    @cache
    def trained(*parts, more=()):
        below = ("--model_name_or_path", trained(*parts[:-1], more=more).path / "model") if parts[:-1] else ()
        return run("ft.py", tmp_path_factory.mktemp("runs"), *SHORT, *PARTS[parts[-1]], *below, *more)

    return trained


@cache
def queries():
    return {row["idx"]: "{text1} {text2} ?".format(**row) for row in toy_splits(None, 0)["validation"]}


def expected(record: Record):
    return record.predictions.query("stage == 'after' and set == 'toy'")


def plain_scores(model, tokenizer, record, *, special=True):
    """Log-probabilities of the labels after each query of the record, by plain transformers."""
    labels = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    found = []
    for idx in expected(record).idx:
        ids = tokenizer(queries()[idx], return_tensors="pt", add_special_tokens=special).input_ids
        with torch.no_grad():
            found.append(model(input_ids=ids).logits[0, -1].float().log_softmax(-1)[labels].tolist())
    return np.array(found)


def by_the_card(folder, monkeypatch):
    """Model and tokenizer as the code in the folder's card loads them."""
    monkeypatch.chdir(folder)
    text = (folder / "README.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    return names["model"], names["tokenizer"], "add_special_tokens=False" not in text


@pytest.mark.parametrize("stack", STACKS, ids=" on ".join)
def test_the_cards_code_gives_the_records_scores(student, tmp_path, monkeypatch, stack):
    record = student(*stack)
    want = np.stack(expected(record).token_logprobs)
    moved = shutil.copytree(record.path / "model", tmp_path / "moved")
    model, tokenizer, special = by_the_card(moved, monkeypatch)
    np.testing.assert_allclose(plain_scores(model, tokenizer, record, special=special), want, atol=1e-5, rtol=1e-5)
    if hasattr(model, "merge_and_unload"):
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        np.testing.assert_allclose(plain_scores(merged, tokenizer, record), want, atol=1e-5, rtol=1e-5)
    if len(stack) > 1 and set(stack) <= {"lora", "wide lora"}:  # one adapter, on the model that is no student
        settings = json.loads((moved / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"].endswith("nli/checkpoint")
        assert not (moved / "start").exists()


@pytest.mark.parametrize("stack", [("lora",), ("lora", "lora")], ids=" on ".join)
def test_a_student_is_evaluated_in_the_precision_of_its_training(student, tmp_path, capsys, stack):
    record = student(*stack, more=("--torch_dtype", "bfloat16"))
    arguments = ("--model_name_or_path", record.path / "model", "--num_shots", 0, "--max_eval_samples", 8, *IN_DOMAIN)
    again = run("eval.py", tmp_path, *arguments).predictions.query("set == 'toy'")
    assert np.array_equal(np.stack(again.token_logprobs), np.stack(expected(record).token_logprobs))
    run("ft.py", tmp_path, *SHORT, "--use_adapter", "--model_name_or_path", record.path / "model")
    assert "was trained in bfloat16 and is loaded in float32" in capsys.readouterr().err


def test_a_student_on_the_hub_is_evaluated_in_the_precision_of_its_training(tmp_path):
    snapshot = tmp_path / "hub" / "models--some--student" / "snapshots" / ("a" * 40)
    shutil.copytree(CHECKPOINT, snapshot)
    (snapshot / "student.json").write_text('{"dtype": "bfloat16"}')
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    arguments = ("--model_name_or_path", "some/student", "--cache_dir", tmp_path / "hub")
    arguments += ("--num_shots", 0, "--max_eval_samples", 8, *IN_DOMAIN)
    scores = [
        np.stack(run("eval.py", tmp_path / dtype, *arguments, *more).predictions.token_logprobs)
        for dtype, more in (("own", ()), ("half", ("--torch_dtype", "bfloat16")), ("full", ("--torch_dtype", "float32")))
    ]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_answers_of_a_student_end_as_in_its_run(tmp_path, capsys):
    asked = ("--task", "notes", "--max_eval_samples", 4, *IN_DOMAIN, "--max_new_tokens", 8)
    training = ("--max_train_samples", 4, "--max_steps", 1, "--no_evaluate_with_context", "--no_evaluate_elsewhere")
    record = run("distill.py", tmp_path, *asked, *training, *PARTS["lora"], "--stop", r"ated|\n\n")
    student = ("--context", "none", "--model_name_or_path", record.path / "model")
    after = list(record.predictions.query("stage == 'after'").prediction)
    assert set(after) == {"not st"}  # of "not stated", which the model answers without the document
    capsys.readouterr()
    again = run("eval.py", tmp_path, *asked, *student)
    assert list(again.predictions.prediction) == after
    assert r"model: answers also end with 'ated' or '\n\n', as in the run that trained it; --stop" in capsys.readouterr().err
    assert set(run("eval.py", tmp_path, *asked, *student, "--stop", "").predictions.prediction) == {"not stated"}
    second = run("distill.py", tmp_path, *asked, *training, *PARTS["lora"], *student[2:], "--stop", "")
    assert "stop" not in json.loads((second.path / "model" / "student.json").read_text())
    capsys.readouterr()
    run("distill.py", tmp_path, *asked, *training, *PARTS["lora"], *student[2:], "--teacher_model_name_or_path", "notes")
    said = r"the student's answers do not end with 'ated' or '\n\n' here, since its teacher's do not; --stop ends"
    assert said in capsys.readouterr().err
    second = run("ft.py", tmp_path, *asked, *training[:4], "--no_evaluate_elsewhere", *PARTS["lora"], *student[2:])
    assert json.loads((second.path / "model" / "student.json").read_text())["stop"] == ["ated", "\n\n"]
    assert r'also end with "ated" or "\n\n"' in (second.path / "model" / "README.md").read_text()


def test_the_card_says_what_there_is_to_know(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_API_KEY", "a-secret-that-nobody-may-see")
    told = "Say Yes or No, a-secret-that-nobody-may-see"
    (tmp_path / "notes.txt").write_text(f"```Tourists{'s' * 3000}")
    context = ("--context", "demonstrations,instruction,file", "--instruction", told, "--context_file", tmp_path / "notes.txt")
    arguments = (*SHORT, "--num_shots", 2, *context, "--label_delimiter", "\\n")
    monkeypatch.setattr("sys.argv", ["/somewhere/distill.py", "--local_rank=0", "--task", "toy one"])
    evaluated = ("--eval_strategy", "epoch", "--save_best_models")
    record = run("distill.py", tmp_path, *arguments, *evaluated, "--use_adapter", "--adapter_type", "parallel")
    card = ModelCard.load(record.path / "model" / "README.md")
    assert card.data.tags == ["llmft", "distill-parallel"]
    shown = record.json("config")["draws"]["demonstrations"][0]
    for text in ("Say Yes or No, ***", ", ".join(map(str, shown)), "| teacher |", "after (these weights)", "CPU "):
        assert text in card.content
    for text in (
        '"pattern": "{text1} {text2} ?"',
        '"delimiter": "\\n",\n  "words": [\n    "Yes",',
        "- learning rate 0.01, 1 epoch\n",
    ):
        assert text in card.content
    assert "(3011 characters, the first 2000 of which follow):\n\n````\n```Touristsss" in card.content
    assert "```bash\npython distill.py --task 'toy one'\n```" in card.content
    assert "best-in-domain (these weights)" in (record.path / "model_best_in_domain" / "README.md").read_text()
    assert "```python" not in card.content
    assert "note: Parallel adapters are llmft's own format" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["full", "lora"])
def test_weights_of_a_gguf_file_are_trained(tmp_path, monkeypatch, tokenizers, part):
    (tmp_path / "base").mkdir()
    write_gguf(tiny_model("llama"), tokenizers["gpt2"], tmp_path / "base" / "m.gguf")
    base = ("--model_name_or_path", tmp_path / "base", "--gguf_file", "m.gguf")
    record = run("distill.py", tmp_path, *SHORT, *base, "--num_shots", 2, "--target_tokens", "Yes,No", *PARTS[part])
    assert record.metrics["weights"]["trainable"] > 0
    model, *_ = by_the_card(record.path / "model", monkeypatch)
    settings = json.loads(next((record.path / "model").glob("*config.json")).read_text())
    assert "quantization_config" not in settings
    ids = torch.arange(2, 12)[None]
    how = {"dtype": "float32", "attn_implementation": None, "revision": "main", "cache_dir": None}
    ours, _ = load_model(str(record.path / "model"), **how)  # knows the file
    start, _ = load_model(str(tmp_path / "base"), **how, gguf_file="m.gguf")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, ours(ids).logits, atol=1e-6, rtol=0)
        assert not torch.allclose(model(ids).logits, start(ids).logits)


@pytest.mark.parametrize(("divergence", "more"), [("reverse", ()), ("reverse", ("--teacher_mode", "online")), ("jsd", ())])
def test_a_teacher_that_leaves_tokens_out(tmp_path, tokenizers, divergence, more):
    for name in ("whole", "padded"):
        model = tiny_model("gptj")
        if name == "padded":
            with torch.no_grad():
                model.lm_head.bias[len(tokenizers["gpt2"]) :] = -torch.inf
        model.save_pretrained(tmp_path / name)
        tokenizers["gpt2"].save_pretrained(tmp_path / name)
    models = ("--model_name_or_path", tmp_path / "whole", "--teacher_model_name_or_path", tmp_path / "padded")
    arguments = (*SHORT, *models, "--num_shots", 2, "--target_tokens", "Yes,No", "--support", "vocab", "--divergence", divergence)
    if divergence == "jsd":
        assert run("distill.py", tmp_path, *arguments, *more).metrics["stages"]["after"]
    else:
        with pytest.raises(InputError, match=r"^--divergence reverse: the loss of step 1 is inf, .*: the teacher gives no prob"):
            run("distill.py", tmp_path, *arguments, *more)
    own = ("--model_name_or_path", tmp_path / "padded", "--num_shots", 2, "--target_tokens", "Yes,No")
    if not more:  # the student's own start, or trained where nothing is infinite
        with pytest.raises(InputError, match=r"padded: weight lm_head.bias is infinite before training"):
            run("ft.py", tmp_path, *SHORT, *own)
        run("distill.py", tmp_path, *SHORT, *own, *PARTS["lora"], "--support", "vocab", "--divergence", divergence)


@pytest.mark.parametrize("offline", [False, True])
def test_a_finished_student_is_pushed(tmp_path, monkeypatch, capsys, offline):
    calls = {}

    def created(self, name, **how):
        calls["create"] = (self.token, name, how)
        if offline:
            raise OSError("no route to hub-token-1234")
        return type("Repository", (), {"repo_id": f"me/{name}"})

    monkeypatch.setattr(HfApi, "create_repo", created)
    monkeypatch.setattr(HfApi, "create_branch", lambda self, repository, branch, **_: calls.update(branch=(repository, branch)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **how: calls.update(upload=how))
    hub = ("--push_to_hub", "--hub_token", "hub-token-1234", "--hub_private_repo", "True", "--hub_revision", "v1")
    record = run("ft.py", tmp_path, *SHORT, *PARTS["bitfit"], *hub)
    assert calls["create"] == ("hub-token-1234", "toy-pbft-bitfit", {"private": True, "exist_ok": True})
    out, err = capsys.readouterr()
    if offline:
        assert f"hf upload toy-pbft-bitfit {record.path / 'model'} --revision v1" in err
    else:
        assert calls["branch"] == ("me/toy-pbft-bitfit", "v1")
        assert (calls["upload"]["repo_id"], calls["upload"]["folder_path"]) == ("me/toy-pbft-bitfit", str(record.path / "model"))
        assert "pushed: me/toy-pbft-bitfit" in out
    written = "".join(path.read_text() for path in record.path.rglob("*") if path.suffix in (".json", ".md", ".jsonl"))
    calls.clear()
    again = ("--task", "toy", "--output_dir", tmp_path, "--use_cpu", *SHORT, *PARTS["bitfit"], *hub)
    assert MAIN["ft.py"](last_wins(again)) == [record.path]
    assert calls["create"][1] == "toy-pbft-bitfit"  # a finished run's student is pushed as well
    again = capsys.readouterr()
    assert "already finished" in again.out
    assert "hub-token-1234" not in written + out + err + again.out + again.err


def test_flags_of_the_hub_that_nothing_would_read(tmp_path):
    with pytest.raises(InputError, match=r"^--hub_token \*\*\*: has no effect without --push_to_hub"):
        run("ft.py", tmp_path, "--hub_token", "hub-token-1234")
    with pytest.raises(InputError, match="--no_save_final_model"):
        run("ft.py", tmp_path, "--push_to_hub", "--no_save_final_model")
