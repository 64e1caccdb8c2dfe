"""A `~` at the start of a path is the user's folder, wherever it is given."""

import pytest

from layerprune.config.compose import compose
from layerprune.config.overrides import expand_home

pytestmark = pytest.mark.quick


def test_every_path_of_the_configuration_knows_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = compose(
        'data.files=["~/a.txt"]', 'eval.include_path="~/tasks"', 'eval.datasets_dir="~/sets"',
        'runtime.outputs="~/out"',
    )  # fmt: skip
    assert config.data.files == ["/home/ada/a.txt"]
    assert config.eval.include_path == "/home/ada/tasks"
    assert config.eval.datasets_dir == "/home/ada/sets"
    assert config.runtime.outputs == "/home/ada/out"
    assert compose('data.hub="~/set"').data.hub == "/home/ada/set"


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("model.path=~/m", "model.path=/home/ada/m"),
        ("data.files=[~/a.txt,b~/c,~/d]", "data.files=[/home/ada/a.txt,b~/c,/home/ada/d]"),
        ('runtime.outputs="~/out"', 'runtime.outputs="/home/ada/out"'),
        ("~tracker", "~tracker"),
        ("study=a~b", "study=a~b"),
    ],
)
def test_a_path_on_the_command_line_needs_no_quotes(argument, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert expand_home(argument) == meant
