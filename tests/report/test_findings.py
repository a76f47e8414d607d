import math

import pandas as pd

from llmft.report.page.findings import METHODS, MOST, findings


def means(tasks, models=("opt-125m",), headline="score_accuracy", higher_is_better=True):
    rows = [
        {
            "task": task,
            "model": model,
            "name": f"fine-tuning, {shots} shots",
            "pattern": "minimal",
            "in_domain": 0.5 + shots / 100 + (model == "m") / 10,
        }
        for task in tasks
        for model in models
        for shots in (2, 16)
    ]
    same = {
        "rows_in_domain": "277 of rte",
        "rows_out_of_domain": None,
        "headline": headline,
        "higher_is_better": higher_is_better,
    }
    nothing = dict.fromkeys(("out_of_domain", "out_of_domain_sd", "test", "test_sd"), math.nan)
    return pd.DataFrame(rows).assign(in_domain_sd=0.01, **nothing, **same)


def even(task="rte", method="pbft", shots=16, queries=100.0, pattern="minimal", model="opt-125m"):
    key = {"task": task, "method": method, "shots": shots, "pattern": pattern, "model": model, "differs": "", "context": ""}
    scores = {"score": 0.5 + shots / 100, "score_prompting": 0.7, "other_rows": False}
    return {**key, "cpu_s_queries": queries, **ends(queries, queries), **scores}


def ends(low, high):
    """The range of a break-even."""
    return {"cpu_s_queries_min": low, "cpu_s_queries_max": high, "cpu_s_told_apart": math.isinf(low) == math.isinf(high)}


def test_a_sentence_a_task_and_how_many_tasks_more():
    lines = findings(means(f"task {n}" for n in range(MOST + 3)), pd.DataFrame())
    assert lines[0] == "task 0: highest score accuracy in-domain fine-tuning, 16 shots with 0.660 ± 0.010."
    assert len(lines) == MOST + 1
    assert lines[-1] == "And 3 more tasks below."


def test_the_soonest_break_even_of_each_method_is_told_once():
    evens = [
        even(shots=2, queries=math.inf),
        even(queries=5000.0),
        even(queries=1234.0, pattern="gpt-3"),
        even(method="distill", queries=math.inf),
    ]
    evens += [even(method="distill", queries=math.nan), even("qqp", queries=7.0)]
    (line,) = findings(means(["rte"]), pd.DataFrame(evens))
    said = (
        "training first costs less CPU time than prompting after 1,230 queries (fine-tuning, 16 shots, gpt-3: 0.660 against "
        "0.700)"
    )
    assert f"; {said}; training never saves CPU time, after any number of queries, with distillation." in line


def test_a_break_even_is_told_as_a_range_or_not_at_all():
    evens = [even() | ends(97.0, 12345.0) | {"other_rows": True}, even(method="distill") | ends(1000.0, math.inf)]
    evens += [even(method="vanilla", shots=2, queries=math.inf), even(method="vanilla") | ends(9.0, math.inf)]
    (line,) = findings(means(["rte"]), pd.DataFrame(evens))
    assert "after 97 to 12,300 queries (fine-tuning: 0.660 against 0.700, on different rows)" in line
    assert "distillation" not in line and "never" not in line  # one number of shots of `vanilla` may save some


def test_of_several_models_the_best_is_named():
    (line,) = findings(means(["rte"], ("opt-125m", "m")), pd.DataFrame([even(), even(queries=9.0, model="m")]))
    assert "fine-tuning, 16 shots, m with 0.760" in line
    assert "after 9 queries (fine-tuning, m: 0.660 against 0.700)." in line


def test_all_that_are_equally_good_are_named():
    tied = means(["rte"]).assign(in_domain=[0.3 + 0.6, 0.9])
    (line,) = findings(tied, pd.DataFrame())
    assert line == "rte: highest score accuracy in-domain fine-tuning, 2 shots and fine-tuning, 16 shots with 0.900."
    (line,) = findings(pd.concat([tied] * 3, ignore_index=True), pd.DataFrame())
    assert line.count(" shots and ") == METHODS and line.endswith("16 shots and 2 more with 0.900.")


def test_of_many_methods_the_soonest_are_told():
    evens = [even(method=f"method {n}", queries=100.0 - n) for n in range(METHODS + 2)]
    (line,) = findings(means(["rte"]), pd.DataFrame(evens))
    assert f"prompting after {100 - METHODS - 1} queries (method {METHODS + 1}: 0.660 against 0.700);" in line
    assert line.endswith("and 2 more.")
