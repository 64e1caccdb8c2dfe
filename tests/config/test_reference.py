"""The pages of all keys, and of what stands in files."""

import re
from pathlib import Path

import pytest
from scripts import script

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def page():
    """What the script that writes it has to say; experiments are no package."""
    return script("configuration").page()


def test_the_page_of_all_keys_is_true(page):
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "make tables"


def test_every_key_has_a_line_that_says_what_it_is(page):
    rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| `")]
    keys = [row for row in rows if "." in row[1]]
    assert len(keys) > 70
    assert not [row[1] for row in keys if len(row[4].strip()) < 8]


def test_the_page_of_files_is_true():
    assert (ROOT / "docs" / "records.md").read_text() == script("records").page(), "make tables"
