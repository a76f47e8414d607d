"""Conversations as rows: one for each turn of the assistant, its history part of the query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmft.arguments.data import DataArguments
from llmft.errors import InputError
from llmft.prompts.render import Turn
from llmft.tasks.queries import leave_out, load_queries
from llmft.tasks.texts import asks
from llmft.tasks.turns import SHAPE, Names, by_turn
from tests.parsing import parse
from tests.tasks.conftest import load, resolve

NAMES = Names("turns", "text1", "answer", "page")
ADA, BORN = "document-3000b80f", "document-29fd1b0c"


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


TALK = [user("Who?", page="It was Ada."), assistant("Ada"), user("When?", page="Born in 1815."), assistant("1815"), user("Sure?")]
WHO, WHEN = (Turn("user", "Who?"), Turn("assistant", "Ada")), (Turn("user", "When?"), Turn("assistant", "1815"))


def queries(file, task, *arguments, documents):
    ((data,), _) = parse((DataArguments,), [*map(str, arguments)])
    return load_queries(str(file), data, task, documents=documents)


@pytest.mark.parametrize("name", ["talks.jsonl", "talks.parquet"])
def test_every_answer_is_a_row_with_the_document_of_its_turn(write, name, capsys):
    rows = [{"turns": TALK, "category": "a", "idx": 7}, {"turns": [user("Why?", page="It was Ada."), assistant("So.")], "idx": 9}]
    file = write(rows, name)
    task = resolve("--task", "questions", "--validation_file", file, "--document_column", "page")
    data = load(task)
    who, when, why = data.in_domain["questions"]
    assert (who["text1"], who["answer"], who["document"], who["history"]) == ("Who?", ("Ada",), ADA, ())
    assert (when["text1"], when["answer"], when["document"], when["history"]) == ("When?", ("1815",), BORN, WHO)
    assert (why["document"], [row.get("category") for row in (who, when, why)]) == (ADA, ["a", "a", None])
    assert [(row["conversation"], row["turn"], row["idx"]) for row in (who, when, why)] == [("7", 1, 0), ("7", 2, 1), ("9", 1, 3)]
    note = f"note: --validation_file {file} (a row for each query): 1 of 4 rows left out: 1 without an answer"
    assert note in capsys.readouterr().err
    asked = queries(file, task, "--task", "questions", "--document_column", "page", documents=data.documents)
    last = asked[2]  # a query alone, about the document that was named last
    assert (last["text1"], last["answer"], last["document"], last["history"]) == ("Sure?", (), BORN, (*WHO, *WHEN))
    assert (last["turn"], last["idx"]) == (3, "query-2")


def test_a_documents_column_holds_for_turns_that_name_none(write):
    rows = [{"turns": [user("Who?"), assistant("Ada"), *TALK[2:4]], "page": "It was Ada."}]
    task = resolve("--task", "questions", "--validation_file", write(rows), "--document_column", "page")
    assert [row["document"] for row in load(task).in_domain["questions"]] == [ADA, BORN]
    plain = resolve("--task", "questions", "--validation_file", write(rows))  # whose rows are about no document
    assert [row["document"] for row in load(plain).in_domain["questions"]] == [None, None]


@pytest.mark.parametrize(("chat", "pattern"), [((), "user: {text1}\nassistant:"), (("--chat",), "{text1}")])
def test_a_conversation_is_asked_as_its_earlier_turns_are_written(write, chat, pattern):
    named = resolve("--task", "questions", "--validation_file", write([{"talk": TALK}]), "--turns_column", "talk", *chat)
    assert named.patterns["minimal"].pattern + named.patterns["minimal"].prefix == pattern
    assert len(load(named).in_domain["questions"]) == 2


def test_answers_that_a_teacher_wrote_keep_what_was_said_before(write):
    task = resolve("--task", "questions", "--validation_file", write([{"turns": TALK}]))
    line = {"document": None, "history": TALK[:2], "query": "When?", "answer": "1815"}
    file = write([line, {**line, "history": None}], "written.jsonl")
    first, second = queries(file, task, "--task", "questions", documents={})
    assert (first["history"], first["text1"], first["answer"]) == (WHO, "When?", ("1815",))
    assert second["history"] == ()


TURNS = st.lists(
    st.tuples(st.lists(st.text("ab", min_size=1), min_size=1, max_size=2), st.text("ab", min_size=1)), min_size=1, max_size=4
)


@given(talks=st.lists(st.tuples(TURNS, st.booleans()), min_size=1, max_size=4))
def test_as_many_rows_as_turns_of_the_assistant_and_histories_that_grow(talks):
    cells = []
    for rounds, asks_on in talks:
        turns = [turn for asked, answer in rounds for turn in (*map(user, asked), assistant(answer))]
        cells.append([*turns, user("more")] if asks_on else turns)
    table, _ = by_turn({"turns": cells}, NAMES, "--train_file f")
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    answered = [row for row in rows if row["answer"] is not None]
    assert [row["answer"] for row in answered] == [turn["content"] for c in cells for turn in c if turn["role"] == "assistant"]
    assert len(rows) - len(answered) == sum(asks_on for _, asks_on in talks)
    for number, cell in enumerate(cells):
        of_talk = [row for row in rows if row["conversation"] == str(number)]
        assert [row["turn"] for row in of_talk] == [*range(1, len(of_talk) + 1)]
        whole = tuple(Turn(**turn) for turn in cell)
        for row in of_talk:
            said = (*row["history"], Turn("user", row["text1"]))
            assert whole[: len(said)] == said
            assert row["answer"] is None or whole[len(said)] == Turn("assistant", row["answer"])


def test_no_query_is_answered_in_the_history_of_a_demonstration():
    base = {"text2": None, "document": None}
    when, who = ({**base, "text1": "When?", "history": WHO}, {**base, "text1": "Who?", "history": ()})
    other = {**base, "text1": "When?", "history": ()}
    assert leave_out([who, when, other], [when], "--num_shots 1") == [other]
    assert leave_out([who, when, other], [who], "--num_shots 1") == [when, other]
    assert len({asks(row) for row in (who, when, other)}) == 3


REFUSED = {
    "role": ([user("a"), {"role": "tool", "content": "x"}], "turn 2 has the role 'tool'; use user or assistant"),
    "system": ([{"role": "system", "content": "x"}], "turn 1 has the role 'system'; use user or assistant"),
    "empty": ([user(" ")], "turn 1 has an empty content; add text, or drop the turn"),
    "no text": ([user("a"), {"role": "assistant"}], "turn 2 has no text content; write {"),
    "no list": ("a", f"is 'a'; write {SHAPE}"),
    "no objects": (["a"], f"is ['a']; write {SHAPE}"),
    "no turn": ([], f"has no turn; write {SHAPE}"),
    "missing": (None, f"has no turn; write {SHAPE}"),
    "greeting": ([assistant("Hello")], "turn 1 is the assistant's, and no user's turn stands right in front; add one"),
    "twice": ([user("a"), assistant("b"), assistant("c")], "turn 3 is the assistant's, and no user's turn stands right in front"),
    "document": (
        [user("a"), assistant("b", page="x")],
        "turn 2 is the assistant's and has a page; give that to the user's before it",
    ),
    "surrogate": ([user("a\ud800")], "row 2: turn 1 holds half a surrogate pair; fix the file"),
}


def test_conversations_have_numbers_of_their_own(write):
    rows = [{"idx": idx, "turns": TALK} for idx in (7, 9, 7)]
    with pytest.raises(InputError, match="column idx has 7 in rows 1 and 3; make it unique, or drop the column"):
        load(resolve("--task", "questions", "--validation_file", write(rows)))


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_conversation(what):
    cell, says = REFUSED[what]
    with pytest.raises(InputError) as caught:
        by_turn({"turns": [TALK, cell]}, NAMES, "--train_file f")
    assert str(caught.value).startswith("--train_file f: column turns ") and says in str(caught.value)


@pytest.mark.parametrize("column", ["text1", "answer", "text2", "answer_ids", "thought_ids", "wrong_answer", "history", "chunk"])
def test_conversations_and_single_questions_do_not_share_a_file(write, column):
    file = write([{"turns": TALK}, {column: "Who?"}])
    with pytest.raises(InputError) as caught:
        resolve("--task", "questions", "--validation_file", file)
    says = f"--validation_file {file}: has columns turns and {column}; a row is a conversation or a single question"
    assert str(caught.value).startswith(says)


def test_columns_of_single_questions_with_the_names_of_conversations_are_not_read(write):
    rows = [{"text1": "Who?", "answer": "Ada", "conversation": 17, "turn": "s"}, {"text1": "Why?", "answer": "So.", "turn": 3}]
    named = ("--task", "questions", "--validation_file", write(rows))
    task = resolve(*named)
    for made in (load(task).in_domain["questions"], queries(named[-1], task, "--task", "questions", documents={})):
        assert not {"conversation", "turn"} & {*made[0], *made[1]}
    second = write([{**row, "turn": "Tell me."} for row in rows], "second.jsonl")
    named = ("--task", "questions", "--validation_file", second, "--text2_column", "turn")
    task = resolve(*named)
    assert load(task).in_domain["questions"][0]["text2"] == "Tell me."
    assert queries(second, task, *named[:2], *named[4:], documents={})[1]["text2"] == "Tell me."


def test_a_column_of_turns_that_is_not_there(write):
    file = write([{"text1": "Who?", "answer": "Ada"}])
    with pytest.raises(InputError, match=f"^--turns_column talk: --validation_file {file} has text1, answer; name one of these$"):
        resolve("--task", "questions", "--validation_file", file, "--turns_column", "talk")
    unasked = write([{"turns": [user("Who?")]}], "unasked.jsonl")
    with pytest.raises(InputError, match="no row has an answer in column turns"):
        resolve("--task", "questions", "--validation_file", unasked)
