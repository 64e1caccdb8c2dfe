"""Imports follow the data: packages use earlier ones, and few files know the heavy libraries."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "layerprune"

ORDER = (
    "runtime", "errors", "config", "data", "model", "shared_forward", "prune", "record", "heal",
    "evaluate", "export", "run", "estimate", "analysis", "search", "report", "track", "cli",
)  # fmt: skip
"""Packages and modules, each of which may import those before it."""


def imports():
    """Yield every import as (file, module); this project's own as `layerprune.PACKAGE...`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module == "layerprune":
                yield from ((path, f"layerprune.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_a_place_in_the_order():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert names - {"__init__", "__pycache__", "conf"} == set(ORDER)


def test_imports_follow_the_order():
    wrong = set()
    for path, module in imports():
        package = package_of(path)
        if package == "__init__" or not module.startswith("layerprune."):
            continue
        used = module.split(".")[1]
        if ORDER.index(used) > ORDER.index(package):
            wrong.add(f"{path.relative_to(ROOT)}: {module}")
    assert not wrong


def test_few_files_import_hydra_wandb_and_lm_eval():
    known = {
        "hydra": {
            "cli.py", "config/compose.py", "config/hydra_errors.py", "config/overrides.py",
            "config/sweeper.py",
        },
        "wandb": {"track/send.py"},
        "lm_eval": {
            "evaluate/eval_tasks.py", "evaluate/scorer.py", "evaluate/task_sandbox.py",
            "search/checkpoint_check.py",
        },
    }  # fmt: skip
    found = {library: set() for library in known}
    for path, module in imports():
        if (library := module.split(".")[0]) in known:
            found[library].add(str(path.relative_to(PACKAGE)))
    assert found == known
