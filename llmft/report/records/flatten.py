"""A run's record as rows of tables: the run and its costs, and every score with the costs of a query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmft.report.records.identities import identity
from llmft.report.records.names import ELSEWHERE, EVALUATED, OF_NO_SET, SELECTIONS
from llmft.report.records.predictions import RowWeights
from llmft.runs.summary import arguments_of, is_count, rows_of, selected_on

SEEDS = ("seed", "data_seed")
DEMONSTRATIONS = "demonstrations"
LABELLED = ("pbft", "vanilla", "gold-label")
"""Starts of names of methods whose training rows have labels: these rows are their shots."""
MEANS_OVER_ROWS = ("score_accuracy", "accuracy", "loss", "kl", "agreement", "retention_change")
"""Metrics that, like every headline metric, are means over rows and so can be pooled over several sets, though predictions have
no column for them. Other metrics are pooled if they have a column (`RowWeights`); else they are given only for single sets."""
BY_PART = ("stages", "documents", "categories")
"""Entries of the record by stage and set that are not metrics."""
PATTERNS = ("pattern_name", "pattern", "student_pattern")
"""Arguments for the column `pattern`, of which the last that is given counts; or it is `CHAT`, the tokenizer's own."""
CHAT = "chat"
TRAINING = ("adapt", "train", "rollout", "retain")
"""Kinds of phases that are training."""
BEST = ("best_in_domain", "best_out_of_domain")
"""Stages of the checkpoints with the best scores."""
CAST_BY_DEEPSPEED = ("after", "after_with_context", *BEST)
"""Stages that are evaluated after DeepSpeed's engine has taken over the weights."""
WORK = ("examples", "tokens", "flops", "cpu_s")
SCORE_COLUMNS = (
    "selection", "stage", "set", "metric", "value", "n", "gap_recovered", "tokens_per_query", "kv_bytes_per_query",
    "cpu_ms_per_query", "flops_per_query", "flops_per_query_alone", "selected_on_evaluation_set", "precision",
)  # fmt: skip


def run_row(config: Mapping[str, Any], metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `Collection.runs` without id and record, with `non_default` as a dict, with `identity` and without `differs`."""
    arguments = arguments_of(config)
    draws, method = config["draws"], config["method"]
    on_document = arguments.get("train_on") == "document"
    labelled = method.startswith(LABELLED) and not on_document
    pattern = next((name for name in reversed(PATTERNS) if arguments.get(name)), "pattern")
    pattern = CHAT if arguments.get(CHAT) else pattern
    seeds = {name: arguments[name] for name in SEEDS}
    student = config.get("student")
    if student and method == "icl":  # in-context learning does not use its seed, and without shots neither of its seeds
        seeds |= {name: student[name] for name in (("seed",) if any(draws["demonstrations"]) else SEEDS)}
    in_columns = (*SEEDS, pattern, *(("max_train_samples",) if labelled else ()))
    return {
        "task": config["task"] + (f" {arguments['task_variant']}" if arguments.get("task_variant") else ""),
        "method": method,
        "model": config["model"],
        "weights": _weights(metrics, cost),
        "shots": len(draws["train_rows"]) if labelled else sum(map(len, draws["demonstrations"])),
        "queries": 0 if labelled else len(draws["train_rows"]),
        "pattern": CHAT if pattern == CHAT else arguments.get(pattern),
        "headline": metrics["headline"]["name"],
        "higher_is_better": bool(metrics["headline"]["higher_is_better"]),
        "setting": config["setting"],
        "context": _context(arguments),
        "on_document": on_document,
        "non_default": {k: v for k, v in _with_context(config["given"], arguments).items() if k not in in_columns},
        **seeds,
        "identity": identity(config, arguments),
        **{
            name: math.nan if v is None else float(v)  # integers may be too large for an integer column
            for name, v in cost["total"].items()
            if v is None or isinstance(v, int | float)
        },
        **{name: float(value) for name, value in _training_costs(config, metrics, cost).items()},
        **{
            f"majority_{domain}": float(metrics.get("majority", {}).get(names[0], math.nan)) if len(names) == 1 else math.nan
            for domain in EVALUATED  # accuracy of always answering the largest class, which may differ between several sets
            for names in [metrics["sets"].get(domain, ())]
        },
    }


def _context(arguments: Mapping[str, Any]) -> str:
    """What comes before a query; "" for nothing, and for demonstrations, which have their own column."""
    context = arguments.get("context", DEMONSTRATIONS)
    return "" if context in (DEMONSTRATIONS, "none") else context


def _with_context(given: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that differ from their default, and the context: for some tasks it is a document without any argument."""
    context = _context(arguments)
    return {**given, "context": context} if context else {k: value for k, value in given.items() if k != "context"}


def _weights(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> float:
    """Number of weights of the model as loaded: from the record, or derived from the FLOPs of a forward pass."""
    if "model" in metrics.get("weights", {}):
        return metrics["weights"]["model"]
    return next(
        (_weights_of(phase) for phase in cost["phases"] if phase["stage"] in ("icl", "before") and phase["tokens"]), math.nan
    )


def _weights_of(work: Mapping[str, Any]) -> float:
    """T-Few's rule solved for N: 2N FLOPs per token (`llmft.cost.flops`)."""
    return work["flops"] / (2 * work["tokens"]) if work["tokens"] else math.nan


def _training_costs(config: Mapping[str, Any], metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, float]:
    """The costs before the first query: the teacher's answers, including those found in the cache, and training."""
    arguments, saved = arguments_of(config), cost["saved_by_teacher_cache"]["phases"]

    def total(key: str, *kinds: str, phases: Sequence[Mapping[str, Any]] = cost["phases"]) -> float:
        return sum(phase.get(key, 0) for phase in phases if phase["kind"] in kinds)

    def in_all(key: str, *kinds: str) -> float:
        return total(key, *kinds) + total(key, *kinds, phases=saved)

    train, teacher = total("cpu_total_s", *TRAINING), total("cpu_total_s", "teacher")
    from_cache = total("cpu_s", "teacher", "retain", phases=saved)
    trained, asked = in_all("flops", *TRAINING), in_all("flops", "teacher")
    tokens, sizes = in_all("tokens", "teacher"), metrics.get("tokens_per_query", {})
    read = sizes.get("teacher", 0) * _teacher_prompts(config, metrics, in_all("examples", "teacher"))
    alone = asked * max(1, read / tokens) if tokens else 0  # without a shared context, all was read as often as that already
    if arguments.get("teacher_mode") == "online" or arguments.get("answers") in ("student", "mixed"):
        of_query = sizes.get("before", sizes.get("student", math.nan))
        of_context = sizes.get("teacher", math.nan) - of_query  # which training, as it was run, reads once for all queries
        readings = 2 if arguments.get("answers") == "mixed" else 1  # while the student writes, and along what it has written
        alone += 2 * _teacher_weights(cost) * of_context * readings * total("examples", "train")
    return {
        "load_cpu_s": total("cpu_total_s", "load"),
        "train_cpu_s": train,
        "teacher_cpu_s": teacher,
        "teacher_saved_cpu_s": from_cache,
        "training_cpu_s": train + teacher + from_cache,
        "evaluation_cpu_s": sum(phase["cpu_total_s"] for phase in cost["phases"] if phase["set"] is not None),
        "training_flops": trained + asked,
        "training_flops_alone": trained + alone,
    }


def _teacher_prompts(config: Mapping[str, Any], metrics: Mapping[str, Any], examples: float) -> float:
    """How many prompts the teacher has read before training. Records without that number count a query as one example, also where
    the teacher read it twice: to write an answer, and to give its distributions along that."""
    arguments, queries = arguments_of(config), len(config["draws"]["train_rows"])
    in_words = any("tokens" in scores for scores in metrics["stages"].get("teacher", {}).values())
    chosen = {"targets": "soft", "answers": "teacher", "teacher_mode": "precompute"}
    twice = in_words and arguments.get("support") != "sampled" and chosen.items() <= arguments.items()
    learnt = metrics.get("answer_pattern", {}).get("learnt", queries)
    return metrics.get("teacher_prompts", queries + learnt if twice else examples)


def precision_of(config: Mapping[str, Any], stage: str) -> str:
    """The precision that a stage was evaluated in: --torch_dtype, else float32; half precision under --fp16 and --bf16 for
    in-context learning, and for trained models under DeepSpeed, whose engine casts the weights."""
    arguments = arguments_of(config)
    half = "float16" if arguments.get("fp16") else "bfloat16" if arguments.get("bf16") else None
    if half and arguments.get("deepspeed") and stage in CAST_BY_DEEPSPEED:
        return half
    return arguments.get("torch_dtype") or (half if half and config["method"] == "icl" else "float32")


def _teacher_weights(cost: Mapping[str, Any]) -> float:
    """Number of weights that a token goes through in the teacher; NaN if it has not been evaluated."""
    of_stages = ((stage, work) for (stage, _), work in _evaluation_work(cost).items() if work["tokens"])
    return next((_weights_of(work) for stage, work in of_stages if stage == "teacher"), math.nan)


def score_rows(
    metrics: Mapping[str, Any],
    cost: Mapping[str, Any],
    weights: RowWeights,
    *,
    cartridge: bool = False,
    precisions: Mapping[str, str] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Rows of `Collection.scores` without the run: `SCORE_COLUMNS`.

    Args:
        cartridge: whether the run has trained one, whose tokens have keys and values but go through no layer.
        precisions: stage -> the precision it was evaluated in; float32 for others.

    Raises:
        ValueError: a value of the headline metric is not finite: a mean without it would not be over the runs that it names.
    """
    headline, work, precisions = metrics["headline"]["name"], _evaluation_work(cost), precisions or {}
    for stage, sets in metrics["stages"].items():
        scores = {name: {**values, **_beside(metrics, stage, name)} for name, values in sets.items()}
        groups = {group: names for group, names in metrics["sets"].items() if names and scores.keys() >= set(names)}
        categories = _by_category(metrics, stage)
        scores |= {name: values for name, (_, values) in categories.items()} | _of_no_set(metrics, stage)
        tokens, kv_bytes = (_prompt_size(metrics, stage, what) for what in ("tokens_per_query", "kv_bytes_per_query"))
        holds = cartridge and stage in (*BEST, "after")
        read = metrics.get("tokens_per_query", {}).get("before", math.nan) if holds else tokens
        gaps = metrics.get("gap_recovered", {}) if stage == "after" else {}
        for name, members in [*groups.items(), *((name, [name]) for name in scores)]:
            n = sum(scores[member]["n"] for member in members)
            costs = _query_costs([work.get((stage, member), {}) for member in members], read)
            whole = categories[name][0] if name in categories else name
            selected = any(selected_on(stage, group) and whole in (group, *names) for group, names in groups.items())
            of_rows = [weights.of(stage, member, scores[member]) for member in members]
            for metric, value in _pooled([scores[member] for member in members], of_rows, headline).items():
                if math.isfinite(value):
                    gap = gaps.get(name) if metric == headline else None
                    gap = math.nan if gap is None else float(gap)
                    sizes = float(n), gap, tokens, kv_bytes, *costs
                    how = selected, precisions.get(stage, "float32")
                    yield SELECTIONS.get(stage, stage), stage, name, metric, float(value), *sizes, *how
                elif metric == headline:
                    raise ValueError(f"{metric} of {name} at stage {stage} is {value}")


def _prompt_size(metrics: Mapping[str, Any], stage: str, what: str) -> float:
    """The recorded size of a query's prompt at a stage; NaN if there is none."""
    sizes = metrics.get(what, {})
    like_teacher = stage == "after_with_context"  # which reads the same prompt as the teacher
    of_student = math.nan if like_teacher else sizes.get("student", math.nan)
    return float(sizes.get("teacher" if like_teacher else stage, of_student))


def _beside(metrics: Mapping[str, Any], stage: str, name: str) -> dict[str, Any]:
    """Metrics of a set outside the record's stages: {metric: {stage: {set: value}}}, and the change on other tasks."""
    others = {metric: of for metric, of in metrics.items() if metric not in (*BY_PART, *OF_NO_SET) and isinstance(of, dict)}
    by_metric = {metric: of.get(stage) for metric, of in others.items()}
    if stage == "after":
        by_metric["retention_change"] = metrics.get("retention_change")
    return {metric: of[name] for metric, of in by_metric.items() if isinstance(of, dict) and name in of}


def _of_no_set(metrics: Mapping[str, Any], stage: str) -> dict[str, dict[str, float]]:
    """The metrics `OF_NO_SET`, by the name in place of a set's; the record has them under the task's name, and the number of
    rows only of unrelated prompts."""
    prompts = metrics.get(ELSEWHERE, {}).get("prompts", math.nan)
    sets: dict[str, dict[str, float]] = {}
    for metric, name in OF_NO_SET.items():
        for value in metrics.get(metric, {}).get(stage, {}).values():
            sets.setdefault(name, {"n": prompts if name == ELSEWHERE else math.nan})[metric] = value
    return sets


def _by_category(metrics: Mapping[str, Any], stage: str) -> dict[str, tuple[str, dict[str, float]]]:
    """The set and the metrics of each category of each set, by a name made of both."""
    sets = metrics.get("categories", {}).get(stage, {})
    return {f"{name}: {category}": (name, values) for name, of in sets.items() for category, values in of.items()}


def _pooled(sets: Sequence[Mapping[str, Any]], weights: Sequence[Mapping[str, float]], headline: str) -> dict[str, float]:
    """The metrics of some sets pooled, with equal weights for all rows (or all their tokens); for several sets only metrics that
    are means. `weights` has, for each set, the weight of its value of a metric, if its rows have that metric."""
    metrics = [name for name in sets[0] if not is_count(name, sets[0]) and all(values.get(name) is not None for values in sets)]
    if len(sets) == 1:
        return {name: sets[0][name] for name in metrics}
    means = {}
    for name in metrics:
        of_rows = all(name in of for of in weights)
        if of_rows or name in (headline, *MEANS_OVER_ROWS):
            sizes = [of[name] if of_rows else rows_of(values, name) for of, values in zip(weights, sets, strict=True)]
            if total := sum(sizes):
                means[name] = sum(values[name] * size for values, size in zip(sets, sizes, strict=True)) / total
    return means


def _evaluation_work(cost: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, float]]:
    """Stage and set -> the work of evaluation, including the original cost of answers found in the cache."""
    work: dict[tuple[str, str], dict[str, float]] = {}
    for phase in (*cost["phases"], *cost["saved_by_teacher_cache"]["phases"]):
        stage, name = phase["stage"], phase["set"]
        if phase["kind"] == "evaluate":  # best checkpoints were evaluated during training, or are the last one
            best = BEST if stage in ("after", "during_training") else ()
            for one in (stage, *best):
                total = work.setdefault((one, name), dict.fromkeys(WORK, 0))
                for key in WORK:
                    total[key] += phase["cpu_total_s"] if key == "cpu_s" and key not in phase else phase[key]
    return work


def _query_costs(work: Sequence[Mapping[str, float]], tokens: float) -> tuple[float, float, float]:
    """CPU milliseconds, FLOPs as run, and FLOPs of reading the whole prompt, per query; NaN if nothing was evaluated."""
    total = {key: sum(one.get(key, 0) for one in work) for key in WORK}
    examples = total["examples"]
    if not examples:
        return math.nan, math.nan, math.nan
    return 1000 * total["cpu_s"] / examples, float(total["flops"] / examples), 2 * _weights_of(total) * tokens
