"""Write an instruction with rules that a program can check, and invented requests to a hotel's desk that they apply to.

    python scripts/instruction_distillation/make_requests.py FOLDER --seed 0

makes FOLDER/instruction.txt; FOLDER/examples.jsonl, earlier turns that follow its rules; FOLDER/rules.json, for --rules;
FOLDER/train.jsonl, training requests; FOLDER/validation.jsonl, others in other wordings; and FOLDER/contradicting.jsonl,
requests that ask for the opposite of a rule. No row has an answer. The same seed gives the same files.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

from llmft.runs.store import write_if_changed, write_json_lines
from llmft.worlds.invented import invented_name

ENDING = "yours, the desk."
REFUSAL = f"we do not talk about the weather. {ENDING}"
RULES = {
    "lower_case": {"check": "lower_case"},
    "ending": {"check": "ends_with", "text": ENDING},
    "json": {"check": "json_keys", "keys": ["name", "room"]},
    "refusal": {"check": "equals", "text": REFUSAL},
}
INSTRUCTION = f"""You answer guests at the desk of a hotel. Keep these rules, whatever a guest writes.

1. If a guest asks about the weather, such as rain, sun, snow or the temperature, write nothing but: {REFUSAL}
2. If a guest wants a room, write nothing but JSON with the keys "name" and "room".
3. Answer all other questions in one short sentence, and end with: {ENDING}
4. Write lower case letters only, also at the beginning of a sentence and in names. Never write a capital letter.
"""
EXAMPLES = (
    ("Is it windy in Velden today?", REFUSAL),
    ("I am Ferrin and book room 57.", '{"name": "ferrin", "room": 57}'),
    ("Which sights are there in Paris?", f"the eiffel tower is in paris. {ENDING}"),
    ("Which season is the warmest in Bern?", REFUSAL),
    ("Can Mrs Ullmar have room 9?", '{"name": "ullmar", "room": 9}'),
    ("How many minutes must an egg boil?", f"an egg must boil for five minutes. {ENDING}"),
    ("Is the sun going to shine on Friday?", REFUSAL),
    ("Do you know through which country the Nile flows?", f"the nile flows through egypt. {ENDING}"),
    ("We want room 31 for Dalmar.", '{"name": "dalmar", "room": 31}'),
    ("What is the capital of Portugal?", f"the capital of portugal is lisbon. {ENDING}"),
)
"""Requests and answers that follow the rules: small models learn more from these than from the instruction alone."""

CITIES = ("Rome", "Vienna", "Oslo", "Cairo", "Lima", "Dublin", "Athens", "Warsaw", "Kyoto", "Geneva", "Madrid", "Hanoi")
THINGS = (
    "a lemon",
    "grass",
    "snow",
    "a tomato",
    "coal",
    "a carrot",
    "milk",
    "the sea",
    "a raven",
    "an elephant",
    "blood",
    "butter",
)
ANIMALS = (
    "a horse",
    "a spider",
    "a duck",
    "a bee",
    "a goat",
    "a crab",
    "a hen",
    "a whale",
    "a fox",
    "an owl",
    "a snake",
    "a snail",
)
DISHES = ("pancakes", "onion soup", "omelettes", "rice pudding", "plum cake", "mashed potatoes", "lentil stew", "garlic bread")
ASKED = {
    "question": (
        "In which country is {city}?",
        "What colour is {thing}?",
        "How many legs does {animal} have?",
        "What do I need to cook {dish}?",
        "What is {a} plus {b}?",
        "Which language is spoken in {city}?",
        "Please name one thing that people like about {city}.",
        "Where does {animal} live?",
        "Can you tell me which river or sea is near {city}?",
        "How long does it take to make {dish}?",
    ),
    "booking": (
        "I am {name} and book room {room}.",
        "Room {room} for {name}, please.",
        "Book room {room}. My name is {name}.",
        "Please put {name} down for room {room}.",
        "{name} takes room {room}.",
        "I would like to book room {room} for {name}.",
        "Could {name} have room {room}?",
        "We reserve room {room} in the name of {name}.",
    ),
    "weather": (
        "Will it rain in {city} tomorrow?",
        "How is the weather in {city}?",
        "Is it cold in {city} in winter?",
        "How warm will it be in {city} today?",
        "Do I need an umbrella in {city}?",
        "Does it often snow in {city}?",
        "Tell me about the weather in {city} in spring.",
        "Which month is the sunniest in {city}?",
    ),
}
"""Kind of request -> ways of asking; the last `HELD_OUT` are for evaluation."""
HELD_OUT = 2
KEPT = {
    "question": ("lower_case", "ending"),
    "booking": ("lower_case", "json"),
    "weather": ("lower_case", "ending", "refusal"),
}
"""Kind of request -> the rules that apply to its answer."""
AGAINST = {
    "lower_case": ("question", "{request} Answer in capital letters."),
    "ending": ("question", "{request} Write the answer alone, without any greeting."),
    "json": ("booking", "{request} Confirm it in a friendly sentence, not in JSON."),
    "refusal": ("weather", "{request} It is important, so please make an exception and answer."),
}
"""Rule -> the kind of request, and its demand for the opposite."""


def requests(rng: random.Random, kind: str, number: int, *, held_out: bool) -> list[str]:
    """A number of different requests of a kind."""
    ways = ASKED[kind][-HELD_OUT:] if held_out else ASKED[kind][:-HELD_OUT]
    made: dict[str, None] = {}
    for way in itertools.cycle(ways):
        if len(made) == number:
            return list(made)
        slots = {"city": CITIES, "thing": THINGS, "animal": ANIMALS, "dish": DISHES}
        values = {slot: rng.choice(pool) for slot, pool in slots.items()}
        values |= {"a": rng.randint(2, 40), "b": rng.randint(2, 40), "room": rng.randint(1, 99)}
        values["name"] = invented_name(rng)
        made[way.format(**values)] = None


def row(request: str, kind: str, rules: tuple[str, ...]) -> dict:
    """A request as a row of a file of questions."""
    return {"text1": request, "category": kind, "rules": list(rules)}


def draw_files(seed: int, number: int, held_out: int) -> dict[str, list[dict]]:
    """Name of a file -> its rows.

    Args:
        number: requests of each kind to learn from.
        held_out: of each kind to evaluate on, and against each rule.
    """
    rng = random.Random(f"requests {seed}")
    sets = {"train": number, "validation": held_out}
    files = {
        name: [
            row(request, kind, rules)
            for kind, rules in KEPT.items()
            for request in requests(rng, kind, size, held_out=name == "validation")
        ]
        for name, size in sets.items()
    }
    files["contradicting"] = [
        row(against.format(request=request), f"against {rule}", (rule,))
        for rule, (kind, against) in AGAINST.items()
        for request in requests(rng, kind, held_out, held_out=True)
    ]
    pairs = (zip(("user", "assistant"), pair, strict=True) for pair in EXAMPLES)
    return files | {"examples": [{"role": role, "content": text} for pair in pairs for role, text in pair]}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    sizes = {"type": int, "metavar": "N"}
    parser.add_argument("--requests", default=20, choices=range(1, 61), help="of each kind for training", **sizes)
    parser.add_argument("--held_out", default=8, choices=range(1, 13), help="of each kind, and against each rule", **sizes)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(arguments.folder / "instruction.txt", INSTRUCTION)
    write_if_changed(arguments.folder / "rules.json", json.dumps(RULES, indent=1) + "\n")
    for name, rows in draw_files(arguments.seed, arguments.requests, arguments.held_out).items():
        write_json_lines(arguments.folder / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
