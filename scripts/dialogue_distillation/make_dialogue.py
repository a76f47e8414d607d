"""Write an invented dialogue in which somebody tells who did what on which day, and what has changed, and questions about it.

    python scripts/dialogue_distillation/make_dialogue.py FOLDER --seed 0

makes FOLDER/turns.jsonl, the dialogue with chit-chat in between; FOLDER/train.jsonl, every fact asked for in six wordings; and
FOLDER/validation.jsonl, every fact in two other wordings. A row's `category` is who, when, now (what holds since a change) or
before (what held until then); rows about a change have the other value as `wrong_answer`. The same seed gives the same files.
"""

import argparse
import random
from pathlib import Path

from llmft.runs.store import write_json_lines
from llmft.worlds.invented import invented_name

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROOMS = ("chapel", "bakery", "library", "mill", "museum", "school", "theatre", "brewery")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple")
FOODS = ("plum bread", "smoked eel", "barley soup", "honey cakes", "cheese pies", "onion tarts", "pea stew", "apple pancakes")
DEEDS = {
    "repaired the organ": "repair the organ",
    "lost the keys": "lose the keys",
    "broke the window": "break the window",
    "brought the drums": "bring the drums",
    "wrote the poster": "write the poster",
    "fed the cats": "feed the cats",
    "painted the stage": "paint the stage",
    "found the old songbook": "find the old songbook",
}
"""Deeds, as told and as asked."""
TOLD = (
    "Today, this {day}, {person} {deed}.",
    "News from the choir: {person} {deed} on this fine {day}.",
    "Guess what, {person} {deed} this {day} morning.",
)
"""Ways of telling what somebody did."""
CHANGES = {
    "room": (
        ROOMS,
        "Our choir meets in the {value}, by the way.",
        "From today on the choir meets in the {value}, no longer in the {old}.",
    ),
    "colour": (
        COLOURS,
        "We all wear {value} scarves when we sing.",
        "We have changed the scarves: they are {value} now, not {old}.",
    ),
    "food": (
        FOODS,
        "For the feast {cook} wants to make {value}.",
        "Change of plan: {cook} will make {value} for the feast, not {old}.",
    ),
}
"""Things that change -> their values, how the first is told, and how the second."""
CHATTER = (
    ("It has been raining since I got up.", "Then it is a good day to stay in and sing."),
    ("I slept badly and need a second coffee.", "I hope that the coffee helps."),
    ("My knee hurts again on the stairs.", "That sounds unpleasant. Take care of it."),
    ("The bus was late and I had to run.", "At least you have had some exercise."),
    ("I have bought new shoes at last.", "Enjoy them."),
    ("The neighbours are having a party.", "I hope that they will not be loud for long."),
    ("I could eat all day long.", "Some days are like that."),
)
"""Remarks between the facts, and the replies."""
REPLIES = ("Thank you, I will remember that.", "I see, good to know.", "All right, I have noted it.", "Thanks for telling me.")
QUESTIONS = {
    "who": (
        "Who {deed}?",
        "Tell me who {deed}.",
        "Which person {deed}?",
        "Somebody {deed}. Who was it?",
        "What is the name of the one who {deed}?",
        "Do you remember who {deed}?",
        "Who was it that {deed}?",
        "Give me the name of the person who {deed}.",
    ),
    "when": (
        "On which day did {person} {do}?",
        "When did {person} {do}?",
        "Name the day on which {person} {deed}.",
        "{person} {deed}. Which day was that?",
        "Which day of the week was it when {person} {deed}?",
        "Do you remember on which day {person} {deed}?",
        "What day was it when {person} {deed}?",
        "Tell me the weekday on which {person} {deed}.",
    ),
}
"""Ways of asking about a deed; the last `HELD_OUT` are for evaluation."""
OF_CHANGES = {
    "room": {
        "now": (
            "Where does the choir meet now?",
            "In which building does the choir meet today?",
            "Where are the choir's meetings these days?",
            "Which is the choir's present meeting place?",
            "Where do I find the choir now?",
            "The choir has moved. Where does it meet now?",
            "Where must I go now if I want to meet the choir?",
            "What is the meeting place of the choir at present?",
        ),
        "before": (
            "Where did the choir meet before it moved?",
            "In which building did the choir meet at first?",
            "Where were the choir's meetings before the change?",
            "Which was the choir's first meeting place?",
            "Where did one find the choir at the beginning?",
            "The choir has moved. Where did it meet before?",
            "Where did the choir use to meet?",
            "What was the meeting place of the choir until it moved?",
        ),
    },
    "colour": {
        "now": (
            "What colour are the scarves of the choir now?",
            "Which colour do the singers' scarves have today?",
            "Name the present colour of the scarves.",
            "The scarves have been changed. What colour are they now?",
            "In what colour does the choir sing these days?",
            "Of which colour are the new scarves?",
            "What is the colour of the scarves at present?",
            "Which colour must a singer's scarf have now?",
        ),
        "before": (
            "What colour were the scarves of the choir at first?",
            "Which colour did the singers' scarves have before the change?",
            "Name the former colour of the scarves.",
            "The scarves have been changed. What colour were they before?",
            "In what colour did the choir sing at the beginning?",
            "Of which colour were the old scarves?",
            "What was the colour of the scarves until they were changed?",
            "Which colour did a singer's scarf use to have?",
        ),
    },
    "food": {
        "now": (
            "What will {cook} make for the feast now?",
            "What is {cook} going to make for the feast after all?",
            "Name what {cook} makes for the feast by the new plan.",
            "{cook} has changed the plan for the feast. What will it be now?",
            "Which food will there be from {cook} at the feast?",
            "By the latest plan, what does {cook} make for the feast?",
            "What does {cook} mean to make for the feast at present?",
            "As things stand now, which food will {cook} make for the feast?",
        ),
        "before": (
            "What did {cook} want to make for the feast at first?",
            "What was {cook} going to make for the feast before the change?",
            "Name what {cook} was to make for the feast by the old plan.",
            "{cook} has changed the plan for the feast. What was it before?",
            "Which food did {cook} plan for the feast at the beginning?",
            "By the first plan, what did {cook} make for the feast?",
            "What did {cook} mean to make for the feast originally?",
            "Until the plan changed, which food was {cook} to make for the feast?",
        ),
    },
}
"""Things that change -> now and before -> ways of asking; the last `HELD_OUT` are for evaluation."""
HELD_OUT = 2


def dialogue(seed: int, deeds: int) -> tuple[list[dict], list[dict], list[dict]]:
    """Turns, and rows of training and of evaluation."""
    rng = random.Random(f"dialogue {seed}")
    names = [invented_name(rng) for _ in range(deeds + 1)]
    while len({*names}) < len(names):
        names = [invented_name(rng) for _ in names]
    cook, *people = names
    values = {change: rng.sample(pool, 2) for change, (pool, _, _) in CHANGES.items()}
    done = [*zip(people, rng.sample(list(DEEDS), deeds), sorted(rng.sample(range(len(DAYS)), deeds)), strict=True)]
    facts = [
        (day, TOLD[place % len(TOLD)].format(person=person, deed=deed, day=DAYS[day]))
        for place, (person, deed, day) in enumerate(done)
    ]
    for change, (_, first, second) in CHANGES.items():
        old, new = values[change]
        early, late = rng.randrange(3), rng.randrange(3, len(DAYS))
        facts += [(early, first.format(value=old, cook=cook)), (late, second.format(value=new, old=old, cook=cook))]
    rows: dict[str, list[dict]] = {"train": [], "validation": []}

    def ask(wordings: tuple[str, ...], row: dict, **slots: str) -> None:
        for file, chosen in (("train", wordings[:-HELD_OUT]), ("validation", wordings[-HELD_OUT:])):
            rows[file] += [{"text1": wording.format(**slots), **row} for wording in chosen]

    for person, deed, day in done:
        ask(QUESTIONS["who"], {"answer": person, "category": "who"}, deed=deed)
        ask(QUESTIONS["when"], {"answer": DAYS[day], "category": "when"}, person=person, deed=deed, do=DEEDS[deed])
    for change, wordings in OF_CHANGES.items():
        old, new = values[change]
        ask(wordings["now"], {"answer": new, "wrong_answer": old, "category": "now"}, cook=cook)
        ask(wordings["before"], {"answer": old, "wrong_answer": new, "category": "before"}, cook=cook)
    return turns(rng, facts), rows["train"], rows["validation"]


def turns(rng: random.Random, facts: list[tuple[int, str]]) -> list[dict]:
    """The dialogue: for each day some chit-chat, then the facts (day, text) of the day."""
    said = []
    for day, (chatter, answer) in enumerate(rng.sample(CHATTER, len(DAYS))):
        said.append((f"Good morning, it is {DAYS[day]}. {chatter}", answer))
        told = [text for of, text in facts if of == day]
        rng.shuffle(told)
        said += [(text, rng.choice(REPLIES)) for text in told]
    return [{"role": role, "content": text} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deeds", type=int, default=4, choices=range(1, 8), help="each by a different person (default: %(default)s)"
    )
    arguments = parser.parse_args()
    said, train, validation = dialogue(arguments.seed, arguments.deeds)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (("turns", said), ("train", train), ("validation", validation)):
        write_json_lines(arguments.folder / f"{file}.jsonl", rows)


if __name__ == "__main__":
    main()
