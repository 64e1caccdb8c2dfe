"""The page of all keys."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def page():
    """What the script that writes it has to say; experiments are no package."""
    path = ROOT / "experiments" / "configuration.py"
    spec = importlib.util.spec_from_file_location("configuration", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_page_of_all_keys_is_true(page):
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "make tables"


def test_every_key_has_a_line_that_says_what_it_is(page):
    rows = [line.strip("| ").rsplit("|", 1) for line in page.splitlines() if "| `" in line[:3]]
    keys = [row for row in rows if "." in row[0].split("|")[0]]
    assert len(keys) > 70
    assert not [row[0] for row in keys if len(row[1]) < 8]
