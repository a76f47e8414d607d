"""Which models are the same and which are not, and the work it takes to find out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmft.models.identity import fingerprint_model
from llmft.models.parts.saving import save_student
from llmft.runs import file_hashes
from llmft.runs.file_hashes import cache_dir
from tests.conftest import adapted, tiny_model

LARGE = 5_000_000


@pytest.fixture
def saved(tmp_path):
    tiny_model("opt").save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def named(folder, **options):
    return fingerprint_model(str(folder), "main", **options)


def train(model, name, seed):
    """Change the weights whose names contain `name`, or a single row of the embeddings."""
    torch.manual_seed(seed)
    with torch.no_grad():
        if name == "embedding row":
            model.get_input_embeddings().weight[-3] += torch.randn(model.config.hidden_size)
        for weight_name, weight in model.named_parameters():
            if name in weight_name and weight.requires_grad:
                weight += torch.randn(weight.shape)


@pytest.mark.parametrize("what", ["lora", "ia3", "bias", "layers.0.self_attn_layer_norm.weight", "embedding row"])
def test_students_of_which_little_was_trained_are_two(saved, tmp_path, what):
    part = what if what in ("lora", "ia3") else None
    for seed in range(2):
        model = adapted(AutoModelForCausalLM.from_pretrained(saved), part)
        train(model, f"{what}_" if part else what, seed)
        save_student(model, tmp_path / str(seed))
    files = [sorted((file.name, file.stat().st_size) for file in (tmp_path / str(seed)).iterdir()) for seed in range(2)]
    assert files[0] == files[1]
    assert named(tmp_path / "0") != named(tmp_path / "1")


def set_modules(folder, modules):
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "nobody/base", "target_modules": modules, "layers": [1, 2]})
    )


def test_every_file_that_is_loaded_counts_and_no_other(saved):
    mark = named(saved)
    for name in (
        "README.md",
        "optimizer.pt",
        "rng_state_0.pth",
        ".cache/x.json",
        "checkpoint-5/config.json",
        "q.gguf",
        "run/a.txt",
    ):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("x")
        assert named(saved) == mark, name
    (saved / "checkpoint-5" / "model.safetensors").write_text("x")
    assert named(saved) == mark
    seen = {mark}
    for name in ("modeling_own.py", "layers/parts.py", "additional_chat_templates/tool.jinja", "generation_config.json"):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("another")
        seen.add(named(saved))
    assert len(seen) == 5


def test_of_several_gguf_files_the_one_that_is_named_counts(saved):
    for name in ("a.gguf", "b.gguf"):
        (saved / name).write_bytes(name.encode() * 100)
    a, b = (named(saved, gguf_file=name) for name in ("a.gguf", "b.gguf"))
    (saved / "b.gguf").write_bytes(b"c.gguf" * 100)  # a setting or a token
    assert named(saved, gguf_file="a.gguf") == a != b != named(saved, gguf_file="b.gguf")


def test_an_adapter_on_a_gguf_file_goes_by_that_file(saved, tmp_path):
    (saved / "m.gguf").write_bytes(b"a setting, a token" * 100)
    model = AutoModelForCausalLM.from_pretrained(saved)
    model.gguf_file = "m.gguf"
    save_student(adapted(model, "lora"), tmp_path / "a")
    mark = named(tmp_path / "a")
    assert named(tmp_path / "a", gguf_file="m.gguf") == mark
    (saved / "m.gguf").write_bytes(b"another, and tokens" * 100)
    assert named(tmp_path / "a") != mark


def test_an_adapters_modules_are_a_set_and_its_other_lists_are_not(tmp_path):
    set_modules(tmp_path, ["q", "v"])
    mark = named(tmp_path)
    set_modules(tmp_path, ["v", "q"])
    assert named(tmp_path) == mark
    text = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(text.replace("[1, 2]", "[2, 1]"))
    assert named(tmp_path) != mark


def test_a_hub_model_goes_by_its_commit_where_the_cache_knows_it(tmp_path):
    place = tmp_path / "models--some--model"
    for commit in ("a" * 40, "b" * 40):
        (place / "snapshots" / commit).mkdir(parents=True)
        (place / "snapshots" / commit / "config.json").write_text("{}")
    (place / "refs").mkdir()
    for commit in ("a" * 40, "b" * 40):
        (place / "refs" / "main").write_text(commit)
        assert fingerprint_model("some/model", "main", cache_dir=str(tmp_path)) == f"some/model@{commit}"
    assert fingerprint_model("some/other", "main", cache_dir=str(tmp_path)) == "some/other@main"


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


def weights(folder):
    return folder / "model.safetensors"


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A folder with a file whose hash is kept, in a cache of its own."""
    monkeypatch.setenv("LLMFT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    weights(tmp_path / "m").write_bytes(os.urandom(LARGE))
    return tmp_path / "m"


def kept():
    return [*cache_dir().glob("*.json")]


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="needs the system's count of bytes read")
def test_a_known_folder_is_not_read_again_until_it_is_touched(large, monkeypatch):
    marks, read = [], []
    for settled, touch in ((False, False), (True, False), (True, False), (True, True)):
        monkeypatch.setattr(file_hashes, "SETTLED_S", -1 if settled else 1e9)
        if touch:
            os.utime(weights(large))
        before = bytes_read()
        marks.append(named(large))
        read.append(bytes_read() - before)
    assert len(set(marks)) == 1
    assert read[0] > LARGE
    assert read[1] > LARGE  # it was too new to be kept
    assert read[2] < LARGE / 10
    assert read[3] > LARGE


@pytest.mark.parametrize("how", ["in place", "another file"])
def test_new_content_of_the_old_size_and_time_is_seen(large, how):
    file = weights(large)
    state, mark = file.stat(), named(large)
    assert len(kept()) == 1
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    if how == "another file":
        file.unlink()
    file.write_bytes(changed)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert named(large) != mark


def test_where_nothing_can_be_kept_the_names_are_the_same(large, tmp_path, monkeypatch):
    mark = named(large)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMFT_CACHE_DIR", str(tmp_path / "file"))
    assert named(large) == mark


def test_kept_hashes_that_are_damaged_do_no_harm(large):
    mark = named(large)
    (entry,) = kept()
    whole = entry.read_text()
    for damaged in ('{"hash": 1', "", "[]", '{"hash": "1"}', whole[: len(whole) // 2]):
        entry.write_text(damaged)
        assert named(large) == mark
        assert entry.read_text() == whole


def test_many_processes_give_one_name(large):
    code = f"from llmft.models.identity import fingerprint_model as f; print(f({str(large)!r}, 'main'))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=300)[0].strip() for process in running} == {named(large)}
    assert not list(cache_dir().rglob("*.lock"))
