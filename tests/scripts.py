"""Scripts of experiments/, which is no package, as modules."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def script(name: str) -> ModuleType:
    """The script of that name; scripts import each other."""
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(EXPERIMENTS))
