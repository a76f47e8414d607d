"""eval.py: several data seeds in one process, listed demonstrations, shortening, upstream's csv and its golden number."""

import csv
import json
import re
import time

import numpy as np
import pytest
import torch
import transformers

from llmft.errors import InputError
from llmft.models.reading import agreement, attention
from llmft.pipelines import fine_tune, in_context
from llmft.pipelines.contexts import load_contexts
from llmft.pipelines.prepare import prepare
from llmft.pipelines.prompting import prompt_format_of
from llmft.report.commands import show
from tests.conftest import SHARED, adapted
from tests.models.reading.test_agreement import kernel_without_sums
from tests.pipelines.conftest import IN_DOMAIN, MAIN, run

ALL_SETS = ("--num_shots", 4, "--max_eval_samples", 20)
FEW = (*ALL_SETS, *IN_DOMAIN)


def read_csv(folder, pattern="*.csv"):
    (file,) = folder.glob(pattern)
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_says_what_is_scored_and_what_of_its_rows_is_not_what_it_seems(tmp_path, capsys):
    rows = [{"text1": f"row {i}", "label": i % 2} for i in range(8)]
    asked = [{"text1": "row 3", "label": 1}, {"text1": "a </s> cat <pad>", "label": 0}, {"text1": "a cat", "label": 0}]
    for name, some in (("train", rows), ("dev", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    files = ("--train_file", tmp_path / "train.jsonl", "--validation_file", tmp_path / "dev.jsonl", "--target_tokens", "No,Yes")
    words = ["--output_dir", tmp_path / "out", "--use_cpu", "--model_name_or_path", "toy", *files]
    shots = ("--num_shots", 8)
    MAIN["eval.py"]([*map(str, (*words, *shots))])
    assert capsys.readouterr().err.splitlines() == [
        "note: label tokens: ...'<unk>' '<unk>' '?' | 'No' / 'Yes'",
        "note: text in 1 of 11 rows looks like control tokens ('</s>', '<pad>'); it is read as text",
        "warning: evaluation rows whose texts the model has been shown: 1 of 3 of custom are answered in the context",
    ]
    MAIN["eval.py"]([*map(str, (*words, *shots)), "--upstream_prompts"])
    assert "control tokens, as upstream does" in capsys.readouterr().err
    MAIN["ft.py"]([*map(str, words), "--num_train_epochs", "1"])
    assert "1 of 3 of custom are trained on\n" in capsys.readouterr().err
    own = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", "--method", "vanilla", "--label_delimiter", ":"]
    with pytest.raises(InputError, match="--label_delimiter :: has no effect without --method pbft"):
        MAIN["ft.py"](own)


def test_behind_a_broken_kernel_a_run_has_the_same_scores_and_its_record_says_why_it_took_longer(tmp_path, monkeypatch, capsys):
    sound = run("eval.py", tmp_path / "sound", *FEW, "--count_flops")
    monkeypatch.setattr(agreement, "_AGREEMENTS", {})
    monkeypatch.setattr(attention, "attend", kernel_without_sums(attention.attend))
    broken = run("eval.py", tmp_path / "broken", *FEW)
    logprobs = [np.stack(one.predictions["label_logprobs"]) for one in (sound, broken)]
    np.testing.assert_allclose(*logprobs, atol=1e-3)
    (line,) = broken.metrics["warnings"]
    assert capsys.readouterr().err.count(f"warning: {line}\n") == 1
    assert "warnings" not in sound.metrics
    tokens = [one.phases["evaluate icl toy"]["tokens"] for one in (sound, broken)]
    assert tokens[0] < tokens[1] == round(20 * broken.metrics["tokens_per_query"]["icl"])  # as of whole prompts
    assert broken.phases["evaluate icl toy"]["flops_counted"] is None
    assert sound.phases["evaluate icl toy"]["flops_counted"] > tokens[0]  # many for each token
    assert sound.phases["load"]["tokens"] == broken.phases["load"]["tokens"] == 0
    show.main([str(broken.path)])
    assert f"warning: {line}" in capsys.readouterr().out


@pytest.mark.parametrize("capabilities", [{}, {"amx_bf16": True}])
def test_half_precision_that_is_slow_here_is_said_in_a_line(tmp_path, monkeypatch, capsys, capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    run("eval.py", tmp_path, "--num_shots", 0, "--max_eval_samples", 2, "--torch_dtype", "bfloat16")
    assert capsys.readouterr().err.count("no instructions for bfloat16") == (not capabilities)
    run("ft.py", tmp_path, "--max_steps", 1, "--max_train_samples", 2, "--max_eval_samples", 2, "--fp16", *IN_DOMAIN)
    said = capsys.readouterr().err
    assert "--fp16: training on a CPU does not cast to float16" in said
    assert "no instructions" not in said


def test_the_delimiter_is_in_the_name_and_in_demonstrations_too(tmp_path):
    plain, same, other = (
        run("eval.py", tmp_path, *FEW, *more) for more in ((), ("--label_delimiter", " "), ("--label_delimiter", r"\n\n"))
    )
    assert len({plain.path, same.path, other.path}) == 3
    assert same.json("config")["given"]["label_delimiter"] == " "
    assert same.metrics["stages"] == plain.metrics["stages"]
    contexts = [row["context"] for row in read_csv(tmp_path)]
    assert contexts[0] == contexts[1] == contexts[2].replace("?\n\n", "? ")


def test_several_data_seeds_are_the_runs_of_each(tmp_path, monkeypatch):
    from llmft.pipelines import loading

    loads = []
    original = loading.load_other_model
    monkeypatch.setattr(loading, "load_other_model", lambda *args, **kwargs: loads.append(1) or original(*args, **kwargs))
    alone = [run("eval.py", tmp_path / "alone", *FEW, "--data_seed", seed) for seed in (1, 2)]
    loads.clear()
    together = ["--task", "toy", "--output_dir", str(tmp_path / "all"), "--use_cpu", *map(str, FEW)]
    MAIN["eval.py"]([*together, "--data_seed", "1", "--num_data_seeds", "2"])
    assert len(loads) == 1
    for record in alone:
        twin = tmp_path / "all" / record.path.relative_to(tmp_path / "alone")
        assert (twin / "metrics.json").read_bytes() == (record.path / "metrics.json").read_bytes()
        assert (twin / "DONE").is_file()
    costs = [json.loads((tmp_path / "all" / r.path.relative_to(tmp_path / "alone") / "cost.json").read_text()) for r in alone]
    assert costs[0]["loaded_by"] is None
    assert costs[1]["loaded_by"].endswith(alone[0].path.name)
    assert len(read_csv(tmp_path / "all")) == 2
    MAIN["eval.py"]([*together, "--data_seed", "1", "--num_data_seeds", "2"])  # both are finished
    assert len(read_csv(tmp_path / "all")) == 2


def test_a_data_seed_that_cannot_be_used_keeps_no_other_from_its_results(tmp_path, monkeypatch):
    from llmft.evaluation.scorer import Scorer

    original = Scorer.check_window
    calls = []

    def fail_first(self, rows):
        calls.append(1)
        if len(calls) == 1:
            end = time.process_time() + 0.5
            while time.process_time() < end:  # so that loading costs something
                pass
            raise InputError("--num_shots 4: too long")
        original(self, rows)

    monkeypatch.setattr(Scorer, "check_window", fail_first)
    command = ["--task", "toy", "--output_dir", str(tmp_path), "--use_cpu", "--num_data_seeds", "3", *map(str, FEW)]
    with pytest.raises(InputError, match="1 of 3 data seeds failed: --data_seed 0: --num_shots 4: too long"):
        MAIN["eval.py"](command)
    done = [file.parent for file in tmp_path.rglob("DONE")]
    costs = {str(record): json.loads((record / "cost.json").read_text()) for record in done}
    (second,) = (record for record, cost in costs.items() if cost["loaded_by"] is None)  # pays for what the first has loaded
    (third,) = costs.keys() - {second}
    assert costs[third]["loaded_by"] == second
    loading = [sum(phase["cpu_total_s"] for phase in costs[one]["phases"] if phase["kind"] == "load") for one in (second, third)]
    assert loading[0] > 0.5 + loading[1]


def test_full_determinism_is_for_all_that_a_run_computes(monkeypatch):
    asked = []
    monkeypatch.setattr(transformers, "enable_full_determinism", asked.append)
    for more in ([], ["--full_determinism"]):
        prepare("icl", in_context.GROUPS, ["--task", "toy", "--use_cpu", "--seed", "5", *more], "")
    assert asked == [5]


@pytest.mark.parametrize(
    ("pipeline", "words", "told"),
    [
        (in_context, "--num_shots 2", True),
        (in_context, "--num_shots 0", False),
        (in_context, "--num_shots 2 --context demonstrations,document", False),
        (fine_tune, "--num_shots 2 --train_on demonstrations", False),
    ],
)
def test_shots_that_replace_the_tasks_context_are_told(tmp_path, capsys, pipeline, words, told):
    prepare("any", pipeline.GROUPS, ["--task", "notes", "--use_cpu", "--output_dir", str(tmp_path), *words.split()], "")
    line = "note: --num_shots: the context is demonstrations, not the task's document; --context chooses\n"
    assert (line in capsys.readouterr().err) == told


def test_listed_demonstrations_are_the_context(tmp_path):
    drawn = run("eval.py", tmp_path, *FEW)
    idx = drawn.json("config")["draws"]["demonstrations"][0]
    (tmp_path / "shots.csv").write_text("idx\n" + "".join(f"{i}\n" for i in idx))
    listed = run("eval.py", tmp_path, *FEW[2:], "--sample_indices_file", tmp_path / "shots.csv")
    assert listed.path != drawn.path
    assert listed.metrics["stages"] == drawn.metrics["stages"]
    (tmp_path / "shots.csv").write_text("idx\n" + "".join(f"{i}\n" for i in reversed(idx)))  # same name, other content
    turned = run("eval.py", tmp_path, *FEW[2:], "--sample_indices_file", tmp_path / "shots.csv")
    assert turned.json("config")["draws"]["demonstrations"][0] == idx[::-1]


def test_prompts_over_the_asked_for_length_are_cut_and_counted(tmp_path, capsys):
    whole = run("eval.py", tmp_path, *ALL_SETS).metrics["stages"]["icl"]
    cut = run("eval.py", tmp_path, *ALL_SETS, "--max_seq_length", 54).metrics["stages"]["icl"]
    assert {name: found["n_shortened"] for name, found in whole.items()} == dict.fromkeys(whole, 0)
    assert any(0 < found["n_shortened"] <= found["n"] for found in cut.values())
    assert all(found["n"] == found["n_asked"] for found in cut.values())
    told = [f"{found['n_shortened']} of {found['n']} ({name})" for name, found in cut.items() if found["n_shortened"]]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "max_seq_length" in line]
    assert line == f"note: --max_seq_length 54: the texts of prompts were cut, {', '.join(told)}"
    tuned = run("ft.py", tmp_path, "--max_train_samples", 6, "--num_train_epochs", 1, *FEW, "--max_seq_length", 8)
    count = tuned.metrics["stages"]["after"]["toy"]["n_shortened"]
    told = "--max_seq_length 8: the texts of prompts were cut, 5 of 6 (training rows), "
    assert told + f"{count} of 20 (toy)\n" in capsys.readouterr().err


def test_a_student_whose_virtual_tokens_leave_no_room_is_named(tmp_path):
    words = ["--task", "toy", "--use_cpu", "--num_shots", "0", "--output_dir", str(tmp_path), *IN_DOMAIN]
    (job,) = prepare("icl", in_context.GROUPS, words, "")
    scorer, _ = load_contexts(job)
    model, tokenizer = job.loaded
    model = adapted(model, "soft_prompt", num_soft_prompt_tokens=scorer.scorers[0].prompter.window - 5)
    job.loaded = model, tokenizer
    with pytest.raises(InputError, match=r"^--model_name_or_path toy: its \d+ virtual tokens leave 5 of the model's window of "):
        job.score("icl", job.scorer(model, tokenizer, prompt_format_of(job)))


def test_a_context_too_long_says_what_would_fit(tmp_path):
    with pytest.raises(InputError) as caught:
        run("eval.py", tmp_path, "--num_shots", 100, "--max_eval_samples", 5, *IN_DOMAIN)
    says = str(caught.value)
    fits = int(says.split("--num_shots ")[2].split()[0])
    assert f"(the first {fits} of these)" in says
    assert fits % 2 == 0
    run("eval.py", tmp_path, "--num_shots", fits, "--max_eval_samples", 5, *IN_DOMAIN)


@pytest.mark.parametrize("flag", ["--fp16", "--bf16"])
def test_half_precision_scores_are_near_those_of_full_precision(tmp_path, flag):
    full, half = (run("eval.py", tmp_path, *FEW, *extra).predictions for extra in ((), (flag,)))
    near, same = (np.stack(p.label_logprobs) for p in (half, full))
    assert not np.array_equal(near, same)
    np.testing.assert_allclose(np.exp(near), np.exp(same), atol=0.1)


def test_the_csv_has_upstreams_columns(tmp_path):
    record = run("eval.py", tmp_path, *ALL_SETS, "--group", "mine", "--task_description", "Judge:")
    run("eval.py", tmp_path, *ALL_SETS, "--data_seed", 1)
    rows = read_csv(tmp_path, "toy_toy_*.csv")
    sets = record.metrics["sets"]["in_domain"] + record.metrics["sets"]["out_of_domain"]
    measures = ("loss", "accuracy", "score_accuracy", "runtime", "samples_per_second", "steps_per_second")
    settings = "task_description pattern target_tokens num_shots separate_shots_by balanced shuffle target_prefix group indices"
    names = ["", *(f"{name}_{measure}" for name in reversed(sets) for measure in measures), *settings.split(), "context"]
    names += ["data_seed", "keep_samples_in-domain", *(f"keep_samples_{name}" for name in sets[1:])]
    assert list(rows[0]) == names
    assert [(row["data_seed"], row["group"], row["num_shots"]) for row in rows] == [("0", "mine", "4"), ("1", "minimal", "4")]
    icl = record.metrics["stages"]["icl"]
    for name in sets:
        assert float(rows[0][f"{name}_loss"]) == icl[name]["loss"]
        assert float(rows[0][f"{name}_score_accuracy"]) == icl[name]["score_accuracy"]
    assert rows[0]["context"].startswith("Judge:\n\n")
    assert json.loads(rows[0]["indices"]) == record.json("config")["draws"]["demonstrations"][0]
    assert rows[0]["keep_samples_in-domain"] == "20"


def test_a_row_with_other_columns_keeps_the_csv_whole(tmp_path):
    file = tmp_path / "toy_toy_None.csv"
    run("eval.py", tmp_path, *FEW)
    (file,) = tmp_path.glob("*.csv")
    old = file.read_text().replace("_loss", "_former_loss")
    file.write_text(old)
    run("eval.py", tmp_path, *FEW, "--data_seed", 1)
    first, second = read_csv(tmp_path)
    assert first["toy_former_loss"] and not first["toy_loss"]
    assert second["toy_loss"] and not second["toy_former_loss"]
    for content in (b"", b",toy_loss\n0,\xe9\n"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"--output_dir: {re.escape(str(file))} cannot be read .*; move it away"):
            run("eval.py", tmp_path, *FEW, "--overwrite_output_dir")
        assert file.read_bytes() == content
    assert len([*tmp_path.rglob("metrics.json")]) == 2


def test_texts_and_words_that_are_not_what_they_seem(tmp_path, capsys):
    file = tmp_path / "rows.csv"
    file.write_text("text1,hypothesis,label\n" + "".join(f"a {i},b {i},{label}\n" for i, label in enumerate(["no", "yes"] * 4)))
    flags = ["--train_file", str(file), "--validation_file", str(file), "--num_shots", "2", "--model_name_or_path", "toy"]
    flags += ["--target_tokens", "Yes,No", "--use_cpu", "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match=r"--pattern '\{text1\} \{text2\} \?': has \{text2\}, but .* --text2_column"):
        in_context.main([*flags, "--pattern", "{text1} {text2} ?"])
    in_context.main([*flags, "--pattern", "{text1} ?", "--text2_column", "hypothesis"])
    said = capsys.readouterr().err
    assert "--target_tokens Yes,No: these are the names of the labels in another order, so 'no' is 'Yes', 'yes' is" in said
    assert "note: --pattern '{text1} ?': leaves out the rows' second text; {text2} stands for it" in said


@pytest.mark.real_model
def test_upstreams_own_number(tmp_path, shared_data, smollm2):
    """golden/upstream_case.json: what uds-lsv/llmft's eval.py reports for a random model of OPT-125m's shape."""
    import subprocess
    import sys

    golden = SHARED / "golden"
    case = json.loads((golden / "upstream_case.json").read_text())
    model = tmp_path / "big"
    make = [sys.executable, str(golden / "make_random_opt.py"), "big", str(model), str(smollm2)]
    subprocess.run(make, check=True, capture_output=True, timeout=300)
    words = []
    for name, value in case["args"].items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    words += ["--model_name_or_path", str(model), "--data_dir", str(shared_data), "--output_dir", str(tmp_path / "out")]
    MAIN["eval.py"]([*words, "--eval_task_name", "none", "--upstream_prompts", "--do_eval", "--use_cpu"])
    (row,) = read_csv(tmp_path / "out")
    np.testing.assert_allclose(float(row["rte_loss"]), case["result"]["rte_loss"], atol=1e-4)
    assert float(row["rte_score_accuracy"]) == case["result"]["rte_score_accuracy"]
    assert float(row["rte_accuracy"]) == case["result"]["rte_accuracy"]
