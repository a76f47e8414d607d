"""Distilled contexts, tables and figures, on a tiny pretrained ensemble."""

import json

import pandas as pd
import pytest
import torch

from llmft.errors import InputError
from llmft.report import __main__ as report
from llmft.worlds.regression import distill, measure, pretrain, students
from llmft.worlds.regression.estimators import dmmse, ridge
from llmft.worlds.regression.model import Regressors, RegressorShape
from llmft.worlds.regression.paths import between_tasks
from llmft.worlds.regression.pretrained import find_pretrained
from llmft.worlds.regression.tasks import Problem, draw_pools, draw_sequences, seeded_generator
from llmft.worlds.regression.thresholds import changes_of, direction, threshold

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
    run = find_pretrained(folder, "folder")[0]
    _, pools = run.load()
    contexts = draw_sequences(pools, run.recipe.problem, 3, seeded_generator(4))
    assert torch.cdist(contexts.tasks[0], pools[0]).min(1).values.max() == 0


def test_the_threshold_is_where_the_change_falls_through_0():
    assert threshold({16: 0.02, 64: -0.02, 256: -0.05, 0: -0.06}) == pytest.approx(32)
    assert threshold({16: 0.01, 64: 0.02}) is None and threshold({16: -0.02, 64: 0.02}) is None
    assert threshold({4: 0.1, 16: -0.1, 64: 0.1, 256: -0.1}) is None
    assert direction(pd.Series([0.02, 0.021, 0.019])) == "away" and direction(pd.Series([-0.02, -0.021, -0.019])) == "towards"
    assert direction(pd.Series([0.02, -0.02, 0.01])) == "not told apart" and direction(pd.Series([0.02])) == "not told apart"
    rows = [("a", 4, steps, 8, 0, 16, "true", steps / 100) for steps in (10, 20, 40)]
    columns = ["kind", "dimension", "steps", "batch_size", "seed", "pool", "tasks", "to_ridge"]
    assert changes_of(pd.DataFrame(rows, columns=columns))["change"].tolist() == pytest.approx([0.1, 0.2])


def test_the_way_between_tasks_ends_at_them_and_keeps_their_length():
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(between_tasks(first, second, 0.5).norm(), torch.tensor(2.0))
    torch.testing.assert_close(between_tasks(first, second, 1.0), torch.tensor([[2.0, 0.0]]))


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        (distill.main, "--pretrained {none}", "--pretrained .*: there is no finished pretraining run"),
        (distill.main, "--pretrained {folder} --pretraining_steps 5", "--pretraining_steps 5: no run"),
        (distill.main, "--pretrained {folder} --context_examples 8", "--context_examples 8: .* reads 1 to 7"),
        (distill.main, "--pretrained {folder} --steps 0", "--steps 0: give 1 or more"),
        (measure.main, "{none}", "there is no finished pretraining run"),
        (measure.main, "{folder} --path_pairs -1", "--path_pairs -1: give 0 or more"),
        (report.main, "diversity {none}", "cannot be read; name the folder"),
    ],
)
def test_bad_input_is_one_line_that_names_it(tmp_path, folder, command, flags, says):
    with pytest.raises(InputError, match=says):
        command(flags.format(none=tmp_path, folder=folder).split())
