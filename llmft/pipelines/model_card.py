"""The model card of a student: what it is, what it was trained on, its scores and costs, and how to load it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmft.pipelines.schedule import counted
from llmft.prompts.chat import ChatFormat
from llmft.runs.model_folder import HEAD_SETTINGS, PARALLEL_SETTINGS, START, Base, base_named_in, student_settings
from llmft.runs.secrets import without_secrets
from llmft.runs.store import whole_file
from llmft.runs.summary import arguments_of, column_name, judged_by, pooled

if TYPE_CHECKING:
    from llmft.prompts.render import PromptFormat

CARD = "README.md"
STAGES = {"model": "after", "model_best_in_domain": "best_in_domain", "model_best_out_of_domain": "best_out_of_domain"}
"""Folders in a run that hold a student, with the stage that has its scores."""
SHOWN = 2000
"""Maximum number of characters of a context's files in a card."""


def write_cards(run: Path, model_name: str, prompts: Mapping[str, Sequence[PromptFormat]]) -> list[str]:
    """Write a card into each student's folder of a run that is complete except for `DONE`.

    Args:
        run: the run's folder.
        model_name: the model that it was started with.
        prompts: as in `Job.finish`.

    Returns:
        Sentences about what other libraries cannot load of the run's students, which are all of one kind.
    """
    limits: list[str] = []
    for name, stage in STAGES.items():
        folder = run / name
        if folder.is_dir():
            limits = limits_of(folder)
            with whole_file(folder / CARD) as aside:
                aside.write_text(card(run, folder, stage, model_name, prompts), encoding="utf-8")
    return limits


def limits_of(folder: Path) -> list[str]:
    """What plain transformers and peft cannot load of a student, or not from its folder alone."""
    base, limits = base_named_in(folder), []
    if (folder / PARALLEL_SETTINGS).is_file():
        limits.append("Parallel adapters are llmft's own format: transformers and peft do not load them, llmft's eval.py does.")
    if (folder / HEAD_SETTINGS).is_file():
        limits.append(
            "The classification head is in llmft's own format: llmft's eval.py loads everything; transformers (AutoModel) "
            "loads only the backbone."
        )
    if base is not None and base.gguf_file is not None:
        limits.append(
            f"Its base is the file {base.gguf_file} of {base.name}, which peft's settings cannot name; the code in its {CARD} "
            "names it."
        )
    if base is not None and Path(base.name).name == START and (folder / START).is_dir():
        limits.append(f"It was trained on a model that is kept next to it in {START}/: copy the whole folder.")
    return limits


def is_local(name: str) -> bool:
    """Whether a model's name is a folder on this machine, not a model on the hub."""
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def card(run: Path, folder: Path, stage: str, model_name: str, prompts: Mapping[str, Sequence[PromptFormat]]) -> str:
    """The whole text, secrets left out."""
    from huggingface_hub import ModelCardData

    config, metrics, cost = (
        json.loads((run / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "metrics", "cost")
    )
    base = base_named_in(folder)
    origin = base.name if base is not None else model_name
    data = ModelCardData(
        base_model=None if is_local(origin) or "/" not in origin else origin,
        library_name="peft" if (folder / "adapter_config.json").is_file() else "transformers",
        pipeline_tag="text-classification" if (folder / HEAD_SETTINGS).is_file() else "text-generation",
        tags=["llmft", config["method"]],
    )
    sections = {
        f"{config['model']}: {config['method']} on {config['task']}": introduction(config, folder, origin, model_name),
        "How to load it": loading(folder, base, config),
        "What it was trained on": training_data(config, metrics),
        "Prompts": prompt_texts(prompts, classifier=(folder / HEAD_SETTINGS).is_file()),
        "Scores": scores(metrics, stage),
        "Costs": cost_sentence(cost, metrics),
        "Command": command_line(config["environment"]["command"], len(cost["ranks"])),
    }
    text = "\n\n".join(f"{'#' if i == 0 else '##'} {title}\n\n{body}" for i, (title, body) in enumerate(sections.items()))
    return without_secrets(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def place(name: str) -> str:
    """A remark on a model's name that means nothing on other machines."""
    return " (a folder on the machine where it was trained; copy that, too)" if is_local(name) else ""


def introduction(config: dict[str, Any], folder: Path, origin: str, model_name: str) -> str:
    """Base and method."""
    kind = "distilled from a context" if "distill" in config["method"] else "fine-tuned"
    base = "" if origin in (model_name, str(folder / START)) else f" The adapter's base is `{origin}`{place(origin)}."
    return f"A student of `{model_name}`{place(model_name)}, {kind} by llmft (method `{config['method']}`).{base}"


def loading(folder: Path, base: Base | None, config: dict[str, Any]) -> str:
    """Code for plain transformers and peft, the precision, and what they cannot load."""
    limits = limits_of(folder)
    needs_llmft = (folder / PARALLEL_SETTINGS).is_file() or (folder / HEAD_SETTINGS).is_file()
    dtype = student_settings(folder).get("dtype", "float32")
    trust = ", trust_remote_code=True" if config["arguments"]["ModelArguments"].get("trust_remote_code") else ""
    how = f'dtype="{dtype}"{trust}'
    lines = ['folder = "."  # where this file is']
    if base is None:
        lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        lines += [f"model = AutoModelForCausalLM.from_pretrained(folder, {how}).eval()"]
    else:
        gguf = f', gguf_file="{base.gguf_file}"' if base.gguf_file else ""
        revision = f', revision="{base.revision}"' if base.revision != "main" else ""
        place = f'f"{{folder}}/{START}"' if (folder / START).is_dir() else json.dumps(base.name)
        lines += ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
        lines += [f"base = AutoModelForCausalLM.from_pretrained({place}{revision}{gguf}, {how})"]
        lines += ["model = PeftModel.from_pretrained(base, folder).eval()"]
    lines += ["tokenizer = AutoTokenizer.from_pretrained(folder)"]
    parts = [] if needs_llmft else ["```python\n" + "\n".join(lines) + "\n```"]
    gguf_flag = f" (`--gguf_file {base.gguf_file}` is known from `student.json`)" if base is not None and base.gguf_file else ""
    parts += [f"With llmft: `python eval.py --model_name_or_path FOLDER --num_shots 0 ...`{gguf_flag}."]
    if stops := student_settings(folder).get("stop"):
        shown = " or ".join(json.dumps(stop, ensure_ascii=False) for stop in stops)
        parts += [f"Answers also end with {shown}, which llmft knows from `student.json`; give it to others (`stop_strings`)."]
    if dtype != "float32":
        parts += [
            f"Weights are in {dtype}; llmft computes the last layer's logits in float32 nevertheless; transformers does not."
        ]
    if (folder / "adapter_config.json").is_file() and '"CARTRIDGE"' in (folder / "adapter_config.json").read_text():
        parts += ["The cartridge replaces the start of the text: tokenize queries with `add_special_tokens=False`."]
    return "\n\n".join([*parts, *limits])


def training_data(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Context and rows."""
    arguments = arguments_of(config)
    draws, lines = config["draws"], [f"- task: {config['task']} (version {config['task_version']})"]
    lines += [f"- data: {', '.join(config['data_fingerprints'])}"]
    learnt = metrics.get("answer_pattern", {}).get("learnt", len(draws["train_rows"]))
    lines += [f"- rows trained on: {learnt}"]
    if "context" in arguments:
        lines += [f"- context: {arguments['context']}"]
    if arguments.get("instruction"):
        lines += [f"- instruction: {arguments['instruction']}"]
    if arguments.get("context_file"):
        lines += [f"- context file: {', '.join(Path(file).name for file in arguments['context_file'].split(','))}"]
    if arguments.get("context_dir"):
        lines += [f"- context: the files {arguments['context_glob']} in {Path(arguments['context_dir']).name}"]
    shown = [context for context in draws["demonstrations"] if context]
    lines += [f"- demonstrations (idx of the training rows): {', '.join(map(str, context))}" for context in shown]
    steps, epochs = arguments["max_steps"], arguments["num_train_epochs"]
    length = counted(steps, "step") if steps > 0 else counted(epochs, "epoch")
    lines += [f"- learning rate {arguments['learning_rate']:g}, {length}"]
    lines += [f"- seeds: {arguments['seed']} for training, {arguments['data_seed']} for the draws"]
    return "\n".join(lines)


def prompt_texts(prompts: Mapping[str, Sequence[PromptFormat]], *, classifier: bool) -> str:
    """How queries are written for teacher and student, and the text of the context's files."""
    names = ["description", "instruction", "turns", "pattern", "shown_labels", "prefix", "separator"]
    names += [] if classifier else ["delimiter", "words"]
    parts = ["As JSON; `words` are the label words, `delimiter` comes before them, `separator` between demonstrations."]
    if any(isinstance(formats[0], ChatFormat) for formats in prompts.values()):
        names += ["system_prompt", "context_role"]
        parts += ["Everything is in the model's chat template: the pattern is the user's turn, the answer the assistant's."]
    for who, formats in prompts.items():
        texts = {name: getattr(formats[0], name) for name in names if name == "delimiter" or getattr(formats[0], name)}
        parts += [f"The {who}'s:", fenced(json.dumps(texts, indent=2, ensure_ascii=False), "json")]
        for document in filter(None, dict.fromkeys(prompt.document for prompt in formats)):
            cut = f", the first {SHOWN} of which follow" if len(document) > SHOWN else ""
            parts += [f"The text of files in the {who}'s context ({len(document)} characters{cut}):", fenced(document[:SHOWN])]
    return "\n\n".join(parts)


def fenced(text: str, language: str = "") -> str:
    """A code block in Markdown, whatever it contains."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{ticks}{language}\n{text}\n{ticks}"


def command_line(words: Sequence[str], processes: int) -> str:
    """The command, to be pasted in the folder with the scripts."""
    launcher = ["python"] if processes == 1 else ["torchrun", "--standalone", "--nproc_per_node", str(processes)]
    flags = [word for word in words[1:] if not word.startswith("--local_rank")]  # which DeepSpeed's launcher adds
    several = "" if processes == 1 else f"\n\nIt ran in {processes} processes; `deepspeed` and other launchers work, too."
    return fenced(shlex.join([*launcher, Path(words[0]).name, *flags]), "bash") + several


def scores(metrics: dict[str, Any], stage: str) -> str:
    """The headline of each stage on each group of sets."""
    headline = metrics["headline"]["name"]
    groups = {name: sets for name, sets in metrics["sets"].items() if sets}
    rows = [["stage", *(column_name(name, headline) for name in groups)], ["---"] * (len(groups) + 1)]
    for name, sets_of_stage in metrics["stages"].items():
        values = [pooled(sets_of_stage, sets, judged_by(group, headline)) for group, sets in groups.items()]
        mark = " (these weights)" if name == stage else ""
        rows.append([name.replace("_", "-") + mark, *("-" if value is None else f"{value:.3f}" for value in values)])
    return f"`{headline}`:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cost_sentence(cost: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The costs of the whole run, including evaluations."""
    total = cost["total"]
    tokens = ", ".join(f"{who} {count:.1f}" for who, count in metrics["tokens_per_query"].items())
    return (
        f"CPU {total['cpu_total_s']:.1f} s, memory {total['rss_peak_bytes'] / 2**20:.0f} MiB at its peak, over all stages and "
        f"evaluations. Tokens per query: {tokens}."
    )
