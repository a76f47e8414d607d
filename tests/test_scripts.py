"""Every command that a sweep or the README shows is one that the real parser accepts, with each value in its place."""

import ast
import json
import os
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmft.arguments.deepspeed_config import find_config
from llmft.errors import InputError
from llmft.pipelines import compose, distill, fine_tune, in_context, self_study
from llmft.report.records.collect import collect
from llmft.report.statistics.summary import summarise
from llmft.worlds.regression import pretrain
from llmft.worlds.regression.recipe import recipes_of
from tests.parsing import parse
from tests.report.synthetic import Made, write

ROOT = Path(__file__).parents[1]
GROUPS = {"eval.py": in_context.GROUPS, "ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS}
GROUPS |= {"llmft.self_study": self_study.GROUPS, "llmft.compose": compose.GROUPS}
TASKS = ("rte", "mnli", "qqp", "cola")
NARROW = {"MODELS": "facebook/opt-125m", "DATA_SEEDS": "0 1 4"}
GRID = {  # runs for one model and three draws, of which in-context learning takes the first two together
    **{f"in_context/{task}/run.sh": runs * 2 for task, runs in zip(TASKS, (6, 9, 6, 6), strict=True)},
    **{f"vanilla_ft/{task}/run.sh": 5 * 3 for task in TASKS},
    **{f"pattern_verbalizer_ft/{task}/run.sh": 3 * 5 * 3 for task in TASKS},
    **{f"context_distillation/{task}/run.sh": 2 * runs * 3 for task, runs in zip(TASKS, (6, 9, 6, 6), strict=True)},
    "icl_versus_distillation/run.sh": 4 * 2 * (2 + 3 * 3),
}
SWEEPS = {
    **GRID,
    "demo.sh": 45,
    "context_distillation/sst2/run.sh": 6,
    "context_distillation/sst2/contexts.sh": 12,
    "context_distillation/toy/contexts.sh": 27,
    "context_distillation/toy/defaults.sh": 69,
    "code_distillation/run.sh": 12,
    "dialogue_distillation/run.sh": 9,
    "document_distillation/on_policy.sh": 15,
    "document_distillation/run.sh": 18,
    "instruction_distillation/run.sh": 9,
    "task_diversity/run.sh": 4,
    "task_diversity/paper.sh": 10,
    "comparison/choose.sh": 3 * (3 + 2 + 1 + 1 + 3 + 2),
    "comparison/run.sh": 3 * 6 * (1 + 3 * 4),
}
SCRIPTS = sorted(file.relative_to(ROOT) for end in ("sh", "sbatch") for file in (ROOT / "scripts").rglob(f"*.{end}"))


def environment(**given):
    """This process's environment without what would change a sweep, and with what is given."""
    names = {"DATA_DIR", "LLMFT_DATA_DIR", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "PYTHON", "OUTPUT_DIR", "RANK"}
    return {**{name: value for name, value in os.environ.items() if name not in names}, **given}


def listing(script, **given):
    """The commands of a dry run, as words."""
    variables = environment(DRY_RUN="1", **given)
    done = subprocess.run(
        ["bash", ROOT / "scripts" / script], capture_output=True, text=True, check=True, env=variables, timeout=300
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def accepted(words):
    """Parse a command line from its script's name on."""
    if pretrain.__name__ in words:
        return list(recipes_of(pretrain.pretraining_parser().parse_args(words[words.index(pretrain.__name__) + 1 :])))
    place = next(i for i, word in enumerate(words) if word in GROUPS)
    return parse(GROUPS[words[place]], words[place + 1 :])[0]


def test_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("needs shellcheck, which the dev extra brings")
    assert len(SCRIPTS) > len(SWEEPS)
    done = subprocess.run([shellcheck, *SCRIPTS, ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout + done.stderr == ""


def test_all_sweeps_are_tested():
    helpers = {
        "common.sh",
        "grid.sh",
        "comparison/grid.sh",
        "get_model.sh",
        "get_smollm2.sh",
        "run_lines.sh",
        "with_and_without.sh",
        "context_distillation/toy/sequential.sh",  # has no dry run; test_sweeps.py starts it
    }
    found = {str(path.relative_to("scripts")) for path in SCRIPTS if path.parts[1] != "slurm"}
    assert found == set(SWEEPS) | helpers


@pytest.mark.parametrize(("script", "runs"), SWEEPS.items())
def test_sweeps_are_accepted_by_the_parser(script, runs):
    narrow = NARROW if script in GRID else {}
    commands = listing(script, **narrow, PYTHON="true")  # makes no files
    assert len(commands) == runs
    assert len({tuple(command) for command in commands}) == runs
    seen = set()
    for command in commands:
        kind = re.sub(r"\d+", "", " ".join(command))
        if kind not in seen:  # the others differ in numbers
            assert accepted(command)
            seen.add(kind)


def test_the_whole_grid_is_the_papers():
    commands = listing("in_context/mnli/run.sh")
    assert len(commands) == 12 * 3 * 3
    models = {command[command.index("--model_name_or_path") + 1] for command in commands}
    assert {"facebook/opt-125m", "facebook/opt-30b", "EleutherAI/pythia-12b"} < models
    assert all(command[-4:] == ["--data_seed", "0", "--num_data_seeds", "10"] for command in commands)


def test_in_context_learning_and_distillation_read_the_same_context():
    commands = listing("icl_versus_distillation/run.sh", MODELS="toy", TASKS="toy", SHOTS="4", DATA_SEEDS="3", PRECISION="fp32")
    assert [command[1] for command in commands] == ["eval.py", "distill.py", "distill.py", "ft.py"]
    for command in commands:
        values = {name: value for group in accepted(command) for name, value in vars(group).items()}
        assert (values["num_shots"], values["data_seed"], values["pattern_name"]) == (4, 3, "minimal")
        assert values.get("train_on", "demonstrations") == "demonstrations"


def test_self_study_of_the_embedded_documents_is_accepted_by_the_parser():
    commands = listing("document_distillation/on_policy.sh", METHODS="self-study", STUDY_EPOCHS="7", PYTHON="true")
    runs = [{name: value for group in accepted(command) for name, value in vars(group).items()} for command in commands]
    assert [run["query_file"] for run in runs] == [f"logfiles/on-policy/pairs/{seed}.jsonl" for seed in range(3)]
    assert {(run["answers"], run["num_train_epochs"]) for run in runs} == {("given", 7)}


@pytest.mark.parametrize(
    ("script", "given"),
    [
        ("dialogue_distillation/run.sh", {}),
        ("instruction_distillation/run.sh", {}),
        ("code_distillation/run.sh", {}),
        ("document_distillation/run.sh", {}),
        ("document_distillation/on_policy.sh", {"METHODS": "retain self-study"}),
    ],
)
def test_a_dry_run_makes_the_files_that_its_commands_read(tmp_path, script, given):
    folder = tmp_path / "runs"
    variables = environment(DRY_RUN="1", SEEDS="0", OUTPUT_DIR=str(folder), **given)

    def start():
        done = subprocess.run(
            ["bash", ROOT / "scripts" / script], capture_output=True, text=True, check=True, env=variables, timeout=300
        )
        return done, {path: path.stat().st_ctime_ns for path in folder.rglob("*") if path.is_file()}

    done, made = start()
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(accepted(command) for command in commands)
    read = {word for command in commands for word in command if word.startswith(f"{folder}/")}
    first = re.findall(r"^run this first: (.*)", done.stderr, re.MULTILINE)  # what a model writes
    for words in map(shlex.split, first):
        read.remove(words[words.index("--output_file") + 1])
        assert accepted(words) and Path(words[words.index("--context_file") + 1]).is_file()
    assert len(first) == ("METHODS" in given)
    assert read and all(Path(path).exists() for path in read)
    assert start()[1] == made  # untouched, so that finished runs are recognised


def test_values_stay_one_word_whatever_they_hold(tmp_path):
    evil = [f"a b; touch {tmp_path}/evil", f"$(touch {tmp_path}/evil)", f"`touch {tmp_path}/evil`", "x\"y's", "*", "-n", "é\\n"]
    pattern = "{text1} 'so' \"$(id)\" ; {text2} \\n ?"
    extra = ["--task_description", evil[1], "--num_train_epochs", "1", "--save_final_model", "--instruction", ""]
    lists = {"MODELS": [evil[0]], "PATTERNS": [pattern], "EXTRA_ARGS": extra}
    single = {"METHODS": "distill", "SHOTS": "2", "DATA_SEEDS": "0", "DATA_DIR": evil[2]}
    (command,) = listing(
        "context_distillation/rte/run.sh", **single, **{name: shlex.join(words) for name, words in lists.items()}
    )
    for name, value in {"model_name_or_path": evil[0], "data_dir": evil[2], "pattern": pattern}.items():
        assert command[command.index(f"--{name}") + 1] == value
    assert command[-7:] == extra
    assert "--no_save_final_model" not in command  # EXTRA_ARGS has its opposite
    for word in evil:
        models = [c[c.index("--model_name_or_path") + 1] for c in listing("vanilla_ft/rte/run.sh", MODELS=shlex.quote(word))]
        assert set(models) == {word}
    assert not (tmp_path / "evil").exists()
    plain = {"PATTERNS": r"{text1}\n{text2}?\ it\'s\ so", "EXTRA_ARGS": r"--label_delimiter \n\n"}  # no quotation marks
    (command,) = listing("context_distillation/rte/run.sh", MODELS="m", **single, **plain)
    assert command[command.index("--pattern") + 1] == r"{text1}\n{text2}? it's so"
    assert command[-2:] == ["--label_delimiter", r"\n\n"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"DATA_SEEDS": "a[$(touch evil)]"}, "DATA_SEEDS=a[$(touch: must be a whole number"),
        ({"NUM_GPUS": "x"}, "NUM_GPUS=x: must be a whole number"),
        ({"JOBS": "0"}, "both must be 1 or more"),
        ({"NUM_GPUS": "2", "JOBS": "2"}, "use JOBS=1"),
        ({"NUM_GPUS": "2", "LAUNCHER": "python"}, "use torchrun"),
        ({"LAUNCHER": "mpirun"}, "LAUNCHER=mpirun: use python, torchrun or deepspeed"),
        ({"NUM_GPUS": "5"}, "BATCH_SIZE=32: is not a multiple of NUM_GPUS=5"),
        ({"METHODS": "pbft-magic"}, "METHODS: no method pbft-magic"),
        ({"METHODS": "magic"}, "METHODS: no method magic"),
        ({"PRECISION": "int8"}, "PRECISION=int8: give fp16, bf16 or fp32"),
        ({"EXTRA_ARGS": "--pattern 'x"}, "is a quotation mark missing?"),
        ({"EXTRA_ARGS": "--bf16"}, "EXTRA_ARGS=--bf16: set the precision with PRECISION"),
        ({"MODELS": "a\nb"}, "a command is one line of text"),
        ({"MODELS": ""}, "pattern_verbalizer_ft/rte/run: there is nothing to run"),
        ({"TASKS": "rte RTE", "script": "comparison"}, "TASKS=rte RTE: RTE is none of mnli qqp"),
        ({"NUM_GPUS": "4", "script": "comparison"}, "NUM_GPUS=4: would multiply the batches of this sweep"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, given, says):
    given = dict(given)
    script = ROOT / "scripts" / given.pop("script", "pattern_verbalizer_ft/rte") / "run.sh"
    variables = environment(DRY_RUN="1", OUTPUT_DIR=str(tmp_path / "runs"), **given)
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False, env=variables, timeout=300)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_shared_out_over_the_processes():
    variables = {"MODELS": "m", "METHODS": "pbft", "SHOTS": "16", "DATA_SEEDS": "0", "NUM_GPUS": "4", "DEVICE_BATCH_SIZE": "2"}
    (command,) = listing("pattern_verbalizer_ft/rte/run.sh", **variables)
    assert command[:7] == ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4", "ft.py"]
    assert command[command.index("--per_device_train_batch_size") + 1] == "2"
    assert command[command.index("--gradient_accumulation_steps") + 1] == "4"


@pytest.mark.parametrize(("page", "count"), [("README.md", 9), ("docs/recipes.md", 23), ("docs/text.md", 29)])
def test_shown_commands(page, count):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    ours = re.compile(r"\b(eval|ft|distill)\.py|\bllmft\.(self_study|compose)")
    commands = [shlex.split(line, comments=True) for line in lines if ours.search(line)]
    assert len(commands) == count
    for command in commands:
        assert accepted(without_deepspeed(command))


def test_tests_and_commands_behind_features_and_pitfalls_are_there():
    text = (ROOT / "docs/comparison_of_tools.md").read_text()
    commands = re.findall(r"`(python [^`]+)`", text)
    assert all(accepted(shlex.split(command)) for command in commands)
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) == text.count("::") and len(commands) > 10
    for file, name in named:
        functions = [node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)]
        assert name in functions, f"{file} has no {name}"
    for row in text.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if len(cells) == 12 and cells[0].strip().isdigit() and cells[10] == "Y":
            assert "`" in cells[11], row
    assert [int(row.split("|")[1]) for row in text.splitlines() if re.match(r"\| \d+ \|", row)] == [*range(1, 24), *range(1, 13)]


@pytest.mark.parametrize(("page", "count"), [("README.md", 3), ("scripts/README.md", 4)])
def test_shown_sweeps(page, count):
    shown = "".join(re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    found = re.findall(r"^((?:\w+=(?:'[^']*'|\S+) )*bash scripts/\S+/run\.sh)", shown, re.MULTILINE)
    assert len(found) == count
    for line in found:
        variables = environment(DRY_RUN="1", DATA_SEEDS="0")
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True, env=variables, timeout=300
        )
        assert accepted(without_deepspeed(shlex.split(done.stdout.splitlines()[0])))


def without_deepspeed(command):
    """The command line without the config, which would start DeepSpeed in this process."""
    if "--deepspeed" not in command:
        return command
    place = command.index("--deepspeed")
    assert find_config(command[place + 1])
    return command[:place] + command[place + 2 :]


def test_the_table_of_gaps_by_epoch(tmp_path):
    def table():
        words = [sys.executable, ROOT / "scripts/gap_by_epoch.py", tmp_path]
        return subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment(PYTHONPATH=str(ROOT)), timeout=300
        )

    def sets(correct):
        return {"toy": {"score_accuracy": correct, "n": 10}}

    none = table()
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr.startswith(f"error: {tmp_path}: there is no finished distillation") and none.stderr.count("\n") == 1
    for number, (setting, after) in enumerate({"a": 0.7, "b": 0.8}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = {"method": "distill", "setting": setting, "arguments": {"DistillationRunArguments": {"learning_rate": 1e-3}}}
        stages = {"teacher": sets(0.9), "before": sets(0.5)}
        metrics = {
            "stages": stages,
            "sets": {"in_domain": ["toy"], "retention": ["sst2"]},
            "evaluations": [{"sets": sets(after)}],
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "DONE").touch()
    rows = table().stdout.splitlines()[2:]
    assert rows == ["| distill | 0.001 | 1 | 0.50 (0.50) |", "| distill | 0.001 | 1 | 0.75 (0.75) |"]  # two settings


def test_records_that_are_kept_give_the_same_report_and_name_nothing_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    records = write(Path("runs"), [Made(method="distill"), Made(seed=1), Made(seed=2, done=False)])
    for record in records:
        config = json.loads(Path("runs", record, "config.json").read_text())
        config |= {"folder": str(Path.cwd()), "data": f"{tmp_path}/rows/x.csv", "file": f"{Path.cwd()}/x.csv"}
        Path("runs", record, "config.json").write_text(json.dumps(config))
    keep = runpy.run_path(str(ROOT / "scripts/comparison/keep.py"))
    for name in ("once", "again"):
        monkeypatch.setattr("sys.argv", ["keep.py", "runs", f"{name}.tar.xz", "--data_dir", f"{tmp_path}/rows"])
        keep["main"]()
    assert Path("once.tar.xz").read_bytes() == Path("again.tar.xz").read_bytes()
    with tarfile.open("once.tar.xz") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    there = tmp_path / "there" / "runs"
    kept = [json.loads(file.read_text()) for file in sorted(there.rglob("config.json"))]
    assert [(config["folder"], config["data"], config["file"]) for config in kept] == [(".", "data/x.csv", "x.csv")] * 2
    assert not any(str(tmp_path) in file.read_text() for file in there.rglob("*.json"))
    before, after = (summarise(collect(folder)).drop(columns="ids") for folder in (Path("runs"), there))
    pd.testing.assert_frame_equal(before, after)


def test_choices_are_made_on_training_rows(tmp_path):
    """The rule of the comparison: best accuracy, of equal ones lowest loss; calibrated or not from the same run."""
    choose = runpy.run_path(str(ROOT / "scripts/comparison/choose.py"))
    given = pd.DataFrame({"sentence1": [*map(str, range(20))], "sentence2": "b", "label": 0, "idx": range(20)})
    (tmp_path / "data/glue/rte").mkdir(parents=True)
    given.to_parquet(tmp_path / "data/glue/rte/train.parquet")
    choose["split"](str(tmp_path / "data"), str(tmp_path / "rows"), "rte")
    made = (tmp_path / "rows/glue/rte/train.parquet").stat().st_ctime_ns
    choose["split"](str(tmp_path / "data"), str(tmp_path / "rows"), "rte")
    assert (
        tmp_path / "rows/glue/rte/train.parquet"
    ).stat().st_ctime_ns == made  # untouched, so that finished runs are recognised
    train, held_out = (pd.read_parquet(tmp_path / f"rows/glue/rte/{name}.parquet") for name in ("train", "validation"))
    assert held_out["idx"].tolist() == [0, 10]
    assert sorted([*train["idx"], *held_out["idx"]]) == [*range(20)]
    right, wrong = np.log([0.9, 0.1]), np.log([0.2, 0.8])
    records = {"minimal": ([right, wrong], [wrong, wrong]), "gpt-3": ([wrong, right], [right, right - 0.1])}
    for pattern, (calibrated, plain) in records.items():
        folder = tmp_path / "runs" / pattern
        folder.mkdir(parents=True)
        arguments = {
            "DataArguments": {"task_name": "rte", "pattern_name": pattern},
            "ModelArguments": {"model_name_or_path": "a/m"},
        }
        (folder / "config.json").write_text(json.dumps({"arguments": arguments}))
        columns = {"target": [0, 0], "label_logprobs": calibrated, "token_logprobs": plain}
        pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
        (folder / "DONE").touch()
    earlier = {"model": ["m", "other"], "task": "rte", "pattern": "minimal", "calibrated": 0, "rows": 48, "accuracy": 1.0}
    pd.DataFrame(earlier | {"loss": 0.1, "chosen": 1}).to_csv(tmp_path / "choices.csv", index=False)
    choose["table"](str(tmp_path / "runs"), str(tmp_path / "choices.csv"))
    table = pd.read_csv(tmp_path / "choices.csv")
    assert table["model"].tolist() == ["m"] * 4 + ["other"]
    table = table[:4]
    chosen = table[table["chosen"] == 1].to_dict("records")
    assert [(row["model"], row["pattern"], row["calibrated"], row["accuracy"]) for row in chosen] == [("m", "gpt-3", 0, 1.0)]
    assert table["accuracy"].tolist() == [1.0, 0.5, 0.5, 0.0]
    pd.DataFrame({name: column[:1] for name, column in columns.items()}).to_parquet(folder / "predictions.parquet")
    with pytest.raises(InputError, match=r"m was scored on 1 and 2 rows of rte; remove the runs of one number"):
        choose["table"](str(tmp_path / "runs"), str(tmp_path / "choices.csv"))


def test_the_first_screen_of_the_readme_runs_something():
    assert "make demo" in "\n".join((ROOT / "README.md").read_text().splitlines()[:20])


def test_entry_scripts_are_short():
    for script in ("eval.py", "ft.py", "distill.py", "llmft/self_study/__main__.py", "llmft/compose/__main__.py"):
        assert len((ROOT / script).read_text().splitlines()) < 60


def test_long_notes_have_no_more_parts_than_can_be_drawn(tmp_path, monkeypatch, capsys):
    make = runpy.run_path(str(ROOT / "scripts/document_distillation/make_long_notes.py"))
    assert len({place.name for part in make["draw_parts"](random.Random(0), 16) for place in part.places}) == 16 * 5
    monkeypatch.setattr("sys.argv", ["make_long_notes.py", str(tmp_path / "long"), "--parts", "21"])
    with pytest.raises(SystemExit):
        make["main"]()
    assert "argument --parts: invalid choice: 21 (choose from 1, 2" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
