"""The layout of llmft, checked by its imports: no cycles, no imports upwards, one loose file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "llmft"
ROOMS = """
    doctor self_study compose pipelines distillation training evaluation models tasks prompts worlds arguments runs cost
""".split()
"""From the top down; each imports only from those below it."""
LOOSE = ("__init__", "errors")
REPORT = {"report", "runs", "cost", "errors"}
"""Everything that the report imports: it reads records and is otherwise independent."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of each module of a package."""
    files = {".".join(file.relative_to(root.parent).with_suffix("").parts): file for file in sorted(root.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for name, file in files.items()}


def imports(root: Path) -> set[tuple[str, str]]:
    """(importing, imported) modules of a package, including imports within functions and only for types."""
    names, pairs = modules(root), set()
    for name, file in names.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                targets = [f"{module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                while target and target not in names:
                    target = target.rpartition(".")[0]  # for example a function in its module
                if target and target != name:
                    pairs.add((name, target))
    return pairs


def room(module: str) -> str:
    """The folder of a module, or the name of a loose one; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def faults(root: Path) -> list[str]:
    """What is wrong with a package's imports, a line each that names the two modules."""
    order, lines = {name: place for place, name in enumerate([*ROOMS, "errors"])}, []
    pairs = imports(root)
    for importing, imported in sorted(pairs):
        above, below = room(importing), room(imported)
        if above in ("", below):
            continue
        if above == "report" and below not in REPORT:
            lines.append(f"{importing} imports {imported}: the report imports from {', '.join(sorted(REPORT))} alone")
        elif above != "report" and (below not in order or order[above] > order[below]):
            lines.append(f"{importing} imports {imported}: {above} stands below {below or 'the package itself'}")
    lines += [f"{' imports '.join([*circle, circle[0]])}: a circle" for circle in circles(pairs)]
    loose = [file.name for file in sorted(root.glob("*.py")) if file.stem not in LOOSE]
    return lines + [f"{root.name}/{name} lies loose beside errors.py: move it into a room" for name in loose]


def circles(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """A way round for each pair of modules that import one another, by whatever way."""
    graph: dict[str, set[str]] = {}
    for importing, imported in pairs:
        graph.setdefault(importing, set()).add(imported)

    def way(start: str, goal: str) -> list[str] | None:
        ways, seen = [[start]], {start}
        for path in ways:
            for following in sorted(graph.get(path[-1], ())):
                if following == goal:
                    return path
                if following not in seen:
                    seen.add(following)
                    ways.append([*path, following])
        return None

    rounds: dict[frozenset[str], list[str]] = {}
    for module in sorted(graph):
        path = way(module, module)
        if path:
            rounds.setdefault(frozenset(path), path)
    return list(rounds.values())


def test_no_circle_no_arrow_up_and_one_loose_file():
    assert not faults(ROOT), "\n".join(faults(ROOT))


def test_every_folder_has_its_place():
    folders = {path.name for path in ROOT.iterdir() if any(path.rglob("*.py"))} - {"__init__.py", "errors.py"}
    assert folders == {*ROOMS, "report"}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (
            {"cost/a.py": "from llmft.runs.b import x", "runs/b.py": "x = 1"},
            "llmft.cost.a imports llmft.runs.b: cost stands below runs",
        ),
        (
            {"cost/a.py": "def f():\n    from llmft.cost import b", "cost/b.py": "from .a import f"},
            "llmft.cost.a imports llmft.cost.b imports llmft.cost.a: a circle",
        ),
        (
            {"report/a.py": "if TYPE_CHECKING:\n    import llmft.tasks.b", "tasks/b.py": ""},
            "llmft.report.a imports llmft.tasks.b: the report imports from cost, errors, report, runs alone",
        ),
        ({"extra.py": ""}, "llmft/extra.py lies loose beside errors.py: move it into a room"),
        ({"tasks/a.py": "import llmft"}, "llmft.tasks.a imports llmft: tasks stands below the package itself"),
    ],
)
def test_faults_name_the_two_modules(tmp_path, files, line):
    for name, text in {"__init__.py": "", "errors.py": "", **files}.items():
        file = tmp_path / "llmft" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    assert faults(tmp_path / "llmft") == [line]


def test_public_names_of_a_room_are_one_thing_each():
    """Functions and classes of a room's modules; the entry `main` has one meaning. A class's name is one thing in all rooms."""
    places: dict[tuple[str, str], list[str]] = {}
    for module, file in modules(ROOT).items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and node.name != "main":
                scope = "" if isinstance(node, ast.ClassDef) else room(module)
                places.setdefault((scope, node.name), []).append(module)
    assert not {name: where for name, where in places.items() if len(where) > 1}
