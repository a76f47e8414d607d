"""`python scripts/clean_baselines.py RAW.csv > llmft/report/tables/published.csv`: published numbers in the report's schema.

It keeps scores on tasks of the task table, from Mosbach et al. 2023 (arXiv:2305.16938) and later or related work. It drops

- other tasks, costs, and gains stated without the underlying numbers: none of our rows can be compared with them;
- majority classes, which the report computes from the data;
- model cards, which state neither the number of examples nor the rows.

A method or pattern that differs from ours keeps its source's wording, so that it is never matched with ours.
"""

from __future__ import annotations

import re
import sys

import pandas as pd

from llmft.tasks.table import LEXICAL_OVERLAP, OUT_OF_DOMAIN, eval_sets

COLUMNS = [
    "task", "eval_set", "our_sets", "subset", "model", "method", "shots", "pattern", "selection", "metric",
    "our_metric", "mean", "sd", "min", "max", "n_seeds", "n_eval", "source", "location", "provenance", "note",
]  # fmt: skip
LEFT_OUT = ("majority class", "HF model card", "Duan et al. 2024")
TASKS = {"MNLI": "mnli", "MNLI-mm": "mnli", "RTE": "rte", "QQP": "qqp", "CoLA": "cola", "COLA": "cola", "SST-2": "sst2"}
IN_DOMAIN = "in-domain"
"""Stands for the task's own set."""
EVAL_SETS: dict[str, tuple[str, str, int | None]] = {
    "MNLI validation_matched, neutral removed (n=6692)": (IN_DOMAIN, "all", 6692),
    "MNLI validation_matched, neutral merged into contradiction": (IN_DOMAIN, "all", 9815),
    "MNLI validation_matched neutral removed, 50 random": (IN_DOMAIN, "50 random", 50),
    "MNLI validation, 100 random": (IN_DOMAIN, "100 random", 100),
    "GLUE mnli validation (full label set)": (IN_DOMAIN, "three labels", 9815),
    "MNLI validation_mismatched, neutral removed (n=6703)": ("mnli_mm", "all", 6703),
    "GLUE mnli_mismatched validation (full label set)": ("mnli_mm", "three labels", None),
    "RTE validation (n=277)": (IN_DOMAIN, "all", 277),
    "RTE validation": (IN_DOMAIN, "all", 277),
    "RTE validation, 100 random": (IN_DOMAIN, "100 random", 100),
    "RTE, 1000 random test examples": (IN_DOMAIN, "MeZO's test rows, at most 1000", None),
    "GLUE rte validation (full label set)": (IN_DOMAIN, "all", 277),
    "QQP validation, 1000 random examples": (IN_DOMAIN, "1000 random", 1000),
    "QQP validation, 100 random": (IN_DOMAIN, "100 random", 100),
    "GLUE qqp validation (full label set)": (IN_DOMAIN, "all rows of GLUE's", None),
    "SST-2, 1000 random test examples": (IN_DOMAIN, "MeZO's test rows, at most 1000", None),
    "HANS lexical_overlap": ("hans-lexical_overlap", "all", 10000),
    "HANS lexical_overlap (mean of 5k entailment, 5k contradiction)": ("hans-lexical_overlap", "all", 10000),
    "HANS lexical_overlap, 50 random": ("hans-lexical_overlap", "50 random", 50),
    "HANS lexical_overlap, 100 random": ("hans-lexical_overlap", "100 random", 100),
    "HANS validation, all 30k": ("hans", "all 30k", 30000),
    "HANS": ("hans", "not stated", None),
    "PAWS-QQP dev_and_test (n=677)": ("paws-qqp", "all", 677),
    "PAWS-QQP, 100 random": ("paws-qqp", "100 random", 100),
    "PAWS-QQP": ("paws-qqp", "not stated", None),
    "CoLA in-domain dev": (IN_DOMAIN, "in-domain dev", None),
    "CoLA in-domain": (IN_DOMAIN, "not stated", None),
    "CoLA (best)": (IN_DOMAIN, "not stated, best", None),
    "CoLA": (IN_DOMAIN, "not stated", None),
    "CoLA validation": (IN_DOMAIN, "with out-of-domain rows", 1043),
    "GLUE cola validation (full label set)": (IN_DOMAIN, "with out-of-domain rows", 1043),
    "CoLA out-of-domain dev (n=516)": ("cola-ood", "all", 516),
    "CoLA out-of-domain": ("cola-ood", "not stated", None),
    "in-domain": (IN_DOMAIN, "not stated", None),
}
"""Source's wording -> our name of the set, which of its rows, and how many, where that is known."""
COSTS = ("training", "training cost")
CHECKPOINTS = {"last": "last", "best in-domain": "best_in_domain", "best out-of-domain": "best_out_of_domain"}
METHODS = {
    "icl": "icl",
    "zero_shot": "icl",
    "icl teacher (frozen)": "icl",
    "pbft": "pbft",
    "pbft+lora": "pbft-lora",
    "vanilla_ft": "vanilla",
    "vanilla_ft+lora (r=4)": "vanilla-lora",
    "context_distillation (LoRA, 32 queries)": "distill-lora",
    "context_distillation": "distill",
}
"""Those that are ours. Knight et al. say too little of theirs for their distillation to be one."""
METRICS = {"acc": "accuracy", "mcc": "matthews_correlation", "f1": "f1"}
OUR_METRICS = {"accuracy": "score_accuracy"}
"""Those that are called otherwise in our records: the paper's accuracy compares the labels with each other alone."""
SAME_INPUT = "not context distillation: teacher and student read the same input, half of the loss is cross-entropy on gold labels"


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Rows of the raw table, all text, in `COLUMNS`.

    Raises:
        KeyError: a wording is new.
    """
    raw = raw[~raw["system"].isin(LEFT_OUT) & raw["task"].isin(TASKS) & ~raw["eval_set"].isin(COSTS)]
    raw = raw[~raw["metric"].str.startswith("Pearson")]
    most = raw["metric"].str.contains("max over seeds")
    key = ["system", "model", "method", "task", "eval_set", "n_shots", "pattern"]
    maxima = raw[most].set_index(key)["value"]
    rows = []
    for _, row in raw[~most].iterrows():
        cleaned = _clean(row)
        printed = cleaned["provenance"] == "printed" and tuple(row[key]) in maxima.index
        rows.append(cleaned | ({"max": maxima[tuple(row[key])]} if printed else {}))
    return pd.DataFrame(rows, columns=COLUMNS)


def _clean(row: pd.Series) -> dict[str, object]:
    task, location = TASKS[row["task"]], row["source_location"]
    if task == "mnli" and (" merge" in location or "merged" in row["eval_set"]):
        task = "mnli-original"
    eval_set, subset, n_eval = EVAL_SETS[row["eval_set"]]
    eval_set = task if eval_set == IN_DOMAIN else eval_set
    method, checkpoint = re.fullmatch(r"(.*?)(?: \(checkpoint=(.*)\))?", row["method"]).groups()
    notes = []
    knight = row["system"].startswith("Knight")
    if knight and method == "context_distillation":
        method = "context distillation (Knight et al.)"
    method = METHODS.get(method, method)
    if '"context distillation"' in method:
        notes.append(SAME_INPUT)
    if '"PBFT"' in method:
        notes.append("a prompt and a classification head, not a verbalizer")
    pattern = row["pattern"].removeprefix("none ")
    guessed = re.fullmatch(r"not printed \(mean matches (.*) panel\)", pattern)
    if guessed:
        pattern = guessed[1]
        notes.append(f"pattern not printed, mean is that of the figure's {pattern} panel")
    pattern = "none" if pattern == "(classification head)" else pattern or "not stated"
    shots = row["n_shots"] if row["n_shots"].isdecimal() else ""
    if re.search(r"n( = examples)? per class", location):
        shots = str(2 * int(shots))
        notes.append(f"source counts {row['n_shots']} per class")
    elif not shots and row["n_shots"]:
        notes.append(f"shots: {row['n_shots']}")
    if "n = distillation inputs" in location:
        notes.append(f"{shots} queries; the teacher sees 2 demonstrations and an explanation")
        shots = "2"
    if "median" in row["metric"]:
        notes.append("median" + "".join(f", {found} points" for found in re.findall(r"IQR [\d.]+", location)))
    metric = METRICS.get(row["metric"], row["metric"].split(" (")[0])
    return {
        "task": task,
        "eval_set": eval_set,
        "our_sets": ";".join(_our_sets(task, eval_set)),
        "subset": subset,
        "model": row["model"],
        "method": method,
        "shots": shots,
        "pattern": pattern,
        "selection": CHECKPOINTS[checkpoint] if checkpoint else "icl" if method == "icl" else "not stated",
        "metric": metric,
        "our_metric": OUR_METRICS.get(metric, metric),
        "mean": row["value"],
        **_spread(row),
        "n_seeds": row["n_seeds"],
        "n_eval": "" if n_eval is None else str(n_eval),
        "source": f"{row['system']}, {row['source']}",
        "location": re.split(r"; (?:vector|text copy|eval set|n |IQR)| \((?:printed|n per|num_shot)", location)[0],
        "provenance": _provenance(location),
        "note": "; ".join(notes),
    }


def _our_sets(task: str, eval_set: str) -> list[str]:
    """Our evaluation sets that make up a published one, sorted; none if ours have other rows."""
    names = {f"hans-{LEXICAL_OVERLAP}": "hans"} | {entry.prefix: name for name, entry in OUT_OF_DOMAIN.items() if name != "hans"}
    entry = OUT_OF_DOMAIN.get(names.get(eval_set, ""))
    if entry is None or task not in entry.tasks:
        return [task] if eval_set == task else []
    return sorted(one.name for one in eval_sets(entry, task))


def _spread(row: pd.Series) -> dict[str, str]:
    """Standard deviation, minimum and maximum over seeds, as far as known; a harness's error is not a deviation over seeds."""
    found = dict(re.findall(r"(sd|min|max)=([\d.]+\d)", row["source_location"]))
    if row["stderr"] and not found and not row["system"].startswith("lm-evaluation-harness"):
        found["sd"] = f"{float(row['stderr']) * int(row['n_seeds']) ** 0.5:.4f}"
    return {name: found.get(name, "") for name in ("sd", "min", "max")}


def _provenance(location: str) -> str:
    if "digitised" in location:
        return "digitised"
    return "log" if re.match(r"(Results|logs|logfiles|\w+/Result|commit)\b", location) else "printed"


if __name__ == "__main__":
    clean(pd.read_csv(sys.argv[1], dtype=str, keep_default_na=False)).to_csv(sys.stdout, index=False, lineterminator="\n")
