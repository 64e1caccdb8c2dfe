"""The front of size and accuracy, against a look at every pair of points."""

import random

import pytest
from scripts import script
from studies import Maker

from layerprune.record.store import Store


@pytest.fixture(scope="module")
def pareto():
    """The script; experiments are no package."""
    return script("pareto")


def naive(points):
    """A point is on the front if no other is at least as good in both and better in one."""

    def beaten(size, accuracy):
        return any(
            other_size <= size and other >= accuracy and (other_size, other) != (size, accuracy)
            for other_size, other in points
        )

    return [not beaten(*point) for point in points]


def test_the_front_is_what_no_other_point_beats(pareto):
    dice = random.Random(0)
    for _ in range(500):
        # Few values: most points have a tie in size, in accuracy or in both.
        points = [
            pareto.Sized(dice.randrange(6), dice.randrange(6) / 5) for _ in range(dice.randrange(9))
        ]
        assert pareto.front(points) == naive(points), points


def test_a_study_becomes_a_table_and_a_figure(pareto, monkeypatch, capsys, tmp_path):
    maker = Maker(tmp_path / "study")
    maker.curve(counts=(0, 2, 4), write=False)
    for at, size in enumerate((4_000_000, 3_000_000, 3_000_000)):
        with maker.editing(at) as content:
            content["model"]["weight_bytes"] = size
        Store(maker.study).write(maker.made[at])
    monkeypatch.setattr(pareto, "FIGURE", tmp_path / "figures" / "pareto.png")
    monkeypatch.setattr("sys.argv", ["pareto.py", str(maker.study)])
    pareto.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[1], row[3], row[-1].strip(" |")) for row in rows] == [
        ("4", "3.0", ""), ("2", "3.0", "*"), ("0", "4.0", "*"),
    ]  # fmt: skip
    assert pareto.FIGURE.read_bytes().startswith(b"\x89PNG")
