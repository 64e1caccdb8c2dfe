"""Scripts of experiments/ and tools/, which are no packages, as modules."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
FOLDERS = [str(ROOT / folder) for folder in ("experiments", "tools", "tools/fact_questions")]

LARGEST = 150_000
"""Bytes of a picture."""


def script(name: str) -> ModuleType:
    """Import the script of that name; scripts import each other."""
    before = list(sys.path)
    sys.path[:0] = FOLDERS
    try:
        return import_module(name)
    finally:
        sys.path[:] = before


def cells(table: list[str]) -> list[list[str]]:
    """Return the cells of each row of a Markdown table below its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
