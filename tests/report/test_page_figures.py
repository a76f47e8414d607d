"""The figures of the page, as a browser shows them."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from llmft.report.figures.figures import PICTURES, draw_all
from llmft.report.figures.points import LOOKS, points
from llmft.report.page.html import page
from llmft.report.records.collect import collect
from tests.report.conftest import EVIL
from tests.report.synthetic import Made, write

NASTY = f"[/INST] {EVIL}</title></svg><b>&amp; \"quoted\" 'too' $x$ $y \\frac\x1b[0m @data@"


def accuracies(folder, domain):
    """Model, method and data seed -> accuracy as the record has it, of the final stage."""
    found = {}
    for path in folder.glob("*/*/*/*/DONE"):
        config, metrics = (json.loads((path.parent / f"{name}.json").read_text()) for name in ("config", "metrics"))
        sets = metrics["stages"]["icl" if config["method"] == "icl" else "after"]
        rows = [sets[name] for name in metrics["sets"][domain]]
        mean = np.average([row["score_accuracy"] for row in rows], weights=[row["n"] for row in rows])
        found[path.parent.name] = config["model"], config["method"], float(mean)
    return found


def tips(locator):
    return [mark.get_attribute("data-tip") for mark in locator.locator("[role=img]").all()]


def test_a_marker_shows_the_value_of_the_record(shown, folder):
    inside, outside = accuracies(folder, "in_domain"), accuracies(folder, "out_of_domain")
    said = tips(shown.locator("#fig-domains"))
    assert len(said) == 18 + 6
    for run, (*_, value) in inside.items():
        (tip,) = (tip for tip in said if f"run {run}," in tip)
        assert f"in-domain {value:.3f}" in tip
        assert f"out-of-domain {outside[run][-1]:.3f}" in tip
    for name, key, reach in (
        ("in-context", "icl", "focus"),
        ("fine-tuning", "pbft", "focus"),
        ("distillation", "distill", "hover"),
    ):
        mean = shown.locator(f"#fig-domains [data-tip^='{name}'][data-tip*='opt-125m'][data-tip$='3 runs']")
        getattr(mean, reach)()
        said = shown.locator("#tip").inner_text()
        wanted = np.mean([value for model, method, value in inside.values() if (model, method) == ("opt-125m", key)])
        assert f"in-domain {wanted:.3f} ±" in said
        assert shown.locator("#tip").is_visible()


def test_arrow_keys_go_from_mark_to_mark_and_the_tab_key_on(shown):
    sheets = shown.locator(".sheet")
    assert sheets.count() == len(PICTURES) - 1  # names of one family are needed for sizes
    for sheet in sheets.all():
        marks = sheet.locator("[role=img]")
        assert marks.count() > 3
        assert sheet.locator("[tabindex='0']").count() == 1
    marks, tip = shown.locator("#fig-cost [role=img]"), shown.locator("#tip")
    marks.first.focus()
    for key, place in (("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("ArrowUp", 0), ("ArrowUp", 0)):
        shown.keyboard.press(key)
        assert marks.nth(place).evaluate("mark => mark === document.activeElement")
        assert tip.inner_text() == marks.nth(place).get_attribute("data-tip")
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.closest('figure')?.id") == "fig-memory"
    shown.keyboard.press("Shift+Tab")
    assert marks.nth(1).evaluate("mark => mark === document.activeElement")
    shown.keyboard.press("Escape")
    assert tip.is_hidden()


def test_screen_readers_are_told_what_marks_say(shown):
    figure = shown.locator("#fig-memory")
    assert figure.get_by_role("group").get_attribute("aria-label").startswith("Memory: rte (opt-125m)")
    bars = figure.get_by_role("img", name=re.compile("^distillation, 16 shots, opt-125m; rte, last; in-domain 0"))
    assert bars.count() == 1
    assert re.search("; memory of the processes: peak 477 MiB, mean 358 MiB$", bars.get_attribute("aria-label"))


def test_styles_are_allowed_and_the_looks_are_the_methods(shown):
    assert shown.locator("figure [style]").count() == 0
    mark = shown.locator("#fig-cost [data-tip^='distillation']").first
    colour = LOOKS["distill"].colour
    wanted = f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"
    assert mark.evaluate("mark => getComputedStyle(mark).fill") == wanted
    swatch = shown.locator("#results-table tr", has_text="distillation").locator(".swatch").first
    assert swatch.evaluate("spot => getComputedStyle(spot).backgroundColor") == wanted
    filters = []
    for how in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"color_scheme": "dark", "media": "print"}):
        shown.emulate_media(**how)
        filters.append(shown.locator(".sheet svg").first.evaluate("svg => getComputedStyle(svg).filter"))
    assert filters[0] == filters[2] == "none"
    assert "invert" in filters[1]


def test_of_several_sheets_the_one_that_is_chosen_is_shown(shown):
    assert shown.locator("figure select").count() == 0
    shown.evaluate(
        """() => {
          const sheet = document.querySelector("#fig-cost .sheet");
          for (const name of ["second", "third"]) {
            const copy = sheet.cloneNode(true);
            copy.dataset.name = name;
            document.getElementById("fig-cost").append(copy);
          }
          sheets();
        }"""
    )
    figure = shown.locator("#fig-cost")
    options = figure.locator("option").all_inner_texts()
    assert [option.split(":")[0] for option in options] == ["1 of 3", "2 of 3", "3 of 3"]
    select = figure.get_by_label("Shown")
    select.focus()
    shown.keyboard.press("ArrowDown")
    assert [sheet.is_visible() for sheet in figure.locator(".sheet").all()] == [False, True, False]
    assert shown.locator("#fig-memory .sheet").is_visible()


def test_figures_stay_as_they_are_when_the_table_is_filtered(shown):
    shown.select_option("#by-method", label="distillation")
    shown.locator("#count", has_text=re.compile("^2 of ")).wait_for()
    assert len(tips(shown.locator("#fig-memory"))) == 6


def test_curves_say_their_runs_and_means(odd_shown):
    said = tips(odd_shown.locator("#fig-training"))
    runs = sorted(tip for tip in said if "\nrun " in tip)
    assert [tip.split("\n")[0] for tip in runs] == ["fine-tuning, 16 shots, gpt-3", "fine-tuning, 16 shots, minimal"]
    assert runs[1].endswith("last loss 0.00402 at step 249")
    assert any(tip.endswith("mean loss 1 at step 1") for tip in said)
    lines = odd_shown.locator("#fig-training path[role=img]").all()
    assert len(lines) == 2
    assert all("nan" not in line.get_attribute("d").lower() for line in lines)


def test_what_is_not_known_is_not_said(odd_shown):
    assert odd_shown.locator("[data-tip='']").count() == 0
    means = [re.search("mean (.*)$", tip).group(1) for tip in tips(odd_shown.locator("#fig-memory"))]
    assert sorted(means) == ["-", "358 MiB"]
    assert odd_shown.locator("#fig-size").count() == 0
    odd_shown.locator(".opener").first.click()
    assert odd_shown.locator(".detail p").count() == 0


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A page without data whose figures are of a model, a pattern and a task with such names."""
    folder = tmp_path_factory.mktemp("nasty")
    models = ("opt-125m", "opt-1.3b")
    made = [Made(model=model, method="pbft", pattern=pattern) for model in models for pattern in ("minimal", "gpt-3")]
    for record in write(folder, made, hans_rows=20):
        for name in ("opt-125m", "gpt-3", "rte"):
            path = folder / record / "config.json"
            path.write_text(path.read_text().replace(json.dumps(name), json.dumps(NASTY)))
    rates = pd.DataFrame(columns=["task", "headline", "in_domain", "out_of_domain"])
    path = folder / "page.html"
    read = collect(folder)
    drawn = draw_all(read, points(read), rates, folder, ("domains", "memory"))
    path.write_text(page({}, drawn), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore:Glyph 27")
def test_names_in_figures_are_text_also_without_a_script(browser, nasty):
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(nasty.as_uri())
    assert opened.locator("figure").count() == 2
    inside = set(opened.locator("figure *").evaluate_all("all => all.map((one) => one.localName)"))
    assert inside == {"h3", "div", "svg", "g", "defs", "path", "use", "text", "title", "clipPath", "rect"}
    titles = opened.locator("#fig-memory title").all_text_contents()
    assert len(titles) == 4
    assert [title.count(NASTY) for title in titles].count(3) == 1  # pattern, model and task
    texts = opened.locator("#fig-memory text").all_text_contents()
    assert sum(text.startswith(NASTY[:25]) for text in texts) == 2  # headings: the task with two models
    opened.close()
