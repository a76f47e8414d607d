"""The figures of the page, as a browser shows them."""

import json
import re

import numpy as np


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


def test_sizes_are_compared_within_families_of_any_task(shown):
    shown.evaluate(
        """() => {
          const [one] = DATA.groups.filter((group) => group.judged);
          const made = (task, family, weights) => ({ ...one, task, family, weights });
          const single = [..."abcdef"].flatMap((task) => [made(task, "opt", 1e8), made(task, "pythia", 2e8)]);
          const several = [["opt", 1e8], ["pythia", 2e8], ["opt", 1e9], ["pythia", 4e8]].map((size) => made("z", ...size));
          DATA.groups.splice(0, Infinity, ...single, ...several);
        }"""
    )
    shown.locator("#filters button[type=reset]").click()
    panels = shown.locator("#fig-size .panel")
    panels.first.wait_for()
    assert panels.locator("h4").all_inner_texts() == ["z, in-domain", "z, out-of-domain"]
    assert panels.locator("path.curve").count() == 2 * 2
