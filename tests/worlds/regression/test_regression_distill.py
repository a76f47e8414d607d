"""Distilled contexts, tables and figures, on a tiny pretrained ensemble; what is taken over, on one that was trained a little."""

import json
import shutil

import pandas as pd
import pytest
import torch

from llmft.errors import InputError
from llmft.report import __main__ as report
from llmft.report.commands.diversity import TABLES
from llmft.report.figures.diversity import diversity_sheets
from llmft.worlds.regression import distill, measure, pretrain, students
from llmft.worlds.regression.estimators import dmmse, ridge
from llmft.worlds.regression.model import Regressors, RegressorShape
from llmft.worlds.regression.paths import between_tasks
from llmft.worlds.regression.tasks import Problem, draw_pools, draw_sequences, seeded_generator
from llmft.worlds.regression.thresholds import changes_of, direction, summary_of_changes, threshold

TINY = (
    "--num_pretraining_tasks 4 1 0 --layers 1 --heads 2 --width 8 --batch_size 8 --steps 4 8 --seeds 0 1 --eval_every 2 "
    "--eval_sequences 32"
).split()
SHORT = "--num_contexts 2 --queries 32 --eval_queries 16 --steps 5 --fit_steps 3 --batch_size 8".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    pretrain.main([*TINY, "--output_dir", str(folder)])
    for task in ("new", "pool"):
        distill.main(
            ["--pretrained", str(folder), "--pretraining_steps", "8", "--context_task", task, "--output_dir", str(folder), *SHORT]
        )
    return folder


def tables_of(folder):
    """The tables of the distillations below a folder, by task of the context and seed of the model."""
    found = {}
    for done in folder.glob("distill/regression/*/*/DONE"):
        config, metrics = (json.loads((done.parent / f"{name}.json").read_text()) for name in ("config", "metrics"))
        found[config["arguments"]["DistillationRecipe"]["context_task"], config["arguments"]["seeds"]["seed"]] = metrics
    return found


def test_students_take_over_the_priors_of_their_teachers(tmp_path):
    """A member of 4 tasks forces new ones onto those; one of 64 does not, and distilling it is better than fitting examples."""
    out = ["--output_dir", str(tmp_path)]
    pretrain.main(
        "--num_pretraining_tasks 4 64 --layers 2 --steps 300 --save_every 0 --eval_every 300 --eval_sequences 256".split() + out
    )
    flags = "--steps 150 --queries 1024 --eval_queries 256".split()
    distill.main(["--pretrained", str(tmp_path), *flags, *out])
    metrics = tables_of(tmp_path)["new", 0]
    few, many = metrics["table"]["M=4"], metrics["table"]["M=64"]
    assert few["student_to_teacher"] <= 0.01 and many["student_to_teacher"] <= 0.02
    assert few["student_to_dmmse"] < 0.5 * few["student_to_ridge"]
    assert many["error_student"] < 0.9 * many["error_fit"] and many["error_student"] < many["error_dmmse"]
    for name, row in metrics["table"].items():
        before = metrics["stages"]["before"][name]["error"]
        assert row["error_fit"] < 0.8 * before and row["error_student"] != before


@torch.no_grad()
def test_teacher_and_estimators_read_the_context_before_the_query():
    problem, pools = Problem(3, 4, 0.1), draw_pools([5, 0], 3, 0)
    contexts = draw_sequences(pools, problem, 2, seeded_generator(0))
    model = Regressors(RegressorShape(3, 5, layers=1, heads=2, width=8), 2, seed=0).copies(2)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=seeded_generator(1)) * 0.1)
    x = torch.randn(6, 3, generator=seeded_generator(2))
    given, alone = students.with_contexts(model, contexts, x), students.without_context(model, x)
    by_dmmse, by_ridge = students.estimates(contexts, x, pools, problem)
    for pool, context in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        member, labels = 2 * pool + context, contexts.labels[pool, context]
        sequence = torch.cat([contexts.x[context].expand(6, -1, -1), x[:, None]], 1)
        shown = torch.cat([labels, torch.zeros(1)]).expand(6, -1)
        each = model(sequence, shown.expand(4, -1, -1))[member, :, -1]
        torch.testing.assert_close(given[member], each)
        torch.testing.assert_close(by_ridge[member], ridge(sequence, shown, 0.1)[:, -1])
        of_pool = ridge(sequence, shown, 0.1) if pools[pool] is None else dmmse(sequence, shown, pools[pool], 0.1)
        torch.testing.assert_close(by_dmmse[member], of_pool[:, -1])
        torch.testing.assert_close(alone[member], model(x[:, None], torch.zeros(4, 6, 1))[member, :, 0])


def test_students_come_nearer_to_their_targets_each_to_its_own():
    model = Regressors(RegressorShape(2, 3, layers=1, heads=2, width=16), 2, seed=0)
    x = torch.randn(64, 2, generator=seeded_generator(3))
    targets = torch.stack([x[:, 0], -x[:, 1]])
    before = (students.without_context(model, x) - targets).square().mean(1)
    students.fit_students(model, lambda: (x, targets), 150, 1e-2)
    after = (students.without_context(model, x) - targets).square().mean(1)
    assert (after < 0.1 * before).all()


def test_tables_and_figures_of_runs_and_students(folder, capsys):
    measure.main([str(folder), "--path_pairs", "2"])
    assert "| M=inf |" in capsys.readouterr().out
    tables = folder / "task_diversity"
    results, thresholds, distilled, path = (
        pd.read_csv(tables / f"{name}.csv") for name in ("results", "thresholds", "distillation", "path")
    )
    assert len(results) == 3 * 2 * 2 * 2 and len(thresholds) == 3 * 2 and len(distilled) == 2 * 2 * 3
    change = results[results["tasks"] == "true"].pivot(index=["seed", "pool"], columns="steps", values="to_ridge")
    listed = thresholds.set_index(["seed", "pool"])["change"].sort_index()
    pd.testing.assert_series_equal(listed, (change[8] - change[4]).sort_index(), check_names=False)
    assert set(path["pool"]) == {4, 0}  # between the tasks of a pool of one there is no way
    report.main(["diversity", str(tables)])
    assert {file.stem for file in tables.glob("*.png")} == {"errors", "threshold", "training", "path", "distillation"}
    page = (tables / "task_diversity.html").read_text()
    assert page.count("<figure>") == 5 and "pool 4, seed 1" in page


def test_the_record_of_a_distillation_has_the_table(folder):
    record = next(folder.glob("distill/regression/*/*/DONE")).parent
    metrics = json.loads((record / "metrics.json").read_text())
    assert metrics["headline"] == {"name": "error", "higher_is_better": False}
    assert set(metrics["stages"]) == {"teacher", "before", "after", "fit"}
    row = metrics["table"]["M=4"]
    assert row["error_student"] == pytest.approx(metrics["stages"]["after"]["M=4"]["error"])
    assert row["error_fit"] == pytest.approx(metrics["stages"]["fit"]["M=4"]["error"])
    assert metrics["table"]["M=inf"]["student_to_dmmse"] == metrics["table"]["M=inf"]["student_to_ridge"]


def test_contexts_of_the_pool_are_the_pools(folder):
    tables = {key: metrics["table"] for key, metrics in tables_of(folder).items()}
    for seed in (0, 1):
        new, pool = tables["new", seed], tables["pool", seed]
        assert pool["M=1"]["error_dmmse"] < 1e-9 and new["M=1"]["error_dmmse"] > 0.1
        assert pool["M=4"]["error_dmmse"] < 0.1 * new["M=4"]["error_dmmse"]
        assert pool["M=inf"]["error_dmmse"] == new["M=inf"]["error_dmmse"]


def test_a_record_says_which_arguments_are_the_pretrainings(tmp_path):
    tiny = "--num_pretraining_tasks 4 --layers 1 --heads 2 --width 8 --steps 3 --seeds 5 --eval_sequences 8".split()
    pretrain.main([*tiny, "--output_dir", str(tmp_path)])
    distill.main(["--pretrained", str(tmp_path), "--steps", "2", "--seed", "3", "--output_dir", str(tmp_path)])
    (done,) = tmp_path.glob("distill/regression/*/*/DONE")
    config = json.loads((done.parent / "config.json").read_text())
    assert config["given"] == {
        "pretraining_num_pretraining_tasks": [4], "pretraining_layers": 1, "pretraining_heads": 2, "pretraining_width": 8,
        "pretraining_steps": 3, "pretraining_eval_sequences": 8, "steps": 2,
    }  # fmt: skip
    assert config["arguments"]["seeds"] == {"seed": 5, "data_seed": 3}


def test_distillations_of_other_runs_or_arguments_are_told_apart(tmp_path, capsys):
    out, tiny = ["--output_dir", str(tmp_path)], [*TINY, "--num_pretraining_tasks", "4", "--seeds", "0", "--steps", "4"]
    for flags in ("", "--batch_size 16", "--tokens paper", "--num_pretraining_tasks 4 2"):
        pretrain.main([*tiny, *flags.split(), *out])
    for flags in ("", "--steps 6", "--seed 1"):
        distill.main(["--pretrained", str(tmp_path), *SHORT, *flags.split(), *out])
    capsys.readouterr()
    frame = measure.distillations_below(tmp_path)
    assert "3 models were distilled in two runs of the same budget and seed" in capsys.readouterr().err
    keys = ["kind", "dimension", "steps", "batch_size", "seed", "pool", "students", "context_task", "context_examples"]
    assert not frame.duplicated(keys).any() and len(frame) == 3 * 4
    shown = {students.replace(" ".join(SHORT), "") for students in frame["students"]}
    changed = " ".join(SHORT).replace("--steps 5", "--steps 6")
    assert shown == {"", changed, " --seed 1"}
    assert {kind.count("--tokens paper") for kind in frame["kind"]} == {0, 1}
    sheets = list(diversity_sheets("distillation", {"distillation": frame}))
    assert len({sheet.name for sheet in sheets}) == len(sheets) == 2 * 3
    for sheet in sheets:  # of budgets the largest alone: no pool has two marks of a seed
        marks = sheet.figure.axes[0].lines[1].get_xdata()
        assert len(set(marks)) == len(marks)


def test_models_of_fresh_tasks_alone_and_a_plateau_that_is_noted(tmp_path, capsys):
    pretrain.main([*TINY, "--num_pretraining_tasks", "0", "--seeds", "0", "--output_dir", str(tmp_path)])
    measure.main([str(tmp_path), "--path_pairs", "0"])
    said = capsys.readouterr()
    assert "| pretrain: loss |" in said.out and "| M=inf |" in said.out
    assert "may still predict the mean" in said.err and "M=inf of seed 0, 8 steps of 8 sequences" in said.err


def test_the_threshold_is_where_the_change_falls_through_0_for_the_last_time():
    assert threshold({16: 0.02, 64: -0.02, 256: -0.05, 0: -0.06}) == pytest.approx(32)
    assert threshold({16: 0.01, 64: 0.02}) is None and threshold({16: -0.02, 64: 0.02}) is None
    assert threshold({4: 0.1, 16: -0.1, 64: 0.1, 256: -0.1}) == pytest.approx(128)
    assert threshold({4: -0.003, 16: 0.021, 64: -0.006, 256: -0.013, 1024: -0.011}) == pytest.approx(47, abs=0.5)
    assert threshold({4: 0.1, 16: -0.1, 64: 0.1}) is None and threshold({4: -0.1, 16: -0.2}) is None
    assert threshold({16: 0.02, 64: 0.0, 256: -0.1}) == pytest.approx(64)
    assert direction(pd.Series([0.02, 0.021, 0.019])) == "away" and direction(pd.Series([-0.02, -0.021, -0.019])) == "towards"
    assert direction(pd.Series([0.02, -0.02, 0.01])) == "not told apart" and direction(pd.Series([0.02])) == "not told apart"


def budgets(*pairs):
    """Results of two seeds with so many steps and batch sizes. A step moves the first by 1 from ridge and the second by 1.5, a
    sequence more in the batch by a tenth of that."""
    rows = [
        ("a", 4, steps, size, seed, 16, "true", (steps + size / 10) * (1 + seed / 2)) for steps, size in pairs for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["kind", "dimension", "steps", "batch_size", "seed", "pool", "tasks", "to_ridge"])


def test_budgets_are_compared_that_differ_in_steps_or_in_batch_size_alone():
    assert changes_of(budgets((10, 8), (20, 8), (40, 8)))["change"].tolist() == pytest.approx([10, 15, 20, 30])
    results = budgets((4, 8), (8, 8), (2, 16), (4, 16))  # of 32 and of 64 sequences there are two each
    changes = changes_of(results)
    pairs = changes[["held", "less", "more", "seed"]].to_numpy().tolist()
    assert pairs == [[held, 32, 64, seed] for held in ("batch_size 8", "batch_size 16", "steps 4") for seed in (0, 1)]
    summary = summary_of_changes(changes)
    listed = summary[summary["what"] == "change at M=16"]["seeds"].tolist()
    assert listed == ["+4.0000, +6.0000", "+2.0000, +3.0000", "+0.8000, +1.2000"]
    sheets = list(diversity_sheets("threshold", {"results": results}))
    assert [sheet.name.split(", ")[-1] for sheet in sheets] == ["8 sequences a step", "16 sequences a step", "4 steps"]


def test_the_picture_of_paths_has_all_pools():
    sizes = [2**size for size in range(1, 12)] + [0]
    rows = [("default", 4, 8, 8, size, share / 2, 1.0, 1.0, 1.0) for size in sizes for share in range(3)]
    columns = ["kind", "dimension", "steps", "batch_size", "pool", "share", "error", "error_dmmse", "error_ridge"]
    (sheet,) = diversity_sheets("path", {"path": pd.DataFrame(rows, columns=columns)})
    assert [axes.get_title() for axes in sheet.figure.axes] == [f"M={size or 'inf'}" for size in sizes]


def test_the_way_between_tasks_ends_at_them_and_keeps_their_length():
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(between_tasks(first, second, 0.5).norm(), torch.tensor(2.0))
    torch.testing.assert_close(between_tasks(first, second, 1.0), torch.tensor([[2.0, 0.0]]))


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_weights_that_cannot_be_read_are_one_line(tmp_path, folder, damage):
    shutil.copytree(folder / "pretrain", tmp_path / "pretrain")
    for weights in tmp_path.rglob("model.safetensors"):
        weights.unlink() if damage == "missing" else weights.write_bytes(b"nothing")
    says = "model.safetensors: the weights are missing or damaged .*do the run again with --overwrite_output_dir"
    for command, flags in ((measure.main, str(tmp_path)), (distill.main, f"--pretrained {tmp_path} --output_dir {tmp_path}/out")):
        with pytest.raises(InputError, match=says):
            command(flags.split())
    measure.main([str(tmp_path), "--path_pairs", "0"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("run,value\n1,2\n", "results.csv: has no column dimension, kind, steps"),
        ("a,b\n1,2\n1,2,3\n", "results.csv: is no table"),
    ],
)
def test_tables_of_something_else_are_one_line(tmp_path, text, says):
    for name in ("results", "steps", "path", "distillation"):
        (tmp_path / f"{name}.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        report.main(["diversity", str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "column", "value", "says"),
    [
        ("distillation", "pool", "5", "pool 5: is not M= and a number, or M=inf"),
        ("distillation", "error_fit", "much", "error_fit much: is not a number"),
        ("results", "pool", "many", "pool many: is not a number"),
        ("path", "steps", "", "steps nan: is not a number"),
    ],
)
def test_values_of_tables_that_are_no_numbers_are_one_line(tmp_path, name, column, value, says):
    for table, columns in TABLES.items():
        row = dict.fromkeys(columns, "1") | {"pool": "M=1" if table == "distillation" else "1"}
        row |= {column: value} if table == name else {}
        (tmp_path / f"{table}.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    with pytest.raises(InputError, match=f"{name}.csv: {says}; name the folder"):
        report.main(["diversity", str(tmp_path)])


def test_students_that_are_thrown_off_leave_no_finished_record(tmp_path, folder):
    flags = ["--pretrained", str(folder), "--pretraining_steps", "8", *SHORT, "--output_dir", str(tmp_path)]
    with pytest.raises(
        InputError, match=r"--learning_rate 1e\+30: what students of M=4, M=1, M=inf predict is not finite; lower it"
    ):
        distill.main([*flags, "--learning_rate", "1e30"])
    assert not list(tmp_path.rglob("DONE"))


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        (distill.main, "--pretrained {none}", "--pretrained .*: there is no finished pretraining run"),
        (distill.main, "--pretrained {folder} --pretraining_steps 5", "--pretraining_steps 5: no run"),
        (distill.main, "--pretrained {folder} --context_examples 8", "--context_examples 8: .* reads 1 to 7"),
        (distill.main, "--pretrained {folder} --steps 0", "--steps 0: give 1 or more"),
        (distill.main, "--pretrained {folder} --learning_rate -1", "--learning_rate -1.0: give a finite number above 0"),
        (distill.main, "--pretrained {folder} --learning_rate nan", "--learning_rate nan: give a finite number above 0"),
        (distill.main, "--pretrained {folder} --learning_rate inf", "--learning_rate inf: give a finite number above 0"),
        (distill.main, "--pretrained {folder} --seed -1", "--seed -1: give a whole number from 0"),
        (distill.main, "--pretrained {folder} --seed 99999999999999999999", "--seed 9+: give a whole number from 0"),
        (measure.main, "{none}", "there is no finished pretraining run"),
        (measure.main, "{folder} --path_pairs -1", "--path_pairs -1: give 0 or more"),
        (report.main, "diversity {none}", "cannot be read; name the folder"),
    ],
)
def test_bad_input_is_one_line_that_names_it(tmp_path, folder, command, flags, says):
    with pytest.raises(InputError, match=says):
        command(flags.format(none=tmp_path, folder=folder).split())
