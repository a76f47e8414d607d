"""The building blocks of documents in the notes world: places, their attributes, and the sentences that state or ask for one.

Every sentence names the place first, then the attribute, then the value. `{place}` is "the Kelwick mill" with a lower-case or
capitalised article, `{value}` one to four words.
"""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = tuple(
    first + second
    for first in _words("Bra Cor Dun El Fen Gal Hol Jor Kel Lor Mar Nes")
    for second in _words("dale wick mere ford ton stead holm combe bury gate")
)
TYPES = _words("mill inn museum lighthouse library bakery theatre school harbour garden")

FIRST_NAMES = _words(
    "Ada Alma Boris Carla Cyril Dora Edgar Elsa Felix Flora Gerda Greta Hugo Ida Ivan Jonas Julia Karl Klara Leo Lena Magda "
    "Martha Milo Nils Nora Olga Oscar Otto Paula Petra Rosa Rufus Selma Silas Tilda Ulla Viktor Wanda Yara"
)
LAST_NAMES = _words(
    "Abbott Archer Barlow Becker Bishop Brandt Carver Castle Conway Dalton Draper Ellis Falk Finch Fowler Garland Grant Hale "
    "Harper Holt Jansen Keller Lamb Larsen Mercer Moss Nolan Osborn Palmer Prior Quinn Reeve Sawyer Shaw Stone Turner Vance "
    "Walsh Weaver Young"
)
YEARS = tuple(str(year) for year in range(1801, 1861))
MATERIALS = _words(
    "granite oak brick copper limestone slate iron cedar marble clay sandstone basalt pine steel timber flint chalk bamboo "
    "bronze concrete glass larch quartz straw teak tin turf walnut"
)
COLOURS = _words(
    "red blue green yellow white black orange purple crimson scarlet violet indigo turquoise pink brown grey golden silver "
    "ivory beige olive maroon navy amber teal lilac rust cream"
)
FLAVOURS = _words(
    "plum honey onion fennel apple barley ginger lemon pepper cherry almond pumpkin garlic mustard saffron carrot "
    "rhubarb cinnamon leek chestnut spinach quince raisin sorrel"
)
DISHES = _words(
    "bread soup cakes pies tarts stew dumplings pancakes pudding biscuits porridge noodles salad waffles sausages jelly "
    "muffins toast rolls pasties broth omelettes crumble fritters"
)
ORDINALS = _words("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
MONTHS = _words("January February March April May June July August September October November December")
ANIMALS = _words(
    "otters herons goats bees foxes swans hedgehogs owls badgers geese hares donkeys peacocks ducks ravens beavers squirrels "
    "cranes storks lizards ponies pigeons turtles bats sparrows toads falcons rabbits"
)
UNITS = _words("two three four five six seven eight nine")
HUNDREDS = UNITS[:6]  # fewer, so that heights differ mostly in the tens
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
HOUSE_NUMBERS = tuple(str(number) for number in range(2, 42))
TREES = _words("Elm Birch Willow Maple Hazel Alder Aspen Linden Poplar Rowan Juniper Laurel Ash Beech Cypress Holly")
STREETS = _words("Lane Street Road Square Alley Row")

NOT_STATED = "not stated"
"""The right answer if the document does not say."""


@dataclass(frozen=True)
class Attribute:
    """An attribute of places: the parts of its value, sentences that state it and questions for it."""

    name: str
    slots: tuple[tuple[str, ...], ...]
    """The words of a value, one choice per slot. In one document no choice of a pool is used twice for an attribute."""
    statements: tuple[str, ...]
    """What may follow "the Kelwick mill" or "and"."""
    questions: tuple[str, ...]
    """The first three are for training, the last two for evaluation."""
    reverse: str
    """Follows "Which place ": it asks for the place by the value."""

    @property
    def key_slot(self) -> int:
        """The slot whose word distinguishes values of a document: the one with the most choices, the first on ties."""
        return max(range(len(self.slots)), key=lambda slot: len(self.slots[slot]))


ATTRIBUTES = (
    Attribute(
        "founder",
        (FIRST_NAMES, LAST_NAMES),
        ("was founded by {value}", "was founded long ago by {value}", "was founded with little money by {value}"),
        (
            "Who founded {place}?",
            "By whom was {place} founded?",
            "Tell me who founded {place}.",
            "Which person founded {place}?",
            "Please name the person who founded {place}.",
        ),
        "was founded by {value}",
    ),
    Attribute(
        "keeper",
        (FIRST_NAMES, LAST_NAMES),
        ("has a keeper called {value}", "is run by its keeper {value}", "pays a keeper whose name is {value}"),
        (
            "Who is the keeper of {place}?",
            "What is the name of the keeper of {place}?",
            "Tell me who is keeper at {place}.",
            "Which person is the keeper at {place}?",
            "Please name the keeper of {place}.",
        ),
        "has a keeper called {value}",
    ),
    Attribute(
        "year",
        (YEARS,),
        ("opened in {value}", "opened to visitors in {value}", "opened after much work in {value}"),
        (
            "When was {place} opened?",
            "In which year was {place} opened?",
            "Tell me when {place} opened.",
            "What year was it when {place} opened?",
            "Please name the year when {place} opened.",
        ),
        "opened in {value}",
    ),
    Attribute(
        "material",
        (MATERIALS,),
        ("has walls of {value}", "was built with walls of {value}", "hides behind thick walls of {value}"),
        (
            "What are the walls of {place} made of?",
            "Of what are the walls of {place} built?",
            "Tell me what the walls of {place} are made of.",
            "Which material are the walls at {place}?",
            "Please name the material of the walls of {place}.",
        ),
        "has walls of {value}",
    ),
    Attribute(
        "colour",
        (COLOURS,),
        ("has a door painted {value}", "shows a door painted {value}", "keeps its old door painted {value}"),
        (
            "What colour is the door of {place}?",
            "In which colour is the door of {place} painted?",
            "Tell me the colour of the door of {place}.",
            "How is the door at {place} painted?",
            "Please name the colour of the door of {place}.",
        ),
        "has a door painted {value}",
    ),
    Attribute(
        "dish",
        (FLAVOURS, DISHES),
        ("serves {value}", "serves its guests {value}", "serves plates of {value} at noon"),
        (
            "What does {place} serve?",
            "Which dish does {place} serve?",
            "Tell me what {place} serves.",
            "What do guests eat when {place} serves them?",
            "Please name the dish that {place} serves.",
        ),
        "serves {value}",
    ),
    Attribute(
        "festival",
        (ORDINALS, ("of",), MONTHS),
        (
            "holds a festival on the {value}",
            "celebrates its festival on the {value}",
            "invites all to its festival on the {value}",
        ),
        (
            "When is the festival of {place}?",
            "On which date is the festival of {place}?",
            "Tell me the date of the festival of {place}.",
            "What is the date when {place} holds its festival?",
            "Please name the date of the festival at {place}.",
        ),
        "has its festival on the {value}",
    ),
    Attribute(
        "animals",
        (ANIMALS,),
        ("shelters {value}", "shelters {value} in its yard", "shelters a family of {value}"),
        (
            "Which animals does {place} shelter?",
            "What animals are sheltered by {place}?",
            "Tell me which animals {place} shelters.",
            "What kind of animals can {place} shelter?",
            "Please name the animals that {place} shelters.",
        ),
        "shelters {value}",
    ),
    Attribute(
        "height",
        (HUNDREDS, ("hundred",), TENS, UNITS),
        ("reaches a height of {value} feet", "has a height of {value} feet", "rises to a height of {value} feet"),
        (
            "How many feet is the height of {place}?",
            "What is the height of {place} in feet?",
            "Tell me the height of {place} in feet.",
            "To what height does {place} rise?",
            "Please give the height of {place} in feet.",
        ),
        "has a height of {value} feet",
    ),
    Attribute(
        "address",
        (HOUSE_NUMBERS, TREES, STREETS),
        ("has its address at {value}", "gives its address as {value}", "moved to a new address at {value}"),
        (
            "What is the address of {place}?",
            "At which address is {place}?",
            "Tell me the address of {place}.",
            "What address does {place} give?",
            "Please name the address of {place}.",
        ),
        "has its address at {value}",
    ),
)
TRAIN_WORDINGS, HELD_OUT_WORDINGS = (0, 1, 2), (3, 4)
WORDINGS = TRAIN_WORDINGS + HELD_OUT_WORDINGS
REVERSE_FRAMES = ("Which place {question}?", "Please name the place that {question}.")
OPENERS = ("", "", "", "As people say, ", "Today ", "In this valley ", "It is known that ")
"""What a sentence may begin with; "" is none."""
