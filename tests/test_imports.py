"""The house: imports follow the data, and few files know the libraries at its doors."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "layerprune"

BASE = {"errors", "files", "locks", "memory", "processes", "progress", "redact", "isolation"}
"""Files that know nothing of models, and that any may use."""

WHOLE = {"job", "todo", "study", "whole", "pipeline", "grid", "app", "export"}
"""Files that put a run together."""

USE_THE_WHOLE = {"config": {"grid"}, "estimate": {"job"}, "fitting": {"job", "pipeline", "export"}}
"""Rooms that do, for a reason: compose makes Hydra know the grid; a plan's costs are a job's."""


LONGEST = 370
"""Lines of a file of the package: one that grows past it has a second job."""


def rooms():
    """The folders of the package, in the order in which the README has them."""
    page = (ROOT / "README.md").read_text()
    return re.findall(r"^      (\w+)/  ", page, re.MULTILINE)


def imports():
    """Every import as (file, library), this project's own as `layerprune.ROOM`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module == "layerprune":
                yield from ((path, f"layerprune.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_readme_has_all_rooms():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(rooms()) == folders
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == BASE | WHOLE | {"__init__"}


def test_a_room_uses_earlier_ones_alone():
    order = rooms()
    wrong = []
    for path, module in imports():
        if not module.startswith("layerprune."):
            continue
        room, used = room_of(path), module.split(".")[1]
        if room in BASE:
            good = used in BASE
        elif room in order:
            earlier = order.index(used) <= order.index(room) if used in order else used in BASE
            good = earlier or used in USE_THE_WHOLE.get(room, ())
        else:  # these see all
            good = True
        if not good:
            wrong.append(f"{path.relative_to(ROOT)}: {module}")
    assert not wrong


def test_libraries_at_the_doors_are_known_to_few():
    known = {
        "hydra": {"app.py", "grid.py", "config/compose.py", "config/fence.py"},
        "wandb": {"track/send.py"},
        "lm_eval": {
            "evaluate/foreign.py", "evaluate/harness.py", "evaluate/scorer.py", "fitting/verify.py",
        },
    }  # fmt: skip
    found = {library: set() for library in known}
    for path, module in imports():
        if (library := module.split(".")[0]) in known:
            found[library].add(str(path.relative_to(PACKAGE)))
    assert found == known


def test_no_file_is_longer_than_a_reader_will_bear():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {str(path): count for path, count in lines.items() if count > LONGEST}
