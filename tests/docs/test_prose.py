"""What tools/prose.py finds in a page, and what it leaves alone."""

import pytest
from scripts import script

prose = script("prose")

pytestmark = pytest.mark.quick

PAGE = """# Those of a title

A first line that is fine,
and a second: those
of the model go on.

    python main.py  # those of a command

```python
x = "those of code"
```

| those of a table |
|:--|

<!-- table: written by make tables -->
Those of a command.
<!-- end -->

- An item, `those of code`, ![those of a picture](those of.png).
- [The color](color.md) of a link, and an `optimizer`.

    - Generation degrades, anew.
"""


def test_findings_have_their_lines():
    assert sorted(prose.findings(PAGE)) == [
        (1, '"Those of": repeat the noun'),
        (4, '"those of": repeat the noun'),
        (21, '"color": British spelling'),
        (23, '"anew": recomputed, retrained'),
    ]


@pytest.mark.parametrize("text", ["as much as it does", "the color", "in the mean of"])
def test_boundaries_of_phrases(text):
    assert len(list(prose.findings(text))) == (text == "the color")


def test_a_long_sentence_is_found_where_it_starts():
    short = "One two three. " * 20
    assert not list(prose.findings(f"{short}A {'word ' * 39}."))
    found = list(prose.findings(f"{short}\nA {'word ' * 40}."))
    assert found == [(2, "a sentence of 41 words: A word word word word word ...")]


def test_a_page_that_a_command_writes_is_left_out():
    assert not list(prose.findings("# Keys\n\nWritten by `make tables` from those of x.\n\nAnew."))


def test_status_and_output(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Fine.\n")
    assert prose.main([str(page)]) == 0
    page.write_text("Fine.\n\nA process a job.\n")
    assert prose.main([str(page)]) == 1
    assert capsys.readouterr().out == f'{page}:3: "A process a job": X per Y\n'
