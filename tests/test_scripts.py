"""Every command that a sweep or the README shows is one that the real parser accepts, and the driver of the sweeps keeps its word."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmft.command_line import parse
from llmft.pipelines import distill, fine_tune, in_context

ROOT = Path(__file__).parents[1]
GROUPS = {"eval.py": in_context.GROUPS, "ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS}
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
    "demo.sh": 27,
    "context_distillation/sst2/run.sh": 6,
    "context_distillation/sst2/contexts.sh": 12,
    "context_distillation/toy/contexts.sh": 27,
}
SCRIPTS = sorted(file.relative_to(ROOT) for end in ("sh", "sbatch") for file in (ROOT / "scripts").rglob(f"*.{end}"))
FAKE = """#!/usr/bin/env bash
# Stands in for python: what the run does is said by its model's name.
case "$*" in
    *-m\\ llmft.report*) ;;
    *fails*) echo "error: --model_name_or_path fails: no" >&2; exit 2 ;;
    *known*) echo "finished before: somewhere" ;;
    *sleeps*) sleep 60 & echo "$$ $! ${CUDA_VISIBLE_DEVICES:-}" >>"$PIDS"; trap 'exit 143' TERM; wait ;;
    *) printf '%s\\n' "$@"; echo "record: somewhere" ;;
esac
"""


@pytest.fixture
def sweep(tmp_path):
    """Start a sweep whose python is a fake; keyword arguments are variables."""
    fake = tmp_path / "python"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def start(script, *arguments, **variables):
        given = {"PYTHON": str(fake), "OUTPUT_DIR": str(tmp_path / "runs"), "PIDS": str(tmp_path / "pids"), **variables}
        command = ["bash", ROOT / "scripts" / script, *arguments]
        return subprocess.Popen(
            command, env=environment(**given), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )

    return start


def environment(**given):
    """This process's environment without what would change a sweep, and with what is given."""
    names = {"DATA_DIR", "LLMFT_DATA_DIR", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "PYTHON", "OUTPUT_DIR", "RANK"}
    return {**{name: value for name, value in os.environ.items() if name not in names}, **given}


def listing(script, **given):
    """The commands of a dry run, as words."""
    variables = environment(DRY_RUN="1", **given)
    done = subprocess.run(["bash", ROOT / "scripts" / script], capture_output=True, text=True, check=True, env=variables)
    return [shlex.split(line) for line in done.stdout.splitlines()]


def accepted(words):
    """Parse a command line from its script's name on."""
    place = next(i for i, word in enumerate(words) if word in GROUPS)
    return parse(GROUPS[words[place]], words[place + 1 :], "")[0]


def test_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("needs shellcheck, which the dev extra brings")
    assert len(SCRIPTS) > len(SWEEPS)
    done = subprocess.run([shellcheck, *SCRIPTS, ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_all_sweeps_are_tested():
    helpers = {"common.sh", "grid.sh", "get_smollm2.sh", "run_lines.sh"}
    found = {str(path.relative_to("scripts")) for path in SCRIPTS if path.parts[1] != "slurm"}
    assert found == set(SWEEPS) | helpers


@pytest.mark.parametrize(("script", "runs"), SWEEPS.items())
def test_sweeps_are_accepted_by_the_parser(script, runs):
    commands = listing(script, **(NARROW if script in GRID else {}))
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


def test_values_stay_one_word_whatever_they_hold(tmp_path):
    evil = [f"a b; touch {tmp_path}/evil", f"$(touch {tmp_path}/evil)", f"`touch {tmp_path}/evil`", "x\"y's", "*", "-n", "é\\n"]
    pattern = "{text1} 'so' \"$(id)\" ; {text2} \\n ?"
    (command,) = listing(
        "context_distillation/rte/run.sh",
        **{
            "MODELS": shlex.quote(evil[0]),
            "METHODS": "distill",
            "SHOTS": "2",
            "DATA_SEEDS": "0",
            "PATTERNS": shlex.quote(pattern),
        },
        EXTRA_ARGS=shlex.join(
            ["--task_description", evil[1], "--num_train_epochs", "1", "--save_final_model", "--instruction", ""]
        ),
        DATA_DIR=evil[2],
        DEEPSPEED_CONFIG="zero2",
    )
    for name, value in {"model_name_or_path": evil[0], "data_dir": evil[2], "pattern": pattern}.items():
        assert command[command.index(f"--{name}") + 1] == value
    assert command[-7:] == ["--task_description", evil[1], "--num_train_epochs", "1", "--save_final_model", "--instruction", ""]
    assert "--no_save_final_model" not in command  # EXTRA_ARGS has its opposite
    for word in evil:
        models = [c[c.index("--model_name_or_path") + 1] for c in listing("vanilla_ft/rte/run.sh", MODELS=shlex.quote(word))]
        assert set(models) == {word}
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"DATA_SEEDS": "a[$(touch evil)]"}, "DATA_SEEDS=a[$(touch: give a whole number"),
        ({"NUM_GPUS": "x"}, "NUM_GPUS=x: give a whole number"),
        ({"JOBS": "0"}, "both must be 1 or more"),
        ({"NUM_GPUS": "2", "JOBS": "2"}, "give JOBS=1"),
        ({"NUM_GPUS": "2", "LAUNCHER": "python"}, "give torchrun"),
        ({"LAUNCHER": "mpirun"}, "LAUNCHER=mpirun: give python, torchrun or deepspeed"),
        ({"NUM_GPUS": "5"}, "BATCH_SIZE=32: is no multiple of NUM_GPUS=5"),
        ({"METHODS": "pbft-magic"}, "METHODS: no method pbft-magic"),
        ({"METHODS": "magic"}, "METHODS: no method magic"),
        ({"PRECISION": "int8"}, "PRECISION=int8: give fp16, bf16 or fp32"),
        ({"EXTRA_ARGS": "--pattern 'x"}, "is a quotation mark missing?"),
        ({"MODELS": "a\nb"}, "a command is one line of text"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, given, says):
    script = ROOT / "scripts/pattern_verbalizer_ft/rte/run.sh"
    variables = environment(DRY_RUN="1", OUTPUT_DIR=str(tmp_path / "runs"), **given)
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_shared_out_over_the_processes():
    variables = {"MODELS": "m", "METHODS": "pbft", "SHOTS": "16", "DATA_SEEDS": "0", "NUM_GPUS": "4", "DEVICE_BATCH_SIZE": "2"}
    (command,) = listing("pattern_verbalizer_ft/rte/run.sh", **variables)
    assert command[:5] == ["torchrun", "--standalone", "--nproc_per_node", "4", "ft.py"]
    assert command[command.index("--per_device_train_batch_size") + 1] == "2"
    assert command[command.index("--gradient_accumulation_steps") + 1] == "4"


def test_failed_runs_are_listed_and_the_others_done(sweep):
    started = sweep("vanilla_ft/rte/run.sh", MODELS="'a b' fails known", SHOTS="2 16", DATA_SEEDS="0", JOBS="2")
    out, err = started.communicate(timeout=30)
    assert started.returncode == 1
    assert "2 finished, 2 skipped, 2 failed of 6" in out
    assert len(re.findall(r"^\[\d/6\] .*finished, \d skipped, \d failed of 6$", out, re.MULTILINE)) == 6
    failed = [line for line in err.splitlines() if line.startswith("failed (status 2): ")]
    assert len(failed) == 2
    assert err.count("    error: --model_name_or_path fails: no") == 2
    logs = [Path(line.removeprefix("    log: ")) for line in err.splitlines() if line.startswith("    log: ")]
    assert all("fails: no" in log.read_text() for log in logs)
    assert "a b" in (logs[0].parent / "1.log").read_text().splitlines()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_sweep_leaves_no_process(sweep, tmp_path, number, status):
    started = sweep("vanilla_ft/rte/run.sh", MODELS="sleeps", SHOTS="2", JOBS="2", CUDA_VISIBLE_DEVICES="5,7")
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 20
    while not pids.is_file() or len(pids.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(number)
    out, _ = started.communicate(timeout=20)
    assert started.returncode == status
    assert "0 finished, 0 skipped, 0 failed of 10" in out
    lines = [line.split() for line in pids.read_text().splitlines()]
    assert sorted(line[2] for line in lines) == ["5", "7"]  # each run at a time has a GPU of its own
    assert len(lines) == 2
    for pid in (pid for line in lines for pid in line[:2]):
        assert not alive(pid)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_of_several_processes_gets_a_free_port(sweep, tmp_path):
    (tmp_path / "deepspeed").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "deepspeed").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = {"MODELS": "m", "SHOTS": "2", "DATA_SEEDS": "0", "NUM_GPUS": "2", "LAUNCHER": "deepspeed", "PATH": path}
    started = sweep("vanilla_ft/rte/run.sh", **variables, PYTHON=sys.executable)
    assert started.communicate(timeout=30)[1].count("error") == 0
    (log,) = (tmp_path / "runs").rglob("1.log")
    option, port, *rest = log.read_text().splitlines()
    assert (option, rest[:3]) == ("--master_port", ["--num_gpus", "2", "ft.py"])
    assert 1024 < int(port) < 65536


def test_a_job_array_does_the_lines_of_a_listing(sweep, tmp_path):
    words = ["eval.py", "--pattern", "it's {text1}; $HOME \\n", ""]
    (tmp_path / "commands.txt").write_text(
        "".join(shlex.join([str(tmp_path / "python"), *words, str(i)]) + "\n" for i in range(5))
    )
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2", "LINES_PER_TASK": "2"}
    started = sweep("slurm/array.sbatch", "commands.txt", **job)
    assert "2 finished" in started.communicate(timeout=30)[0]
    assert started.returncode == 0
    logs = sorted((tmp_path / "runs").rglob("*.log"))
    assert [log.read_text().splitlines()[:-1] for log in logs] == [[*words, "2"], [*words, "3"]]
    job["SLURM_ARRAY_TASK_ID"] = "4"
    started = sweep("slurm/array.sbatch", "commands.txt", **job)
    assert "has 5 lines" in started.communicate(timeout=30)[1]
    assert started.returncode == 2


def test_a_preempted_job_is_put_back_into_the_queue(sweep, tmp_path):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/usr/bin/env bash\necho "$*" >>{shlex.quote(str(calls))}\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "commands.txt").write_text(shlex.join([str(tmp_path / "python"), "sleeps"]) + "\n")
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    started = sweep("slurm/array.sbatch", str(tmp_path / "commands.txt"), **job, PATH=path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=20)
    assert started.returncode == 143
    assert calls.read_text() == "requeue 77\n"
    assert not any(alive(pid) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize(("page", "count"), [("README.md", 8), ("docs/recipes.md", 12), ("scripts/README.md", 0)])
def test_shown_commands(page, count):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if re.search(r"\b(eval|ft|distill)\.py", line)]
    assert len(commands) == count
    for command in commands:
        assert accepted(without_deepspeed(command))
        for word in command:
            assert not word.endswith(".json") or (ROOT / word).is_file()


def without_deepspeed(command):
    """The command line without the config, which would start DeepSpeed in this process."""
    place = command.index("--deepspeed") if "--deepspeed" in command else len(command)
    return command[:place] + command[place + 2 :]


def test_the_first_screen_of_the_readme_runs_something():
    assert "make demo" in "\n".join((ROOT / "README.md").read_text().splitlines()[:20])


def test_entry_scripts_are_short():
    for script in GROUPS:
        assert len((ROOT / script).read_text().splitlines()) < 60
