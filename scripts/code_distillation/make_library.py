"""Write an invented Python library that no model has seen, and rows that ask what its calls return.

    python scripts/code_distillation/make_library.py FOLDER --seed 0

makes FOLDER/library, a module for each depth: calls of depth 1 return a literal, those of depth 2 and 3 a call of the depth
below. FOLDER/train.jsonl asks for calls in four wordings and FOLDER/validation.jsonl for the same calls in another one, which
can be run; FOLDER/unasked.jsonl uses it for calls that are not in the training rows. `category` is the depth. The same seed gives
the same files.
"""

import argparse
import random
from pathlib import Path
from typing import NamedTuple

from llmft.runs.store import write_if_changed, write_json_lines
from llmft.worlds.invented import SYLLABLES

WORDS = (
    "amber anchor barley basalt candle cedar clover copper coral falcon fennel garnet ginger hazel heron indigo ivory juniper "
    "lantern linen maple marble mustard nutmeg ochre olive onyx otter pepper quartz raven saffron silver sparrow thistle tulip "
    "velvet violet walnut willow"
).split()
DEPTHS = 3

TRAIN_WORDINGS = (
    ("import {module}\n\nprint({call})  # prints", " {value}"),
    ("import {module}\n\nresult = {call}\nassert result ==", " {value}"),
    (">>> import {module}\n>>> {call}\n", "{value}"),
    ("import {module}\n\n\ndef test_{name}():\n    self.assertEqual({call},", " {value})"),
)
HELD_OUT_WORDING = ("import {module}\n\nassert {call} ==", " {value}")
"""Query and answer. The held-out one is a program, which `--run_code` runs."""


class Call(NamedTuple):
    """A call and the literal that it returns, as Python source."""

    module: str
    name: str
    call: str
    value: str

    def row(self, wording: tuple[str, str], depth: int) -> dict[str, str]:
        """A row that asks for the value."""
        query, answer = (text.format(**self._asdict()) for text in wording)
        return {"text1": query, "answer": answer, "category": f"depth {depth}"}


def draw_library(seed: int, functions: int, methods: int) -> tuple[dict[str, str], list[list[Call]]]:
    """Module -> its text, and the calls of each depth, those of `functions` before those of `methods`."""
    rng = random.Random(f"library {seed}")
    number = functions + methods
    names = draw_names(rng, DEPTHS * (number + 2))
    values = [*rng.sample(WORDS, number - number // 3), *rng.sample(range(101, 1000), number // 3)]
    rng.shuffle(values)
    modules: dict[str, str] = {}
    below = [Call("", "", repr(value).replace("'", '"'), repr(value).replace("'", '"')) for value in values]
    depths = []
    for _ in range(DEPTHS):
        module, owner = names.pop(), names.pop().capitalize()
        returned = rng.sample(below, number)
        calls = []
        for place, inner in enumerate(returned):
            name = names.pop()
            call = f"{module}.{name}()" if place < functions else f"{module}.{owner}().{name}()"
            calls.append(Call(module, name, call, inner.value))
        modules[module] = module_text(below[0].module, owner, calls, [inner.call for inner in returned], functions)
        depths.append(calls)
        below = calls
    return modules, depths


def module_text(imported: str, owner: str, calls: list[Call], returned: list[str], functions: int) -> str:
    """A module of functions and a class, each of whose calls returns an expression."""
    bodies = [*zip(calls, returned, strict=True)]
    parts = [f"import {imported}\n\n\n"] if imported else []
    parts += [f"def {call.name}():\n    return {value}\n\n\n" for call, value in bodies[:functions]]
    parts += [f"class {owner}:\n"]
    parts += [f"    def {call.name}(self):\n        return {value}\n\n" for call, value in bodies[functions:]]
    return "".join(parts).rstrip("\n") + "\n"


def draw_names(rng: random.Random, number: int) -> list[str]:
    """A number of different invented names."""
    pairs = [first + second for first in SYLLABLES for second in SYLLABLES if first != second]
    return rng.sample(pairs, number)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--functions", type=int, default=8, choices=range(2, 21), help="per depth (default: %(default)s)")
    parser.add_argument("--methods", type=int, default=4, choices=range(1, 11), help="per depth (default: %(default)s)")
    parser.add_argument("--unasked", type=int, default=2, choices=range(3), help="calls per depth that are not trained on")
    arguments = parser.parse_args()
    modules, depths = draw_library(arguments.seed, arguments.functions, arguments.methods)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "unasked": []}
    for depth, calls in enumerate(depths, 1):
        for place, call in enumerate(calls):
            if place < arguments.unasked:
                rows["unasked"].append(call.row(HELD_OUT_WORDING, depth))
                continue
            rows["train"] += [call.row(wording, depth) for wording in TRAIN_WORDINGS]
            rows["validation"].append(call.row(HELD_OUT_WORDING, depth))
    library = arguments.folder / "library"
    library.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        write_if_changed(library / f"{name}.py", text)
    for name, of_file in rows.items():
        write_json_lines(arguments.folder / f"{name}.jsonl", of_file)


if __name__ == "__main__":
    main()
