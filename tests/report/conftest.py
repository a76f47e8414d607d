import json
import math
import shutil

import pytest

from llmft.report.__main__ import main
from llmft.report.records.collect import collect
from llmft.report.statistics.summary import summarise, welch
from tests.report.changes import change
from tests.report.synthetic import SKILL, Made, write

METHODS = ("icl", "pbft", "distill")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of 25 finished runs and two that are not, and what they are by their records."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [Made("rte", "opt-125m", method, 16, "minimal", seed) for method in METHODS for seed in range(4)]
    runs += [Made("rte", "opt-1.3b", method, 16, "minimal", seed) for method in ("icl", "pbft") for seed in range(4)]
    runs += [Made("rte", "opt-125m", "icl", 0, "minimal", seed) for seed in range(3)]
    runs += [Made("qqp", "opt-125m", "icl", 16, "gpt-3", seed) for seed in range(2)]
    runs += [Made("rte", "opt-125m", "pbft", 16, "minimal", seed, done=False) for seed in (4, 5)]
    return folder, write(folder, runs, hans_rows=40)


@pytest.fixture(scope="session")
def collection(made):
    return collect(made[0])


@pytest.fixture(scope="session")
def summary(collection):
    return summarise(collection)


@pytest.fixture(scope="session")
def tests(summary):
    return welch(summary)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Runs of two models and three methods, of which one model has a name that no page may run; one run is not finished."""
    folder = tmp_path_factory.mktemp("logfiles")
    models = ("opt-125m", "opt-1.3b")
    made = [Made(model=model, method=method, seed=seed) for model in models for method in METHODS for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SKILL, "distill", 0.9)  # a difference that is marked
        found = write(folder, [*made, Made(seed=7, done=False)], hans_rows=20)
    for record in found:
        if "opt-1.3b" in record:
            path = folder / record / "config.json"
            path.write_text(path.read_text().replace('"opt-1.3b"', json.dumps(EVIL)))
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


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    """Single runs of two patterns, which share an argument: one has a long log with a loss that is no number, one no mean of its
    memory."""
    folder = tmp_path_factory.mktemp("odd")
    found = write(folder, [Made(method="pbft", pattern=pattern) for pattern in ("minimal", "gpt-3")], hans_rows=20)
    first, second = (folder / record for record in found)
    for record in (first, second):
        change(record / "config.json", lambda config: config["given"].update(warmup_ratio=0.1))
    entries = [{"loss": math.nan if step == 100 else 1 / step, "step": step} for step in range(1, 250)]
    (first / "train_log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    costs = json.loads((second / "cost.json").read_text())
    costs["total"]["rss_mean_bytes"] = None
    (second / "cost.json").write_text(json.dumps(costs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmft.report.commands.write.PICTURES", ("size", "memory", "training"))  # those that tests look at
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
