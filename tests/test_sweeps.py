"""The driver of the sweeps: failures, signals, ports, job arrays; a script stands in for python."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_scripts import ROOT, accepted, environment

FAKE = """#!/usr/bin/env bash
# Stands in for python: what the run does is said by its model's name.
case "$*" in
    *-m\\ llmft.report*) echo "report of ${!#}" ;;
    *fails*) echo "error: --model_name_or_path fails: no" >&2; exit 2 ;;
    *make_notes*) sleep 60 & echo "$$ $!" >>"$PIDS"; trap 'exit 143' TERM; wait ;;
    *known*) echo "already finished: somewhere" ;;
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
        given = {name: value for name, value in given.items() if value is not None}
        command = ["bash", ROOT / "scripts" / script, *arguments]
        return subprocess.Popen(
            command, env=environment(**given), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )

    return start


def test_runs_that_failed_are_no_reason_to_write_no_report(sweep, tmp_path):
    started = sweep("dialogue_distillation/run.sh", MODEL="fails", SEEDS="0", METHODS="none lora")
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 1
    assert out.splitlines()[-1] == f"report of {tmp_path / 'runs'}" and "0 finished, 0 skipped, 2 failed of 2; logs:" in out


def test_a_student_that_is_distilled_again_is_found_after_the_first_run(sweep, tmp_path):
    script, student = "context_distillation/toy/sequential.sh", tmp_path / "runs/first/distill/toy/toy/run"
    dry = sweep(script, DRY_RUN="1")
    assert "DRY_RUN=1: the second command starts from the folder" in dry.communicate(timeout=30)[1]
    assert dry.returncode == 2
    (student / "model").mkdir(parents=True)  # what the fake does not make
    out, _ = sweep(script).communicate(timeout=30)
    first, second = (shlex.split(line) for line in re.findall(r"^\[1/1\] (.* distill\.py .*)", out, re.MULTILINE))
    assert accepted(first) and accepted(second)
    assert second[second.index("--model_name_or_path") + 1] == f"{student}/model"
    assert out.count("1 finished, 0 skipped, 0 failed of 1; logs: ") == 2
    assert len(list((tmp_path / "runs/sweeps").iterdir())) == 2  # also where both ran in the same second


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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_interrupted_sweep_leaves_no_process(sweep, tmp_path, number, status):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, by what is started, too
    started = sweep("vanilla_ft/rte/run.sh", MODELS="sleeps", SHOTS="2", JOBS="2", CUDA_VISIBLE_DEVICES="5,7")
    signal.signal(signal.SIGHUP, before)
    pids = tmp_path / "pids"
    wait_for(pids, lines=2)
    started.send_signal(number)
    out, _ = started.communicate(timeout=20)
    assert started.returncode == status
    assert "0 finished, 0 skipped, 0 failed of 10" in out
    lines = [line.split() for line in pids.read_text().splitlines()]
    assert sorted(line[2] for line in lines) == ["5", "7"]  # each run at a time has a GPU of its own
    assert len(lines) == 2
    for pid in (pid for line in lines for pid in line[:2]):
        assert not alive(pid)


def test_a_sweep_that_is_stopped_before_its_runs_leaves_no_process(sweep, tmp_path):
    started = sweep("document_distillation/on_policy.sh", METHODS="self-study")
    wait_for(tmp_path / "pids")
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=20)[1].splitlines()[-1] == "stopped; run the same command again to continue"
    assert started.returncode == 143
    assert not any(alive(pid) for pid in (tmp_path / "pids").read_text().split())


def test_a_sweep_whose_output_nobody_reads_any_more_leaves_no_process(sweep, tmp_path):
    models = ["sleeps", *(f"other{number}" for number in range(40))]  # of which many are still to come when the first is there
    started = sweep("vanilla_ft/rte/run.sh", MODELS=" ".join(models), SHOTS="2", DATA_SEEDS="0", JOBS="2")
    wait_for(tmp_path / "pids")
    started.stdout.close()
    assert started.wait(timeout=20) == 141
    assert not any(alive(pid) for pid in (tmp_path / "pids").read_text().split())


def wait_for(file, lines=1):
    """Wait until a file has this many lines."""
    deadline = time.monotonic() + 20
    while not file.is_file() or len(file.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_run_of_several_processes_has_the_sweeps_python_a_free_port_and_its_time_to_end(sweep, tmp_path, launcher):
    python = tmp_path / "own_python"
    real = shlex.quote(sys.executable)
    python.write_text(f'#!/usr/bin/env bash\nif [ "$1" = -c ]; then exec {real} "$@"; fi\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    variables = {"MODELS": "m", "SHOTS": "2", "DATA_SEEDS": "0", "NUM_GPUS": "2", "LAUNCHER": launcher, "GRACE": "77"}
    started = sweep("vanilla_ft/rte/run.sh", **variables, PYTHON=str(python))
    assert started.communicate(timeout=30)[1].count("error") == 0
    (log,) = (tmp_path / "runs").rglob("1.log")
    module, option, value, *rest = log.read_text().splitlines()[1:]
    if launcher == "torchrun":
        assert (module, option, value) == ("torch.distributed.run", "--shutdown_timeout", "77")
        assert rest[:4] == ["--standalone", "--nproc_per_node", "2", "ft.py"]
    else:
        assert (module, option, rest[:3]) == ("deepspeed.launcher.runner", "--master_port", ["--num_gpus", "2", "ft.py"])
        assert 1024 < int(value) < 65536


TWO_RUNS = {"MODELS": "m", "SHOTS": "2", "DATA_SEEDS": "0 1"}


def fake_nvidia_smi(folder, text):
    """The PATH with a fake nvidia-smi."""
    (folder / "nvidia-smi").write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"JOBS": "2"}, {"4", "6"}),
        ({"JOBS": "2", "CUDA_VISIBLE_DEVICES": "3,1"}, {"3", "1"}),
        ({"JOBS": "2", "CUDA_VISIBLE_DEVICES": "3,1", "LAUNCHER": "deepspeed"}, {"3", "1"}),
        ({"JOBS": "2", "LAUNCHER": "deepspeed"}, {"4", "6"}),
        ({"CUDA_VISIBLE_DEVICES": "3,1,7", "LAUNCHER": "deepspeed", "NUM_GPUS": "2"}, {"3,1"}),
        ({"CUDA_VISIBLE_DEVICES": "3,1,7", "NUM_GPUS": "2"}, {"3,1,7"}),  # torchrun uses the first two
    ],
)
def test_each_run_has_its_own_gpus(sweep, tmp_path, given, used):
    python, seen = tmp_path / "own_python", tmp_path / "seen"
    text = f"""if [ "$1" = -c ]; then exec {shlex.quote(sys.executable)} "$@"; fi
    echo "$CUDA_VISIBLE_DEVICES $*" >>"$PIDS"
    until [ "$(wc -l <"$PIDS")" -ge {given.get("JOBS", 1)} ]; do sleep 0.05; done # all that run at a time have started"""
    python.write_text(f"#!/usr/bin/env bash\n{text}\n")
    python.chmod(0o755)
    path = fake_nvidia_smi(tmp_path, 'printf "4\\n6\\n"')
    started = sweep("vanilla_ft/rte/run.sh", **TWO_RUNS, **given, **path, PYTHON=str(python), PIDS=str(seen))
    assert "2 finished" in started.communicate(timeout=30)[0]
    lines = seen.read_text().splitlines()
    assert {line.split()[0] for line in lines} == used
    assert "--num_gpus" not in seen.read_text()  # DeepSpeed would ignore the variable


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"JOBS": "2"}, "JOBS=2: no GPUs are known"),
        ({"NUM_GPUS": "2", "CUDA_VISIBLE_DEVICES": "3"}, "NUM_GPUS=2: JOBS=1 and CUDA_VISIBLE_DEVICES=3 leave 1 for a run"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f3a"}, "CUDA_VISIBLE_DEVICES=GPU-8f3a: must be a whole number"),
    ],
)
def test_deepspeed_is_not_started_on_the_wrong_gpus(sweep, tmp_path, given, says):
    path = fake_nvidia_smi(tmp_path, "echo no driver; exit 9")
    started = sweep("vanilla_ft/rte/run.sh", **TWO_RUNS, **given, **path, LAUNCHER="deepspeed")
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")


def test_deepspeeds_launcher_is_told_that_it_starts_a_module(sweep):
    variables = {"POOLS": "4", "STEPS": "6", "SEEDS": "0", "NUM_GPUS": "2", "JOBS": "1", "LAUNCHER": "deepspeed"}
    out, _ = sweep("task_diversity/run.sh", **variables, DRY_RUN="1").communicate(timeout=30)
    words = out.split()
    place = words.index("llmft.worlds.regression.pretrain")
    assert words[place - 4 : place] == ["--num_gpus", "2", "--module", "--no_local_rank"] and "-m" not in words[place:]


def test_papers_task_diversity_has_several_budgets_and_stays_on_the_gpu(sweep):
    variables = {"SIZES": "base", "STEPS": "10 20", "BATCH_SIZES": "8 16", "POOLS": "4 0"}
    started = sweep("task_diversity/paper.sh", **variables)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    assert "4 finished, 0 skipped, 0 failed of 4" in out
    after = out.split("llmft.worlds.regression.")[-3:]  # the fake prints its words, one a line
    names, words = [part.split()[0] for part in after], [part.split() for part in after]
    assert names == ["distill", "distill", "measure"]
    assert [each[each.index("--device") + 1] for each in words] == ["cuda"] * 3
    assert [each[each.index("--pretraining_steps") + 1] for each in words[:2]] == ["20", "20"]


def test_a_job_array_does_the_lines_of_a_listing(sweep, tmp_path):
    words = ["eval.py", "--pattern", "it's {text1}; $HOME \\n", ""]
    commands = [[str(tmp_path / "python"), *words, str(number)] for number in range(1, 6)]
    (tmp_path / "commands.txt").write_text("".join(shlex.join(command) + "\n" for command in commands))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "2", "LINES_PER_TASK": "2"}
    job |= {"PYTHON": None}  # the lines have theirs
    started = sweep("slurm/array.sbatch", "commands.txt", **job)
    assert "2 finished" in started.communicate(timeout=30)[0]
    assert started.returncode == 0
    logs = sorted((tmp_path / "runs").rglob("*.log"))
    assert [log.read_text().splitlines()[:-1] for log in logs] == [[*words, "3"], [*words, "4"]]
    job["SLURM_ARRAY_TASK_ID"] = "4"
    started = sweep("slurm/array.sbatch", "commands.txt", **job)
    assert "has 5 lines" in started.communicate(timeout=30)[1]
    assert started.returncode == 2


def test_a_line_that_cannot_be_read_is_found_before_any_run(sweep, tmp_path):
    (tmp_path / "commands.txt").write_text(f"{tmp_path}/python sleeps\n{tmp_path}/python 'quote\n")
    started = sweep("run_lines.sh", str(tmp_path / "commands.txt"), PYTHON=None)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (2, "") and "is a quotation mark missing?" in err
    assert not (tmp_path / "pids").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PYTHON": "python"}, "PYTHON=python: each line has its own"),
        ({"NUM_GPUS": "1"}, "NUM_GPUS=1: each line has its own"),
        ({"LAUNCHER": "torchrun"}, "LAUNCHER=torchrun: each line has its own"),
        ({"EXTRA_ARGS": "--bf16"}, "EXTRA_ARGS=--bf16: each line has its own"),
        ({"JOBS": "2"}, "NUM_GPUS=4: JOBS=2 and CUDA_VISIBLE_DEVICES=0,1,2,3 leave 1 for a run"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "NUM_GPUS=4: JOBS=1 and CUDA_VISIBLE_DEVICES=0,1 leave 2 for a run"),
    ],
)
def test_lines_are_not_done_otherwise_than_the_settings_say(sweep, tmp_path, given, says):
    """A list's lines have their launcher and arguments already."""
    line = [str(tmp_path / "python"), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4", "ft.py"]
    (tmp_path / "commands.txt").write_text(shlex.join(line) + "\n")
    variables = {"PYTHON": None, "CUDA_VISIBLE_DEVICES": "0,1,2,3", **given}
    started = sweep("run_lines.sh", str(tmp_path / "commands.txt"), **variables)
    out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")
    assert "LAUNCHER=python" not in err  # a default that says nothing about the lines


@pytest.mark.parametrize(("restarts", "number"), [(None, signal.SIGTERM), ("9", signal.SIGUSR1), ("10", signal.SIGTERM)])
def test_a_preempted_job_is_put_back_into_the_queue_but_not_for_ever(sweep, tmp_path, restarts, number):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/usr/bin/env bash\necho "$*" >>{shlex.quote(str(calls))}\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "commands.txt").write_text(shlex.join([str(tmp_path / "python"), "sleeps"]) + "\n")
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1", "PYTHON": None}
    job |= {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    path = f"{tmp_path}:{os.environ['PATH']}"
    started = sweep("slurm/array.sbatch", str(tmp_path / "commands.txt"), **job, PATH=path)
    wait_for(tmp_path / "pids")
    started.send_signal(number)
    err = started.communicate(timeout=20)[1]
    assert started.returncode == 143
    assert calls.is_file() == (restarts != "10") and ("not requeued: restarted 10 times" in err) == (restarts == "10")
    assert not calls.is_file() or calls.read_text() == "requeue 77\n"
    assert not any(alive(pid) for pid in (tmp_path / "pids").read_text().split())


def test_a_preempted_run_over_several_nodes_saves_before_srun_ends(tmp_path):
    """Slurm's srun kills its processes when it gets SIGTERM itself."""
    fakes = {
        "srun": 'printf "%s\\n" "$@" >words; command -v "$3" >>words\n'
        "bash -c 'trap \"echo saved >>calls; exit 143\" TERM; echo $$ >pid; while :; do sleep 0.05; done' &\n"
        'trap "kill -KILL $!; exit 1" TERM; wait $!',
        "scancel": 'echo "scancel $*" >>calls; kill -TERM "$(cat pid)"',
        "scontrol": 'if [ "$1" = requeue ]; then echo "scontrol $*" >>calls; fi',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    variables = environment(**job, SLURM_CPUS_PER_TASK="32", PATH=f"{tmp_path}:{os.environ['PATH']}")
    started = subprocess.Popen(["bash", ROOT / "scripts/slurm/multi_node.sbatch", "ft.py"], env=variables)
    wait_for(tmp_path / "pid")
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=20) == 143
    words = (tmp_path / "words").read_text().splitlines()
    assert words[1:5] == ["--cpus-per-task=32", "python", "-m", "torch.distributed.run"] and words[-1] == str(python)
    assert (tmp_path / "calls").read_text().splitlines() == ["scancel --signal=TERM 77", "saved", "scontrol requeue 77"]
