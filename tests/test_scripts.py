"""Every command that a sweep or the README shows is one that the real parser accepts."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from llmft.command_line import parse
from llmft.pipelines import distill, fine_tune, in_context

ROOT = Path(__file__).parents[1]
GROUPS = {"eval.py": in_context.GROUPS, "ft.py": fine_tune.GROUPS, "distill.py": distill.GROUPS}
SWEEPS = {
    "scripts/demo.sh": 27,
    "scripts/context_distillation/sst2/run.sh": 6,
    "scripts/context_distillation/sst2/contexts.sh": 12,
    "scripts/context_distillation/toy/contexts.sh": 27,
}


def accepted(words):
    """Parse a command line from its script's name on."""
    place = next(i for i, word in enumerate(words) if word in GROUPS)
    return parse(GROUPS[words[place]], words[place + 1 :], "")[0]


@pytest.mark.parametrize(("sweep", "runs"), SWEEPS.items())
def test_sweeps(sweep, runs):
    environment = {**os.environ, "DRY_RUN": "1", "DATA_DIR": "/data"}
    done = subprocess.run(["bash", ROOT / sweep], capture_output=True, text=True, check=True, env=environment)
    commands = [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert len(commands) == runs
    for command in commands:
        assert accepted(command)


@pytest.mark.parametrize(("page", "count"), [("README.md", 6), ("docs/recipes.md", 12)])
def test_shown_commands(page, count):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if re.search(r"\b(eval|ft|distill)\.py", line)]
    assert len(commands) == count
    for command in commands:
        assert accepted([word for word in command if not word.endswith("zero2.json") and word != "--deepspeed"])
        for word in command:
            assert not word.endswith(".json") or (ROOT / word).is_file()


def test_the_first_screen_of_the_readme_runs_something():
    assert "make demo" in "\n".join((ROOT / "README.md").read_text().splitlines()[:20])


def test_entry_scripts_are_short():
    for script in GROUPS:
        assert len((ROOT / script).read_text().splitlines()) < 60


def test_a_failed_run_is_named_and_makes_the_sweep_fail(tmp_path):
    sweep = tmp_path / "sweep.sh"
    sweep.write_text(f'source "{ROOT}/scripts/common.sh"\nrun -c "import sys; sys.exit(3)"\nrun -c "print(1)"\nfinish\n')
    done = subprocess.run(["bash", sweep], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1" in done.stdout.splitlines()
    assert "failed: -c import sys; sys.exit(3)" in done.stderr
