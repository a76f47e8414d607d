"""Text answers from a tiny model with a real tokenizer: reading and writing, compared with whole prompts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmft.arguments.context import WritingArguments
from llmft.arguments.objective import Objective
from llmft.cost.meter import Meter
from llmft.cost.phases import Phase
from llmft.distillation.reference import TeacherReference
from llmft.distillation.teacher import Teacher
from llmft.errors import InputError
from llmft.evaluation import metrics
from llmft.evaluation.answer_cache import AnswerCache
from llmft.evaluation.scorer import DocumentScorer, Scorer
from llmft.evaluation.scores import Scores
from llmft.evaluation.texts import TEXT_METRICS, Texts
from llmft.models.reading.batches import BatchSize
from llmft.prompts.prompter import Prompter
from llmft.prompts.render import PromptFormat
from llmft.runs.content_cache import ContentCache
from tests.conftest import byte_level_bpe, tiny_model
from tests.parsing import parse

FORMAT = PromptFormat("{text1} ?", "", r"\n\n", ())
DOCUMENTS = {"first": "the cat sat on a mat", "second": "a mat sat on the cat . no ! yes !"}
ROWS = [
    {"text1": f"the {word}", "text2": None, "label": None, "answer": answer, "document": document, "idx": i}
    for i, (word, answer, document) in enumerate(
        [
            ("cat", ("a mat",), "second"),
            ("mat", ("the cat sat", "no"), "first"),
            ("x", ("Yes",), "second"),
            ("Yes no", ("on a mat on a mat",), "first"),
        ]
    )
]


@pytest.fixture(scope="module")
def loaded():
    return tiny_model("llama").double(), byte_level_bpe(None)


def scorer(loaded, prompt_format=FORMAT, new=5, **more):
    model, tokenizer = loaded
    made = Scorer.create(model, Prompter(tokenizer, prompt_format, **more), Texts, ROWS[0], BatchSize(3))
    answers = replace(made.answers, generation=replace(made.answers.generation, max_new_tokens=new))
    return replace(made, answers=answers, prompter=replace(made.prompter, behind=answers.behind))


def test_queries_do_not_pay_for_the_loading_of_metrics(loaded, monkeypatch):
    metrics.load_metric.cache_clear()
    asked = scorer(loaded)
    monkeypatch.setattr(metrics, "_load_shipped", lambda name, kind: pytest.fail(f"{name} is loaded while queries are counted"))
    asked.score(ROWS, Phase("evaluate"))


def test_what_is_written_and_read_is_that_of_whole_prompts(loaded):
    model, tokenizer = loaded
    asked = scorer(loaded, replace(FORMAT, document=DOCUMENTS["second"]), new=12)
    scores, prompts = asked.score(ROWS, Phase("evaluate")), asked.prompter.prompts(ROWS)
    for i, row in enumerate(ROWS):
        prompt = torch.tensor([prompts.whole(i)])
        written = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :].tolist()
        assert scores["answer_ids"][i] == written
        assert scores["prediction"][i] == tokenizer.decode(written, skip_special_tokens=True).strip()
        answer = [*tokenizer(" " + row["answer"][0]).input_ids, tokenizer.eos_token_id]
        logprobs = model(torch.tensor([[*prompts.whole(i), *answer]])).logits[0].log_softmax(-1)
        places = torch.arange(len(prompts.whole(i)) - 1, len(prompts.whole(i)) - 1 + len(answer))
        assert scores["nll"][i] == pytest.approx(-logprobs[places, answer].mean().item(), abs=1e-8)
    metrics = asked.answers.metrics(scores)
    assert metrics["nll"] == pytest.approx(np.average(scores["nll"], weights=scores["target_tokens"]))
    assert all(metrics[name] == pytest.approx(np.mean(scores[name])) for name in TEXT_METRICS)
    assert (scores["score"] == scores["exact_match"]).all()


def test_accepted_answers_are_all_right(loaded):
    asked = scorer(loaded)
    arrays = {
        "answer_ids": [asked.prompter.answer_tokens([{**ROWS[1], "answer": (text,)}])[0] for text in ("no", "the cat", "a no")],
        "token_logprobs": np.zeros(3),
        "target_tokens": np.ones(3, int),
    }
    columns = asked.answers.columns([ROWS[1]] * 3, arrays)
    assert columns["prediction"].tolist() == ["no", "the cat", "a no"]
    assert columns["exact_match"].tolist() == [1, 0, 1]  # articles do not count
    assert columns["f1"].tolist() == [1, pytest.approx(2 / 3), 1]
    assert columns["target"].tolist() == ["the cat sat"] * 3


def test_a_stop_ends_an_answer(loaded):
    asked = scorer(loaded)
    generation = replace(asked.answers.generation, stop=(".",))
    answers = replace(asked.answers, generation=generation)
    assert answers.written(loaded[1](" the cat. a mat").input_ids) == "the cat"


def test_which_texts_end_answers():
    for given, stops in ((), None), (("--stop", ""), ()), (("--stop", "\n"), ("\n",)), (("--stop", "a|b"), ("a", "b")):
        ((flags,), _) = parse((WritingArguments,), given)
        assert flags.stops == stops
    with pytest.raises(InputError, match=r"--stop a\|: a part is empty"):
        parse((WritingArguments,), ("--stop", "a|"))


def test_a_stop_within_right_answers_is_told(loaded, capsys):
    asked = scorer(loaded)

    def check(stop, *answers):
        answers = [{**ROWS[i], "answer": accepted} for i, accepted in enumerate(answers)]
        asked.generating(stop=stop).answers.check_stops(answers)
        return capsys.readouterr().err

    line = r"--stop '\n': ends the answers of {} of 2 rows within them, the first being row 1, so they cannot be scored right"
    assert check(("!", "\n"), ("a mat",), ("first(\n1)",)).startswith("note: " + line.format(1))
    assert check(("\n",), ("a\nmat", "a mat"), ("a mat\n",), ()) == ""  # another answer is accepted, or white space cut
    assert check((".",), ("No.",), ("a . mat",)).startswith("note: --stop '.': ends the answers of 1 of 2")  # "No" is right, too
    with pytest.raises(InputError, match=r"^--stop ' ': ends the answers of 2 of 2 rows within them, the first being row 0"):
        check((" ",), ("mat",), ("cat",))  # the space before an answer is written, too


def test_given_tokens_are_the_answer_whether_or_not_a_stop_cuts_it(loaded):
    asked = scorer(loaded, new=9).generating(stop=("!",))
    ids = loaded[1](" no ! yes").input_ids
    for answer in ("no", "no ! yes"):
        asked.answers.check(asked.prompter, [{**ROWS[0], "answer": (answer,), "answer_ids": ids}])
    with pytest.raises(InputError, match=r"answer_ids of row 0: mean 'no ! yes' .* which is not its answer"):
        asked.answers.check(asked.prompter, [{**ROWS[0], "answer": ("yes",), "answer_ids": ids}])


def documents(loaded):
    scorers = [scorer(loaded, replace(FORMAT, document=text)) for text in DOCUMENTS.values()]
    return DocumentScorer(tuple(scorers), documents=tuple(DOCUMENTS))


def test_each_row_is_asked_behind_its_document(loaded):
    together = documents(loaded)
    scores = together.score(ROWS, Phase("evaluate"))
    answered = together.answered(ROWS, Phase("teacher"))
    assert [row["answer_ids"] for row in answered] == scores["answer_ids"].tolist()
    for number, name in enumerate(DOCUMENTS):
        rows = [row for row in ROWS if row["document"] == name]
        alone = together.scorers[number].score(rows, Phase("evaluate"))
        chosen = scores.where(scores["document"] == name)
        assert chosen["idx"].tolist() == [row["idx"] for row in rows]
        np.testing.assert_allclose(chosen["nll"], alone["nll"])
        assert chosen["prediction"].tolist() == alone["prediction"].tolist()
    with pytest.raises(InputError, match="--context document: row 0 has none of the documents"):
        together.score([{**ROWS[0], "document": None}], Phase("evaluate"))


def reference(together, rows=ROWS, topk=50):
    answered = together.answered(rows, Phase("teacher"))
    objective = Objective(support="topk", topk=topk)
    teacher = Teacher(together.scorers, answered, objective, context_of=together.context_of(rows))
    return TeacherReference(answered, teacher.precompute(Phase("teacher")).by_query())


def test_divergence_from_the_teacher_along_its_answers(loaded):
    together, student = documents(loaded), scorer(loaded)
    taught = reference(together, topk=600)  # the whole vocabulary: the bucket is empty
    teacher = together.score(ROWS, Phase("evaluate"), taught)
    assert together.scorers[0].answers.divergence(teacher, teacher) == {"kl": pytest.approx(0, abs=1e-12), "agreement": 1.0}
    scores = student.score(ROWS, Phase("evaluate"), taught)
    for i, row in enumerate(taught.rows):
        answer, number = row["answer_ids"], [*DOCUMENTS].index(row["document"])
        prompts = [one.prompter.prompts([row]).whole(0) for one in (together.scorers[number], student)]
        p, q = (
            loaded[0](torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for prompt in prompts
        )
        assert scores["kl"][i] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), abs=1e-6)
        assert scores["same_answer"][i] == (scores["answer_ids"][i] == answer)


def test_what_judges_answers_is_no_part_of_what_queries_cost(loaded):
    student, meter = scorer(loaded), Meter(from_start=False)
    with meter.phase("evaluate", "after", "notes") as phase:
        student.score(ROWS, phase, reference(documents(loaded)))
    asked, judged = meter.phases
    assert (asked.key, judged.key) == (("evaluate", "after", "notes"), ("reference", "after", "notes"))
    student.answered(ROWS, alone := Phase("evaluate"))
    assert (asked.examples, asked.tokens, asked.flops) == (len(ROWS), alone.tokens, alone.flops)
    assert judged.examples == 0 < judged.tokens and judged.wall_s > 0


def test_a_teacher_with_nothing_to_tell_is_no_step_away(loaded):
    together = DocumentScorer((scorer(loaded),), documents=("first",))
    assert DocumentScorer((scorer(loaded), together.first), documents=("second", "first")).first is together.first
    rows = [{**row, "document": "first"} for row in ROWS]
    scores = scorer(loaded).score(rows, Phase("evaluate"), reference(together, rows))
    assert np.abs(scores["kl"]).max() < 1e-6
    assert scores["same_answer"].all()


def test_another_seed_asks_for_nothing_again(loaded, tmp_path):
    asked = scorer(loaded)
    cache = AnswerCache.create(ContentCache(tmp_path), asked.model, asked.prompter.tokenizer, asked.batch_size)
    asked, phases = replace(asked, cache=cache), [Phase("teacher"), Phase("teacher")]
    first, second = (asked.answered(ROWS, phase) for phase in phases)
    assert first == second
    assert phases[0].tokens > 0 == phases[1].tokens
    longer = replace(asked, answers=replace(asked.answers, generation=replace(asked.answers.generation, max_new_tokens=7)))
    longer.answered(ROWS, phases[1])
    assert phases[1].tokens > 0


def test_scores_come_back_from_a_checkpoint_as_they_were(loaded):
    scores = scorer(loaded).score(ROWS, Phase("evaluate"))
    again = Scores.from_state(json.loads(json.dumps(scores.state())))
    assert all(again[name].tolist() == column.tolist() for name, column in scores.columns.items())
    assert all(again[name].dtype == column.dtype for name, column in scores.columns.items())


def test_an_answer_longer_than_answers_may_be(loaded):
    with pytest.raises(InputError, match=r"--max_new_tokens 3: the answer of row 3 has 7 tokens; use at least that many"):
        scorer(loaded, new=3).check_window(ROWS)


def test_training_examples_end_in_their_answers(loaded):
    asked = scorer(loaded)
    prompts = asked.prompter.prompts(ROWS)
    examples = asked.answers.examples(prompts, ROWS, gold=True)
    for i, (example, row) in enumerate(zip(examples, ROWS, strict=True)):
        answer = [*loaded[1](" " + row["answer"][0]).input_ids, loaded[1].eos_token_id]
        assert example == {"input_ids": [*prompts.whole(i), *answer[:-1]], "asked": len(answer), "answer": answer}
