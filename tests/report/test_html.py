import json
import re
from urllib.parse import unquote, urlparse

from llmft.report.page.html import page
from tests.report.conftest import EVIL


def column(page, name):
    """The texts of one column of the results."""
    headings = page.locator("#results-table thead button").all_inner_texts()
    return page.locator(f"#results-table tbody tr > td:nth-child({headings.index(name) + 1})").all_inner_texts()


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
    shown.select_option("#by-selection", label="all")
    assert sorted(column(shown, "selection")) == ["before", "last", "teacher"]
    shown.click("button[type=reset]")
    shown.locator("#count", has_text=re.compile("^6 of ")).wait_for()


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
    assert section.locator("h3").inner_text() == f"rte, 16 shots, in-domain: {what.locator('option:checked').inner_text()}"
    shown.keyboard.press("Tab")
    assert what.evaluate("select => select === document.activeElement")
    shown.emulate_media(media="print")
    assert section.locator("h3").is_visible()
    assert section.locator("table").is_visible()
    assert not what.is_visible()


def test_what_all_runs_share_stands_below_the_results(odd_shown, shown):
    sentence = "All runs of pbft on rte: warmup_ratio=0.1."
    assert odd_shown.locator("#shared li").all_inner_texts() == [sentence]
    assert sentence not in odd_shown.inner_text("header")
    assert odd_shown.locator("main > :last-child").get_attribute("id") == "shared"
    assert odd_shown.locator("#contents a").last.get_attribute("href") == "#shared"
    assert shown.locator("#shared").is_hidden()
    assert shown.locator("#contents a[href='#shared']").count() == 0


def test_findings_follow_what_was_run_at_once(shown):
    paragraphs, (finding,) = (shown.locator(f"#summary {name}").all_inner_texts() for name in ("p", "li"))
    assert [text.split(" ")[0] for text in paragraphs] == ["A", "18", "1"]
    assert paragraphs[-1] == "1 run unfinished, unreadable or duplicated: listed below, in no mean."
    assert finding.startswith("rte: highest score accuracy in-domain")


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


def test_deviations_of_costs_are_in_the_opened_row(shown):
    shown.locator(".opener").nth(2).focus()
    shown.keyboard.press("Enter")
    said = shown.locator(".detail p").inner_text()
    assert said.startswith("Mean ± standard deviation: tokens per query 60.0 ± 0.0, CPU ms per query ")
    cells = shown.locator("#results-table tbody tr").nth(2).locator("td[data-tip]")
    assert cells.count() == said.count(" ± ") - 1
    for cell in cells.all():
        assert cell.get_attribute("data-tip") in said


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
