import json
import math
import re
import shutil
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from llmft.report.__main__ import main
from llmft.report.html import page
from tests.report.synthetic import SKILL, Made, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
EVIL = "<script>alert(1)</script>"
METHODS = ("icl", "pbft", "distill")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two models and three methods, of which one model has a name that no page may run; one run is not finished."""
    folder = tmp_path_factory.mktemp("logfiles")
    models = ("opt-125m", "opt-1.3b")
    made = [Made(model=model, method=method, seed=seed) for model in models for method in METHODS for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.report.synthetic._defaults", dict)  # nothing here reads them
        patch.setitem(SKILL, "distill", 0.9)  # a difference that is marked
        found = write(folder, [*made, Made(seed=7, done=False)], hans_rows=20)
    for record in found:
        if "opt-1.3b" in record:
            path = folder / record / "config.json"
            path.write_text(path.read_text().replace('"opt-1.3b"', json.dumps(EVIL)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmft.report.write.draw_all", lambda *_: [])  # test_figures.py is about these
        main([str(folder)])
    return folder


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the dev extra brings")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Single runs of two patterns: one has a long log with a loss that is no number, one no mean of its memory."""
    folder = tmp_path_factory.mktemp("odd")
    found = write(folder, [Made(method="pbft", pattern=pattern) for pattern in ("minimal", "gpt-3")], hans_rows=20)
    first, second = (folder / record for record in found)
    entries = [{"loss": math.nan if step == 100 else 1 / step, "step": step} for step in range(1, 250)]
    (first / "train_log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    costs = json.loads((second / "cost.json").read_text())
    costs["total"]["rss_mean_bytes"] = None
    (second / "cost.json").write_text(json.dumps(costs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmft.report.write.draw_all", lambda *_: [])
        main([str(folder)])
    return folder


@pytest.fixture
def shown(browser, folder):
    """The page of `folder`, opened."""
    yield from opened_page(browser, folder)


@pytest.fixture
def odd_shown(browser, odd):
    """The page of `odd`, opened."""
    yield from opened_page(browser, odd)


def opened_page(browser, folder):
    """The page, opened; whatever it asked for and whatever went wrong."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.asked, opened.wrong = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("console", lambda message: message.type in ("error", "warning") and opened.wrong.append(message.text))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (opened.wrong.append(dialog.message), dialog.dismiss()))
    opened.goto((folder / "report" / "report.html").as_uri())
    yield opened
    assert opened.wrong == []
    assert opened.asked
    assert all(url.startswith("file://") for url in opened.asked)
    opened.close()


def column(page, name):
    """The texts of one column of the results."""
    headings = page.locator("#results-table thead button").all_inner_texts()
    return page.locator(f"#results-table tbody tr > td:nth-child({headings.index(name) + 1})").all_inner_texts()


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


def test_a_heading_sorts_the_rows(shown):
    heading = shown.locator("#results-table thead th", has_text="in-domain").first
    for direction in ("ascending", "descending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == direction
        values = [float(text.split(" ")[0]) for text in column(shown, "in-domain")]
        assert len(values) == 6
        assert values == sorted(values, reverse=direction == "descending")
    assert shown.locator("#results-table th[aria-sort=none]").count() > 5
    heading.locator("button").focus()
    shown.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"


def test_filters_leave_the_rows_asked_for(shown):
    assert shown.inner_text("#count").startswith("6 of ")
    shown.select_option("#by-method", label="distillation")
    assert shown.inner_text("#count").startswith("2 of ")
    assert {text.strip() for text in column(shown, "method")} == {"distillation"}
    shown.fill("#search", "OPT-125M")
    shown.locator("#count", has_text=re.compile("^1 of ")).wait_for()
    assert column(shown, "model") == ["opt-125m"]
    assert shown.locator("#fig-memory rect.pale").count() == 1
    shown.select_option("#by-selection", label="all")
    assert sorted(column(shown, "selection")) == ["before", "last", "teacher"]
    shown.click("button[type=reset]")
    shown.locator("#count", has_text=re.compile("^6 of ")).wait_for()


def test_a_marker_shows_the_value_of_the_record(shown, folder):
    inside, outside = accuracies(folder, "in_domain"), accuracies(folder, "out_of_domain")
    markers = shown.locator("#fig-domains .mark.small").all()
    assert len(markers) == 18
    tips = [marker.get_attribute("data-tip") for marker in markers]
    for run, (*_, value) in inside.items():
        (tip,) = (tip for tip in tips if f"run {run}," in tip)
        assert f"in-domain {value:.3f}" in tip
        assert f"out-of-domain {outside[run][-1]:.3f}" in tip
    means = shown.locator("#fig-domains .panel", has_text="opt-125m").locator(".mark.ring")
    for place, (name, reach) in enumerate(
        (("icl", "focus"), ("pbft", "focus"), ("distill", "hover"))
    ):  # the last one lies on top
        getattr(means.nth(place), reach)()
        said = shown.locator("#tip").inner_text()
        wanted = np.mean([value for model, method, value in inside.values() if (model, method) == ("opt-125m", name)])
        assert f"in-domain {wanted:.3f} ±" in said
        assert "opt-125m" in said
        assert shown.locator("#tip").is_visible()


def test_a_row_opens_its_runs_and_their_files_are_there(shown, folder):
    assert shown.locator(".detail").count() == 0
    shown.locator(".opener").nth(2).click()
    assert shown.locator(".detail tbody tr").count() == 3
    assert shown.locator(".opener").nth(2).get_attribute("aria-expanded") == "true"
    links = [link.evaluate("link => link.href") for link in shown.locator(".detail a").all()]
    assert len(links) >= 3 * 4
    for link in links:
        path = unquote(urlparse(link).path)
        assert path.startswith(str(folder))
        assert (folder / path).exists()
    shown.locator(".detail a", has_text="metrics.json").first.click()
    shown.wait_for_url("**/metrics.json")
    assert "score_accuracy" in shown.content()


def test_names_are_text_and_never_run(shown, folder):
    assert EVIL in column(shown, "model")
    assert shown.locator("main script").count() == 0
    assert EVIL not in (folder / "report" / "report.html").read_text()


def test_tables_of_tests_and_of_runs_left_out(shown):
    marked = shown.locator("#table-differences td.better, #table-differences td.worse")
    assert marked.count()
    for cell in marked.all():
        assert float(cell.get_attribute("data-tip").split(" ")[2].rstrip(":")) < 0.05 or "< .001" in cell.get_attribute(
            "data-tip"
        )
        assert cell.inner_text().startswith("+" if "better" in cell.get_attribute("class") else "-")
    assert "unfinished" in shown.inner_text("#table-left_out")
    assert shown.locator("#table-break_even tbody tr").count() == 4
    assert "†" in shown.inner_text("#table-published")


def test_tables_of_one_kind_are_one_section_with_a_choice(shown):
    links = shown.locator("#contents a").all_inner_texts()
    assert links.count("Differences over model sizes") == 1
    assert shown.locator("section[id^=table-sizes]").count() == 1
    section = shown.locator("#table-sizes")
    where, what = section.locator("select").all()
    assert where.locator("option").all_inner_texts() == [f"rte, 16 shots, {domain}" for domain in ("in-domain", "out-of-domain")]
    assert len(what.locator("option").all()) == 4
    titles, cells = set(), set()
    for place in range(2):
        where.select_option(index=place)
        for other in range(4):
            what.select_option(index=other)
            titles.add(section.locator("h3").inner_text())
            cells.add(section.locator("tbody").inner_text())
            assert section.locator("tbody tr").count() == 2
    assert len(titles) == len(cells) == 8
    where.focus()
    shown.keyboard.press("ArrowUp")
    assert section.locator("h3").inner_text() == f"rte, 16 shots, in-domain: {what.input_value()}"
    shown.keyboard.press("Tab")
    assert what.evaluate("select => select === document.activeElement")
    shown.emulate_media(media="print")
    assert section.locator("h3").is_visible()
    assert section.locator("table").is_visible()
    assert not what.is_visible()


def test_a_long_table_shows_its_first_rows_until_asked_for_all(shown):
    shown.evaluate(
        """() => new SortedTable(byId("tables").appendChild(element("div", { id: "long" })),
        [{ name: "number", cell: (row) => ({ text: String(row), value: row }) }], {}).show([...Array(100).keys()])"""
    )
    rows, more = shown.locator("#long tbody tr"), shown.locator("#long .more")
    assert rows.count() == 40
    for _ in range(2):
        shown.locator("#long th button").click()
    assert rows.first.inner_text() == "99"
    assert more.inner_text() == "Show all 100 rows"
    more.click()
    assert rows.count() == 100
    more.click()
    assert rows.count() == 40
    assert shown.locator("#table-left_out .more").is_hidden()


def test_a_long_figure_shows_some_rows_of_every_method_until_asked_for_all(shown):
    shown.evaluate(
        """() => {
          const judged = DATA.groups.filter((group) => group.judged);
          for (let number = 0; number < 60; number += 1) DATA.groups.push({ ...judged[number % judged.length] });
        }"""
    )
    shown.locator("#filters button[type=reset]").click()
    more = shown.locator("#fig-memory .more")
    more.wait_for()
    assert shown.locator("#fig-memory rect.pale").count() == 40
    assert shown.locator("#fig-domains .more").count() == 0
    more.click()
    assert shown.locator("#fig-memory rect.pale").count() == 66
    more.click()
    assert shown.locator("#fig-memory rect.pale").count() == 40


def test_curves_are_of_the_runs_that_the_filters_leave(odd_shown):
    runs, marks = odd_shown.locator("#fig-training path.curve[data-tip]"), odd_shown.locator("#fig-training .mark")
    tips = [run.get_attribute("data-tip") for run in runs.all()]
    assert sorted(tip.split("\n")[0] for tip in tips) == ["fine-tuning, 16 shots, gpt-3", "fine-tuning, 16 shots, minimal"]
    (long,) = (tip for tip in tips if "minimal" in tip)
    assert "last loss 0.00402 at step 249" in long
    assert all("NaN" not in (run.get_attribute("d") or "") for run in runs.all())
    odd_shown.fill("#search", "gpt-3")
    odd_shown.locator("#count", has_text=re.compile("^1 of ")).wait_for()
    assert runs.count() == 1
    assert {mark.get_attribute("data-tip").split("\n")[0] for mark in marks.all()} == {"fine-tuning, 16 shots, gpt-3"}


def test_what_is_not_known_is_not_said(odd_shown):
    assert odd_shown.locator("[data-tip='']").count() == 0
    tips = [bar.get_attribute("data-tip") for bar in odd_shown.locator("#fig-memory rect.pale").all()]
    assert sorted(re.search("mean (.*) MiB", tip).group(1) for tip in tips) == ["-", "358"]
    assert odd_shown.locator("#fig-memory rect.bar").count() == 3
    assert odd_shown.locator("#fig-size").count() == 0
    odd_shown.locator(".opener").first.click()
    assert odd_shown.locator(".detail p").count() == 0


def test_deviations_of_costs_are_in_the_opened_row(shown):
    shown.locator(".opener").nth(2).focus()
    shown.keyboard.press("Enter")
    said = shown.locator(".detail p").inner_text()
    assert said.startswith("Mean ± standard deviation: tokens per query 60.0 ± 0.0, CPU ms per query ")
    cells = shown.locator("#results-table tbody tr").nth(2).locator("td[data-tip]")
    assert cells.count() == said.count(" ± ") - 1
    for cell in cells.all():
        assert cell.get_attribute("data-tip") in said


def test_before_training_and_the_teacher_have_no_cost_of_training(shown):
    marks = shown.locator("#fig-cost .panel", has_text="CPU s of training").locator(".mark")
    few = marks.count()
    shown.select_option("#by-selection", label="all")
    tips = [mark.get_attribute("data-tip") for mark in marks.all()]
    assert len(tips) > few
    assert not any(re.search(", (before|teacher)\n", tip) for tip in tips)
    queries = shown.locator("#fig-cost .panel", has_text="CPU ms per query").locator(".mark").all()
    assert any(", teacher\n" in mark.get_attribute("data-tip") for mark in queries)


def test_memory_has_a_row_for_the_same_runs_once(shown):
    shown.select_option("#by-selection", label="all")
    shown.fill("#search", "best fine-tuning")
    shown.locator("#count", has_text=re.compile("^4 of ")).wait_for()
    assert shown.locator("#fig-memory rect.pale").count() == 2


def test_results_fit_a_screen_of_1280_pixels(shown):
    headings = shown.locator("#results-table thead th:visible").all_inner_texts()
    assert [name.split("\u00a0")[0] for name in headings][-3:] == ["peak MiB", "mean MiB", "runs"]
    assert shown.locator("#results-table .scroll").evaluate("scroll => scroll.scrollWidth <= scroll.clientWidth")


def test_a_phone_shows_it_without_scrolling_sideways(shown):
    shown.set_viewport_size({"width": 390, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390


def test_data_cannot_end_its_element():
    made = page({"name": f"</script>{EVIL}<!--@script@ \u2028 & NaN"})
    assert made.count("</script>") == 2
    text = made.split('type="application/json">')[1].split("</script>")[0]
    assert json.loads(text)["name"] == f"</script>{EVIL}<!--@script@ \u2028 & NaN"
