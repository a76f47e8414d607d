"""Runs under --bf16: eval.py computes in half precision, training scripts evaluate in float32."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from llmft.report.__main__ import main
from llmft.report.figures.points import mean_points, points, with_tips
from llmft.report.figures.scatters import draw_cost
from llmft.report.records.collect import collect
from llmft.report.records.flatten import precision_of
from llmft.report.records.names import OTHER_PRECISION_NOTE
from tests.report.changes import change
from tests.report.synthetic import Made, write

METHODS = ("icl", "pbft", "distill")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        for record in write(folder, [Made(method=method, seed=seed) for method in METHODS for seed in range(2)], hans_rows=9):
            change(folder / record / "config.json", lambda config: config["arguments"]["Own"].update(bf16=True))
        patch.setattr("llmft.report.commands.write.PICTURES", ())
        main([str(folder)])
    return folder


def test_other_precisions_are_marked_and_have_no_break_even_in_cpu_time(folder):
    evens = pd.read_csv(folder / "report" / "break_even.csv").set_index("method")
    assert evens["other_precision"].to_dict() == {"pbft": True, "distill": False}
    assert evens["cpu_s_queries"].isna().to_dict() == {"pbft": True, "distill": False}
    assert evens["flops_queries"].notna().all()
    results, differences, even = (
        (folder / "report" / "report.md").read_text().split(f"\n## {title}")[1].split("\n## ")[0]
        for title in ("Results", "Differences", "Break-even")
    )
    assert "| bfloat16 |" in results and "| float32 |" in results and "not comparable" in results
    assert all(OTHER_PRECISION_NOTE in part for part in (differences, even))
    rows = [line for line in differences.splitlines() if line.startswith("| ")][1:]
    assert all(("in-context |" in row) == ("‡" in row) for row in rows)
    assert "in-context, minimal ‡" in even and "its teacher ‡" not in even


def test_the_cost_figure_names_precisions_and_has_a_front_for_each(folder):
    runs = points(collect(folder))
    judged = runs[runs["judged"]]
    _, means = with_tips(judged, mean_points(judged))
    ((figure, _),) = draw_cost(means)
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == ["bfloat16", "float32"]
        assert len([line for line in axes.lines if line.get_drawstyle() == "steps-post"]) == 2 * 2
    assert means["tip"].str.contains("bfloat16").tolist() == (means["method"] == "icl").tolist()
    plt.close(figure)


@pytest.mark.parametrize(
    ("method", "stage", "given", "wanted"),
    [
        ("icl", "icl", {}, "float32"),
        ("icl", "icl", {"fp16": True}, "float16"),
        ("icl", "icl", {"fp16": True, "torch_dtype": "float32"}, "float32"),
        ("distill", "after", {"bf16": True}, "float32"),
        ("distill", "after", {"bf16": True, "deepspeed": "zero.json"}, "bfloat16"),
        ("distill", "teacher", {"bf16": True, "deepspeed": "zero.json"}, "float32"),
        ("pbft", "after", {"torch_dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_the_precision_follows_from_the_arguments(method, stage, given, wanted):
    assert precision_of({"method": method, "arguments": {"Own": given}}, stage) == wanted
