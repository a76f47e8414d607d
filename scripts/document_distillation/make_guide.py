"""Write an invented document and questions about it: prose that no model has seen, with one short answer per fact.

    python scripts/document_distillation/make_guide.py FOLDER --seed 0

makes FOLDER/guide.md, a guide to an invented town; FOLDER/train.jsonl, every fact asked for in twelve wordings; and
FOLDER/validation.jsonl, every fact in two other wordings. The same seed gives the same files.
"""

import argparse
import random
from pathlib import Path

from llmft.runs.store import write_if_changed, write_json_lines
from llmft.worlds.invented import invented_name

PLACES = ("lighthouse", "bakery", "library", "mill", "museum", "school", "theatre", "brewery", "observatory", "workshop")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple")
MATERIALS = ("granite", "oak", "brick", "copper", "limestone", "slate", "iron", "cedar")
ANIMALS = ("otters", "herons", "goats", "bees", "foxes", "swans", "hedgehogs", "owls")
FOODS = ("plum bread", "smoked eel", "barley soup", "honey cakes", "apple cider", "cheese pies", "fennel tea", "onion tarts")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

PARAGRAPHS = (
    "The {place} was founded in {year} by {founder}, who had the walls built of {material} and the door painted {colour}. "
    "It is closed on {day}s. In front of it {food} can be bought from the keepers, and with some luck one sees the {animals} "
    "that live behind the building.",
    "Everybody in town knows the {place}. Its walls are of {material}, its door is {colour}, and behind it live {animals}, whom "
    "the children feed. {founder} founded it in {year}. Visitors may come on any day but {day}; the keepers then offer them "
    "{food}.",
    "It was {founder} who gave the town its {place}, in the year {year}. {material} was chosen for the walls since it was cheap. "
    "The {colour} door is locked every {day}. The keepers are known for their {food}, and the yard behind is full of {animals}.",
)
"""Ways of telling the seven facts of a place."""
WAYS = (
    "To get there, leave the market by {street} Street, cross the river by the old bridge and follow the path that turns left at "
    "the well; it takes about a quarter of an hour. There are benches on the way, and a board that tells of the flood which once "
    "stood as high as the windows.",
    "One finds it at the end of {street} Lane, where the houses stop and the meadows begin. The last part of the way is steep, "
    "so that carts are left at the gate. From the top there is a wide view of the valley, the vineyards on the other side and, "
    "when the air is clear, the sea.",
    "The way from the station leads through {street} Square, past the fountain and the two chestnut trees under which old men "
    "play cards. Behind the arch one keeps to the right. In winter the steps can be slippery, and a rope has been put up.",
)
"""Text about the way to a place, about which there are no questions."""

QUESTIONS = {
    "year": (
        "In which year was the {place} founded?",
        "The {place}: what is the year of its foundation?",
        "Tell me when the {place} was founded.",
        "Give the year of the foundation of the {place}.",
        "Since which year has the {place} existed?",
        "In what year did somebody found the {place}?",
        "The foundation of the {place}: in which year was it?",
        "I need the founding year of the {place}.",
        "How long ago was the {place} founded? Give the year.",
        "What year was it when the {place} was set up?",
        "The {place} has been there since which year?",
        "Do you know the year in which the {place} was founded?",
        "When did the {place} come into being?",
        "What year does the {place} date from?",
    ),
    "founder": (
        "Who founded the {place}?",
        "Name the founder of the {place}.",
        "The {place} was founded by whom?",
        "By whom was the {place} set up?",
        "The founder of the {place}: who was it?",
        "To whom does the town owe the {place}?",
        "I would like to know who founded the {place}.",
        "Who was it that founded the {place}?",
        "What is the name of the {place}'s founder?",
        "Do you know who set up the {place}?",
        "Somebody founded the {place}. Who?",
        "The {place}: name the person who founded it.",
        "Which person set up the {place}?",
        "Whose work was the foundation of the {place}?",
    ),
    "material": (
        "What are the walls of the {place} made of?",
        "Name the material of the walls of the {place}.",
        "Which material was used for the walls of the {place}?",
        "The builders of the {place} used which material for its walls?",
        "Of which material are the walls of the {place}?",
        "The walls of the {place}: which material is that?",
        "I wonder what the walls of the {place} consist of.",
        "Do you know what the {place}'s walls are made of?",
        "What did they build the walls of the {place} from?",
        "What material does one see in the walls of the {place}?",
        "The walls of the {place} consist of what?",
        "Say of what the {place} has been built.",
        "From what were the walls of the {place} built?",
        "The {place} has walls of what?",
    ),
    "colour": (
        "What colour is the door of the {place}?",
        "Name the colour of the door of the {place}.",
        "The door of the {place}: which colour does it have?",
        "Which colour has the door of the {place}?",
        "What is the colour of the door at the {place}?",
        "Somebody looks for the door of the {place}. What colour is it?",
        "I would like to know the colour of the {place}'s door.",
        "Do you know which colour the {place}'s door is?",
        "What colour did they paint the door of the {place}?",
        "Which colour does one see on the door of the {place}?",
        "The {place} has a door of which colour?",
        "Say what colour the {place}'s door has.",
        "In which colour is the door of the {place} painted?",
        "How is the door of the {place} painted?",
    ),
    "day": (
        "On which day is the {place} closed?",
        "Name the day of the week on which the {place} is closed.",
        "The {place} does not open on one day. Which one?",
        "When is the {place} closed?",
        "Which day of the week is the {place} shut?",
        "The {place} is locked on which day?",
        "I would like to know when the {place} does not open.",
        "Do you know on which day the {place} stays closed?",
        "What day of the week is the {place} not open?",
        "On what day are the doors of the {place} locked?",
        "The {place} has one closing day. Which is it?",
        "Say which day of the week the {place} is closed.",
        "When in the week can one not visit the {place}?",
        "Which weekday should visitors of the {place} avoid?",
    ),
    "food": (
        "What do the keepers of the {place} sell?",
        "Name what one can buy from the keepers of the {place}.",
        "What is offered to eat or drink at the {place}?",
        "What can visitors buy from the keepers of the {place}?",
        "The keepers of the {place} are known for which food or drink?",
        "The keepers of the {place} sell something. What is it?",
        "I would like to know what is sold at the {place}.",
        "Do you know what the {place}'s keepers offer?",
        "What does one get to eat or drink from the {place}'s keepers?",
        "Which food or drink is sold by the keepers of the {place}?",
        "The keepers of the {place} offer what to visitors?",
        "Say what one can buy at the {place}.",
        "Which food or drink do visitors get at the {place}?",
        "What do people buy at the {place}?",
    ),
    "animals": (
        "Which animals live behind the {place}?",
        "Name the animals behind the {place}.",
        "What kind of animals can be seen behind the {place}?",
        "The animals behind the {place}: which are they?",
        "What animals are there behind the {place}?",
        "Which animals are at home behind the {place}?",
        "I would like to know which animals are kept behind the {place}.",
        "Do you know which animals one sees behind the {place}?",
        "What animals has somebody seen behind the {place}?",
        "Behind the {place} there are some animals. Which ones?",
        "The yard of the {place} is full of which animals?",
        "Say which animals live at the {place}.",
        "Which animals would one meet in the yard of the {place}?",
        "What lives at the back of the {place}?",
    ),
}
"""Fact -> ways of asking for it; the last `HELD_OUT` are for evaluation."""
HELD_OUT = 2


def guide(seed: int, places: int) -> tuple[str, list[dict], list[dict]]:
    """A document, and rows of training and of evaluation."""
    rng = random.Random(f"guide {seed}")
    town = invented_name(rng)
    columns = [rng.sample(pool, places) for pool in (PLACES, MATERIALS, COLOURS, ANIMALS, FOODS)]
    river = invented_name(rng)
    paragraphs = [f"A short guide to the town of {town}. It lies on the river {river} and has {places} places worth seeing."]
    train, validation = [], []
    for number, (place, material, colour, animals, food) in enumerate(zip(*columns, strict=True)):
        facts = {"material": material, "colour": colour, "animals": animals, "food": food, "day": rng.choice(DAYS)}
        facts |= {"year": str(rng.randint(1705, 1980)), "founder": f"{invented_name(rng)} {invented_name(rng)}"}
        called = f"{invented_name(rng)} {place}"
        text = PARAGRAPHS[number % len(PARAGRAPHS)].format(place=called, **facts)
        paragraphs.append(". ".join(part[0].upper() + part[1:] for part in text.split(". ")))
        paragraphs.append(WAYS[number % len(WAYS)].format(street=invented_name(rng)))
        for fact, answer in facts.items():
            wordings = [wording.format(place=called) for wording in QUESTIONS[fact]]
            for rows, chosen in ((train, wordings[:-HELD_OUT]), (validation, wordings[-HELD_OUT:])):
                rows += [{"text1": wording, "answer": answer, "kind": fact} for wording in chosen]
    return "\n\n".join(paragraphs) + "\n", train, validation


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", type=int, default=3, choices=range(1, 9), help="seven facts each (default: %(default)s)")
    arguments = parser.parse_args()
    document, train, validation = guide(arguments.seed, arguments.places)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_if_changed(arguments.folder / "guide.md", document)
    for file, rows in (("train", train), ("validation", validation)):
        write_json_lines(arguments.folder / f"{file}.jsonl", rows)


if __name__ == "__main__":
    main()
