import re
import string
import unicodedata
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import evaluate
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmft.errors import InputError
from llmft.evaluation.kinds import ANSWERS
from llmft.evaluation.metrics import FOLDER, TAKEN, compute_metric, load_metric, row_scores, shipped_metrics
from llmft.pipelines.loading import try_text_metrics
from llmft.prompts.render import UNSPACED
from llmft.tasks.table import get_task

NAMES = ["contains", "edit_similarity", "exact_match", "f1", "rougeL"]
CODE_NAMES = ["code_exact_match", "identifier_f1", "identifier_match"]

CASES = {  # prediction, accepted answers -> contains, edit_similarity, exact_match, f1, rougeL
    "the same": ("red door", ["red door"], (1, 1, 1, 1, 1)),
    "case, article, full stop, white space": (" The  Red\tdoor.\n", ["a red door"], (1, 14 / 24, 1, 1, 2 / 3)),
    "more words": ("It is the red door", ["red door"], (1, 16 / 26, 0, 2 * 2 / 6, 2 * 2 / 7)),
    "fewer words": ("red", ["red door"], (0, 6 / 11, 0, 2 / 3, 2 / 3)),
    "another order": ("door red", ["red door"], (0, 1 - 8 / 16, 0, 1, 1 / 2)),
    "a word twice counts once": ("red red", ["red door"], (0, 1 - 5 / 15, 0, 1 / 2, 1 / 2)),
    "no words in common": ("blue", ["xyz"], (0, 0, 0, 0, 0)),
    "part of a word": ("17 km", ["7"], (0, 2 / 6, 0, 0, 0)),
    "the best of several": ("in May", ["June", "May", "in May 1901"], (1, 12 / 17, 0, 4 / 5, 4 / 5)),
    "punctuation goes without a trace": ("3.5", ["35"], (1, 4 / 5, 1, 1, 0)),
    "an empty prediction": ("", ["red"], (0, 0, 0, 0, 0)),
    "an empty answer": ("red", [""], (0, 0, 0, 0, 0)),
    "both empty": ("", [""], (1, 1, 1, 1, 0)),
    "articles alone": ("The", ["a"], (0, 0, 0, 0, 0)),
    "punctuation alone": ("?!", ["..."], (0, 0, 0, 0, 0)),
    "nothing, for an answer of which SQuAD leaves nothing": ("", ["A"], (0, 0, 0, 0, 0)),
    "such an answer itself": ("(a)", ["A"], (1, 0, 1, 1, 1)),
    "one sign for another": ("-", ["+"], (0, 0, 0, 0, 0)),
    "an answer of which SQuAD leaves nothing": ("Vitamin A.", ["A"], (1, 2 / 11, 0, 0, 2 / 3)),
    "the same in another word": ("Answer: B", ["A"], (0, 2 / 10, 0, 0, 0)),
    "the same for a sign": ("it is 5%", ["%"], (1, 2 / 9, 0, 0, 0)),
    "nothing but words against articles": ("red", ["the"], (0, 2 / 6, 0, 0, 0)),
    "an article within a word": ("theatre", ["atre"], (0, 8 / 11, 0, 0, 0)),
    "an umlaut": ("MÜLLER", ["müller"], (1, 0, 1, 1, 1)),
    "an accent of its own": ("cafe\u0301", ["café"], (1, 1 - 3 / 9, 1, 1, 0)),
    "other quotation marks at the ends": ("“red”…", ["red"], (1, 6 / 9, 1, 1, 1)),
    "other quotation marks within": ("“red” it is", ["red"], (0, 6 / 14, 0, 0, 2 / 4)),
    "an article before another dash": ("a–b", ["b"], (0, 2 / 4, 0, 0, 2 / 3)),
    "no space that is not white": ("red\u00a0door", ["red door"], (1, 14 / 16, 1, 1, 1)),
    "another script": ("Москва", ["москва"], (1, 10 / 12, 1, 1, 0)),
    "a full stop of another script": ("北京。", ["北京"], (1, 4 / 5, 1, 1, 0)),
    "within a sentence without spaces": ("答案是北京。", ["北京"], (1, 4 / 8, 0, 4 / 7, 0)),
    "the same in Thai": ("คือกรุงเทพครับ", ["กรุงเทพ"], (1, 14 / 21, 0, 14 / 21, 0)),
    "a word of letters between some without spaces": ("我用Python，还有C。", ["Python"], (1, 12 / 19, 0, 2 / 7, 2 / 3)),
    "a number within another there": ("17天", ["7天"], (0, 4 / 5, 0, 1 / 2, 0)),
}


def worth(prediction, accepted):
    """The score of one prediction under each metric."""
    return {name: score for name, (score,) in row_scores(NAMES, [prediction], [accepted]).items()}


@pytest.mark.parametrize("case", CASES)
def test_scores_by_hand(case):
    prediction, accepted, expected = CASES[case]
    assert worth(prediction, accepted) == pytest.approx(dict(zip(NAMES, expected, strict=True)))


@pytest.mark.parametrize("name", NAMES)
def test_a_set_gets_the_mean_of_its_rows_here_and_from_the_file(name):
    predictions, references = [case[0] for case in CASES.values()], [tuple(case[1]) for case in CASES.values()]
    scores = row_scores([name], predictions, references)[name]
    assert all(type(score) is float for score in scores)
    value = {name: pytest.approx(sum(scores) / len(CASES), abs=1e-12)}
    assert compute_metric(name, "text", predictions, references) == value
    assert compute_metric(str(FOLDER / "text" / f"{name}.py"), "text", predictions, references) == value
    loaded = evaluate.load(str(FOLDER / "text" / f"{name}.py"), keep_in_memory=True)
    assert loaded.compute(predictions=predictions, references=references) == value


CODE_CASES = {  # prediction, accepted answers -> code_exact_match, identifier_f1, identifier_match
    "the same but for white space": ("  f(x,\n y)", ["f(x, y) "], (1, 1, 1)),
    "white space where there is none": ("f (x)", ["f(x)"], (0, 1, 1)),
    "another case": ("F(x)", ["f(x)"], (0, 1 / 2, 0)),
    "another literal": ("f('a', 1)", ["f('b', 2)"], (0, 1, 1)),
    "names in a string or a comment": ('f("x \\" # y")  # g', ["f('z')"], (0, 1, 1)),
    "keywords are none, True is one": ("return not True", ["True"], (0, 1, 1)),
    "another order": ("f(x, y)", ["f(y, x)"], (0, 1, 0)),
    "a name twice": ("f(x, x)", ["f(x)"], (0, 1, 0)),
    "no names": ("1", ["2"], (0, 0, 1)),
    "the best of several": ("f(x)", ["g(x)", "f(x, y)"], (0, 4 / 5, 0)),
}


@pytest.mark.parametrize("case", CODE_CASES)
def test_scores_of_code_by_hand(case):
    prediction, accepted, expected = CODE_CASES[case]
    scores = {name: score for name, (score,) in row_scores(CODE_NAMES, [prediction], [accepted]).items()}
    assert scores == pytest.approx(dict(zip(CODE_NAMES, expected, strict=True)))


def squad_by_the_definition(text):
    """The words of a text, computed character by character."""
    kept, word = [], ""
    for character in [*text.lower(), " "]:
        if "!" <= character <= "~" and not character.isalnum():
            continue  # ASCII punctuation
        if character.isalnum() or character == "_":
            word += character
            continue
        kept += [" " if word in ("a", "an", "the") else word, character]
        word = ""
    return "".join(kept).split()


def squad_scores(prediction, accepted):
    """EM and F1 of version 1.1 of SQuAD's script, from its definition."""
    exact, best = 0.0, 0.0
    predicted = squad_by_the_definition(prediction)
    for words in map(squad_by_the_definition, accepted):
        exact = max(exact, float(words == predicted))
        left, shared = list(words), 0
        for word in predicted:
            if word in left:
                left.remove(word)
                shared += 1
        if shared:
            precision, recall = shared / len(predicted), shared / len(words)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


WORDS = [
    "a",
    "An",
    "THE",
    "red",
    "Red",
    "door",
    "7",
    "17",
    "naïve",
    "Ω",
    "the–red",
    "o'clock",
    "3.5",
    "“",
    "...",
    "I",
    "İ",
    "_",
    "ｔｈｅ",
]
SPACES = st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "-", ", ", "–", ""])
TEXTS = st.one_of(
    st.lists(st.tuples(st.sampled_from(WORDS), SPACES), max_size=6).map(lambda parts: "".join(map("".join, parts))),
    st.text(max_size=12),
)
ACCEPTED = st.lists(TEXTS, min_size=1, max_size=3)


def is_read_as_by_squad(text):
    """Whether there is no punctuation at the ends but that of ASCII, nor a script without spaces."""
    core = text.strip(string.whitespace + string.punctuation)
    marked = any(end.isspace() or unicodedata.category(end)[0] == "P" for end in (*core[:1], *core[-1:]))
    return core.isascii() or not (marked or any(map(is_wide, core)))


def is_wide(character):
    return unicodedata.east_asian_width(character) in "WF" or unicodedata.name(character, "").startswith(UNSPACED)


@given(TEXTS.filter(is_read_as_by_squad), st.lists(TEXTS.filter(is_read_as_by_squad), min_size=1, max_size=3))
@settings(deadline=None, max_examples=400)
def test_exact_match_and_f1_are_squads(prediction, accepted):
    assume(all(map(squad_by_the_definition, accepted)))  # the metrics compare answers of which nothing is left as they are
    scores = worth(prediction, accepted)
    assert (scores["exact_match"], scores["f1"]) == pytest.approx(squad_scores(prediction, accepted), abs=1e-12)


@given(TEXTS, ACCEPTED, ACCEPTED)
@settings(deadline=None)
def test_the_best_accepted_answer_counts(prediction, accepted, more):
    scores, with_more = worth(prediction, accepted), worth(prediction, [*accepted, *more])
    assert worth(prediction, accepted[::-1]) == scores
    assert all(0 <= score <= with_more[name] <= 1 for name, score in scores.items())


@given(TEXTS, ACCEPTED)
@settings(deadline=None)
def test_what_an_exact_match_entails(prediction, accepted):
    scores = worth(prediction, accepted)
    if scores["exact_match"]:
        assert scores["contains"] == scores["f1"] == 1


@given(TEXTS, ACCEPTED)
@settings(deadline=None)
def test_an_accepted_answer_itself_is_worth_1(text, others):
    values = worth(text, [*others, text])
    assert values["exact_match"] == values["contains"] == values["f1"] == values["edit_similarity"] == 1
    assume(any(character.isascii() and character.isalnum() for character in text.lower()))
    assert values["rougeL"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_an_accepted_answer_has_no_score(name):
    with pytest.raises(ValueError, match="empty"):
        row_scores([name], ["red", "blue"], [["red"], []])
    with pytest.raises(ValueError, match="shorter"):
        row_scores([name], ["red", "blue"], [["red"]])


def test_each_kind_of_answers_has_metrics():
    assert set(ANSWERS) <= set(TAKEN)
    assert shipped_metrics("text") == sorted([*NAMES, *CODE_NAMES]) and shipped_metrics("label") == ["f1", "matthews_correlation"]
    assert compute_metric("f1", "text", ["red door"], [["red"]]) == {"f1": pytest.approx(2 / 3)}
    assert compute_metric("f1", "label", [1, 1, 0], [1, 0, 0]) == {"f1": pytest.approx(2 / 3)}


MODULE = """
import datasets
import evaluate


class Lengths(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(description="", citation="", features=FEATURES)

    def _compute(self, predictions, references):
        return {"longer": sum(len(p) > max(map(len, r)) for p, r in zip(predictions, references)) / LENGTH}
"""
ONE, SEVERAL = (f"datasets.Features(dict(predictions=text, references={form}))" for form in ("text", "[text]"))


def module(folder, features, length="len(predictions)"):
    file = folder / f"module{len(features)}{len(length)}.py"
    file.write_text(MODULE.replace("FEATURES", features).replace("LENGTH", length))
    return str(file)


@pytest.mark.parametrize("features", [SEVERAL, f"[{ONE}, {SEVERAL}]"])
def test_a_module_of_the_users_own_takes_texts(tmp_path, features):
    file = module(tmp_path, features)
    assert compute_metric(file, "text", ["red door", "x"], [["red", "re"], ["xyz"]]) == {"longer": 0.5}
    with pytest.raises(InputError, match=r"^--metric .*fails on 1 predictions \(ZeroDivisionError"):
        compute_metric(module(tmp_path, features, "0"), "text", ["x"], [["x"]])


def test_a_module_of_the_users_own_is_tried_on_right_answers_before_the_work(tmp_path):
    file = module(tmp_path, SEVERAL, "sum(float(one) for one, in references)")  # it is about numbers
    for answers, message in ([("3",), ("4.5",)], None), ([("3",), ("four",)], "fails on 2 predictions (ValueError"):
        sets = {"questions": [{"answer": answer} for answer in answers]}
        job = SimpleNamespace(task=replace(get_task("questions"), metrics=(file,)), eval_sets=sets)
        with nullcontext() if message is None else pytest.raises(InputError, match=re.escape(message)):
            try_text_metrics(job)


def test_a_metric_of_another_kind_is_named(tmp_path):
    words, labels = (
        "text answers (predictions: strings, references: lists of strings)",
        "labels (predictions and references: numbers)",
    )
    takers = {
        "text": f"{words}; use one of {', '.join(sorted([*NAMES, *CODE_NAMES]))}",
        "label": f"{labels}; use one of f1, matthews_correlation",
    }
    files = [str(FOLDER / "label" / "f1.py"), str(FOLDER / "text" / "f1.py"), module(tmp_path, SEVERAL), module(tmp_path, ONE)]
    wrong = [("matthews_correlation", "text"), (files[0], "text"), (files[3], "text"), ("exact_match", "label")]
    for name, kind in [*wrong, (files[1], "label"), (files[2], "label")]:
        with pytest.raises(InputError) as error:
            load_metric(name, kind)
        assert str(error.value) == f"--metric {name}: does not take {takers[kind]}, or the file of a module that does"
