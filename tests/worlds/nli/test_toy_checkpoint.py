"""The shipped checkpoint does what its README says: it knows nothing without a context and the rule with one."""

import random

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmft.errors import InputError
from llmft.worlds.nli import CHECKPOINT
from llmft.worlds.nli.grammar import OUT_OF_DOMAIN, RULES
from llmft.worlds.nli.measure import accuracy, label_logits, main, prompt, sample_rows
from llmft.worlds.nli.world import LABEL_PATTERN, LABEL_WORDS, instruction, toy_splits

N = 24  # queries per rule and flip; accuracies below are means over all ten tasks, far enough from what was measured


@pytest.fixture(scope="module")
def toy():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval(), AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def tasks():
    """(rule, flipped, splits) of all ten latent tasks."""
    return [(rule, flipped, toy_splits(f"{rule},flipped" if flipped else rule, 0)) for rule in RULES for flipped in (False, True)]


def balanced(rows: list[dict], rng: random.Random) -> list[dict]:
    return sample_rows(rows, N, rng)


def test_size():
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {path.name for path in files}


def test_chance_without_a_context_for_every_task(toy, tasks):
    rng = random.Random(1)
    for _, _, splits in tasks:
        queries = balanced(splits["validation"], rng)
        assert 0.45 <= accuracy(*toy, queries, [prompt(query) for query in queries]) <= 0.55


def test_sixteen_demonstrations_show_the_rule(toy, tasks):
    rng = random.Random(2)
    scores = {"validation": [], "out-of-domain": [], "unseen_words": []}
    for _, _, splits in tasks:
        sets = {
            "validation": balanced(splits["validation"], rng),
            "out-of-domain": rng.sample([row for name in OUT_OF_DOMAIN for row in splits[name]], N // 2),
            "unseen_words": rng.sample(splits["unseen_words"], N // 2),
        }
        for name, queries in sets.items():
            prompts = [prompt(query, sample_rows(splits["train"], 16, rng)) for query in queries]
            scores[name].append(accuracy(*toy, queries, prompts))
    assert np.mean(scores["validation"]) >= 0.96
    assert np.mean(scores["out-of-domain"]) >= 0.95
    assert np.mean(scores["unseen_words"]) >= 0.9


def test_an_instruction_alone_is_enough(toy, tasks):
    rng = random.Random(3)
    scores = []
    for rule, flipped, splits in tasks:
        queries = balanced(splits["validation"], rng)
        prompts = [prompt(query, opening=instruction(rule, flipped)) for query in queries]
        scores.append(accuracy(*toy, queries, prompts))
    assert np.mean(scores) >= 0.95


@pytest.mark.parametrize("shots", [0, 4])
def test_a_shown_label_is_read_whether_right_or_wrong(toy, tasks, shots):
    rng = random.Random(4)
    queries, prompts = [], []
    for _, _, splits in tasks:
        for query in rng.sample(splits["validation"], N // 2):
            queries.append({**query, "label": rng.randrange(2)})
            demonstrations = sample_rows(splits["train"], shots, rng)
            prompts.append(prompt(query, demonstrations, pattern=LABEL_PATTERN, shown=LABEL_WORDS[queries[-1]["label"]]))
    assert accuracy(*toy, queries, prompts) >= 0.97


def test_scores_do_not_depend_on_the_batch(toy, tasks):
    queries = tasks[0][2]["validation"][:6]
    prompts = [prompt(query, tasks[0][2]["train"][:k]) for k, query in enumerate(queries)]
    np.testing.assert_allclose(label_logits(*toy, prompts, 6), label_logits(*toy, prompts, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--queries", "600"], "--queries or --shots 600: there are only 500 rows"),
        (["--queries", "0"], "--queries 0: ask for 1 or more"),
        (["--shots", "100", "--queries", "4"], "--shots: a prompt has .* the model's window 448"),
    ],
)
def test_the_measuring_command_names_what_it_cannot_use(flags, says):
    with pytest.raises(InputError, match=says):
        main(flags)


def test_the_measuring_command_prints_a_table(capsys):
    main(["--shots", "0,2", "--queries", "4"])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == "| rule | set | 0 shots | 2 shots | instruction | shown label |"
    assert rule.count("|") == header.count("|") and len(rows) == 3 * len(RULES)
    for row in rows:
        assert all(0 <= float(cell) <= 1 for cell in row.split("|")[3:-1])
