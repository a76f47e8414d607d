"""Runs with a --test_file, whose set is neither in-domain nor out-of-domain."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from llmft.report.__main__ import main
from llmft.report.figures.bars import draw_results
from llmft.report.figures.points import mean_points, points, with_tips
from llmft.report.records.collect import collect
from tests.report.conftest import opened_page
from tests.report.synthetic import Made, write
from tests.report.texts import MadeText


class WithTest:
    @property
    def sets(self):
        return {**super().sets, "test": [f"{self.task}-test"]}


@dataclass(frozen=True)
class Labels(WithTest, Made):
    pass


@dataclass(frozen=True)
class Texts(WithTest, MadeText):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    write(folder, [Labels(method=method, seed=seed) for method in ("icl", "pbft", "distill") for seed in range(2)], hans_rows=9)
    write(folder, [Texts(method="distill")], hans_rows=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmft.report.commands.write.PICTURES", ())
        main([str(folder)])
    return folder


def test_scores_on_the_test_file_are_in_all_tables(folder):
    tables = (folder / "report" / "report.md").read_text().split("\n## ")[1:]
    headings = {table.split("\n")[0].split(":")[0]: table.split("\n")[2].strip("| ").split(" | ") for table in tables}
    for title in ("Results (mean ± standard deviation over runs)", "Differences between methods", "Row by row"):
        assert "test" in headings[title]
    assert {"teacher test", "before test", "after test"} <= {*headings["Distillation"]}
    (words,) = (table for table in tables if table.startswith("Text answers"))
    place = headings["Text answers"].index("set")
    sets = [line.strip("| ").split(" | ")[place] for line in words.split("\n")[4:] if line.startswith("| ")]
    assert sets.count("notes-test") == 3 and "test" not in sets  # one for each stage; the pooled rows are the same


def test_they_are_tested_and_have_intervals(folder):
    frames = {name: pd.read_csv(folder / "report" / f"{name}.csv") for name in ("differences", "paired", "runs")}
    assert (frames["differences"].query("selection == 'last'").groupby("set").size().nunique()) == 1
    assert {"in_domain", "out_of_domain", "test"} == {*frames["differences"]["set"]} == {*frames["paired"]["set"]}
    runs = frames["runs"].query("method == 'pbft'")
    assert (runs["last_test_low"] <= runs["last_test"]).all() and (runs["last_test"] <= runs["last_test_high"]).all()
    runs = points(collect(folder)).query("judged and headline == 'score_accuracy'")
    ((figure, _),) = draw_results(*with_tips(runs, mean_points(runs)))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["in-domain", "out-of-domain", "test"]
    plt.close(figure)


def test_the_page_has_a_column_for_them(browser, folder):
    for page in opened_page(browser, folder):
        assert "test" in page.locator("#results-table thead button").all_inner_texts()
        page.locator(".opener").first.click()
        assert "test" in page.locator(".detail th").all_inner_texts()
