"""Everything that decides the weights of a pretrained ensemble, and the flags for it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from llmft.errors import InputError
from llmft.runs.store import short_hash
from llmft.worlds.regression.model import TOKENS, RegressorShape
from llmft.worlds.regression.tasks import FRESH, SAME_SIGNAL, Problem

OPTIMIZERS = ("muon", "adam")
VERSION = 1
"""Raised when the same recipe gives other weights."""
SEEDS_BELOW = 2**63
"""Random generators take no larger ones."""
NOT_OF_KIND = ("num_pretraining_tasks", "steps", "batch_size", "seed", "eval_every", "eval_sequences")
"""What runs may differ in that are of one kind. A member does not depend on which others are trained beside it."""


class ExperimentRecipe:
    """The settings of a command, a frozen dataclass."""

    @property
    def given(self) -> dict[str, Any]:
        """The values that differ from their defaults."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


@dataclass(frozen=True)
class RegressionRecipe(ExperimentRecipe):
    """One run: an ensemble with a member for each pool of tasks."""

    num_pretraining_tasks: tuple[int, ...] = (4, 16, 64, 256, 1024, FRESH)
    dimension: int = 4
    examples: int = 8
    noise_variance: float = 0.125
    layers: int = 3
    heads: int = 8
    width: int = 64
    tokens: str = "compact"
    init_std: float = 0.08
    read_in_std: float = 0.5
    optimizer: str = "muon"
    learning_rate: float = 3e-3
    muon_rate: float = 0.02
    beta2: float = 0.95
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    batch_size: int = 64
    steps: int = 4000
    seed: int = 0
    eval_every: int = 500
    eval_sequences: int = 8192

    @property
    def problem(self) -> Problem:
        """The tasks and their sequences."""
        return Problem(self.dimension, self.examples, self.noise_variance)

    @property
    def shape(self) -> RegressorShape:
        """The shape of a member."""
        own = {field.name: getattr(self, field.name) for field in fields(RegressorShape)}
        return RegressorShape(**own)

    @property
    def setting(self) -> str:
        """Hash of everything but the seed."""
        return short_hash({**asdict(self), "seed": None, "version": VERSION})

    @property
    def model_name(self) -> str:
        """The name of the members in records."""
        return f"{self.layers}x{self.width}-{self.tokens}"

    @property
    def kind(self) -> str:
        """What it shares with recipes of other pools, budgets and seeds: the arguments that are not at their default."""
        return as_flags({name: value for name, value in self.given.items() if name not in NOT_OF_KIND})

    @classmethod
    def from_record(cls, config: dict[str, Any]) -> RegressionRecipe:
        """The recipe in a run's `config.json`."""
        values = config["arguments"][cls.__name__]
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(**own | {"num_pretraining_tasks": tuple(own["num_pretraining_tasks"])})

    def rate_factor_at(self, step: int) -> float:
        """Factor on all learning rates at a step (from 0): up linearly over `warmup_share` of the steps, then down to 0."""
        done = (step + 1) / self.steps
        if done <= self.warmup_share:
            return done / self.warmup_share
        return (1 - done) / (1 - self.warmup_share)


def as_flags(values: Mapping[str, Any]) -> str:
    """Arguments as a command line has them; `default` where there are none."""
    return " ".join(f"--{name} {value}" for name, value in values.items()) or "default"


def pool_name(size: int) -> str:
    """The name of a pool: `M=64`, or `M=inf` where every task is fresh."""
    return f"M={size if size != FRESH else 'inf'}"


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a recipe; those with several values make several runs."""
    default = RegressionRecipe()
    add = parser.add_argument

    def of(name: str, **options: Any) -> None:
        value = getattr(default, name)
        add(f"--{name}", type=type(value), default=value, **{**options, "help": f"{options['help']} (default: %(default)s)"})

    add(
        "--num_pretraining_tasks", type=int, nargs="+", default=list(default.num_pretraining_tasks), metavar="M",
        help="sizes of the pools of tasks, one model for each, trained side by side; 0: a fresh task for every sequence "
        "(default: 4 16 64 256 1024 0)",
    )  # fmt: skip
    of("dimension", help="D, weights of a task")
    add("--examples", type=int, help="K, examples in a sequence (default: 2 D)")
    add("--noise_variance", type=float, help="of the labels (default: D / 32, the paper's ratio of signal to noise)")
    of("layers", help="of each model")
    of("heads", help="of each layer")
    of("width", help="of each layer")
    of("tokens", choices=TOKENS, help="paper: (0, x), (y, 0); paired: (0, x), (y, x); compact: (previous y, previous x, x)")
    of("init_std", help="standard deviation of initial weights; 0.02 in the paper")
    of("read_in_std", help="the same for the read-in; 0.02 in the paper")
    of("optimizer", choices=OPTIMIZERS, help="for the matrices inside the blocks; everything else is trained with Adam")
    of("learning_rate", help="peak rate of Adam")
    of("muon_rate", help="peak rate of Muon")
    of("beta2", help="of Adam; 0.999 in the paper")
    of("warmup_share", help="share of the steps in which rates rise, before they fall linearly to 0; 0.5 is the paper's triangle")
    of("weight_decay", help="decoupled, times the learning rate, and only on the matrices inside the blocks")
    of("batch_size", help="sequences per step, over all processes")
    add("--steps", type=int, nargs="+", default=[default.steps], metavar="N",
        help=f"training steps; several budgets are several runs (default: {default.steps})")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[default.seed], metavar="SEED",
        help=f"decide pools, sequences and initial weights; several are several runs (default: {default.seed})")  # fmt: skip
    of("eval_every", help="steps between two points of the training curves")
    of("eval_sequences", help="sequences of each set of tasks in the final evaluation; the curves use 512")


def recipes_of(arguments: argparse.Namespace) -> Iterator[RegressionRecipe]:
    """The runs that checked flags ask for: every budget of steps with every seed.

    Raises:
        InputError: a value cannot be used; the line names its flag.
    """
    chosen = vars(arguments)
    dimension = arguments.dimension
    own = {field.name: chosen[field.name] for field in fields(RegressionRecipe) if field.name in chosen}
    own |= {
        "num_pretraining_tasks": tuple(arguments.num_pretraining_tasks),
        "examples": 2 * dimension if arguments.examples is None else arguments.examples,
        "noise_variance": SAME_SIGNAL * dimension if arguments.noise_variance is None else arguments.noise_variance,
    }
    for steps in arguments.steps:
        for seed in arguments.seeds:
            recipe = RegressionRecipe(**own | {"steps": steps, "seed": seed})
            check_recipe(recipe)
            yield recipe


def check_recipe(recipe: RegressionRecipe) -> None:
    """Check values that argparse cannot.

    Raises:
        InputError: one cannot be used.
    """
    for name in ("dimension", "layers", "heads", "width", "batch_size", "steps", "eval_every", "eval_sequences"):
        if getattr(recipe, name) < 1:
            raise InputError(f"--{name} {getattr(recipe, name)}: give 1 or more")
    for name in ("init_std", "read_in_std", "learning_rate", "muon_rate"):
        if not 0 < getattr(recipe, name) < math.inf:
            raise InputError(f"--{name} {getattr(recipe, name)}: give a finite number above 0")
    for name in ("noise_variance", "weight_decay"):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise InputError(f"--{name} {getattr(recipe, name)}: give a finite number, 0 or more")
    check_seed("seeds", recipe.seed)
    for name in ("beta2", "warmup_share"):
        if not 0 <= getattr(recipe, name) < 1:
            raise InputError(f"--{name} {getattr(recipe, name)}: give a share from 0 to below 1")
    if recipe.examples < 2:
        raise InputError(f"--examples {recipe.examples}: give 2 or more, so that a query follows the context")
    if recipe.width % recipe.heads:
        raise InputError(f"--width {recipe.width}: is no multiple of --heads {recipe.heads}; choose another of the two")
    sizes = recipe.num_pretraining_tasks
    if min(sizes) < 0 or len(set(sizes)) < len(sizes):
        given = " ".join(map(str, sizes))
        raise InputError(f"--num_pretraining_tasks {given}: give sizes of 1 or more, each once, or 0 for fresh tasks")


def check_seed(flag: str, seed: int) -> None:
    """Checks a seed.

    Raises:
        InputError: random generators cannot take it.
    """
    if not 0 <= seed < SEEDS_BELOW:
        raise InputError(f"--{flag} {seed}: give a whole number from 0 to 2^63 - 1")
