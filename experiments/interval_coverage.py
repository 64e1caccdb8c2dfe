"""Simulate how often the intervals of critical fractions hold the truth of all depths.

    python experiments/interval_coverage.py [--draws 1000]

Writes the table of docs/statistics.md. Takes 20 minutes on two busy cores.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes, one thread each

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from simulated_answers import SimulatedModel, coverage  # noqa: E402 - the tests' models

PAGE = ROOT / "docs" / "statistics.md"

START, END = "<!-- interval_coverage.py -->\n", "<!-- end -->\n"

SETTINGS = (
    # model, questions, points
    (SimulatedModel(10, known=0.75, centre=0.40, width=0.15), 100, 10),
    (SimulatedModel(30, known=0.50, centre=0.30, width=0.15), 250, 30),
    (SimulatedModel(30, known=0.75, centre=0.35, width=0.30), 200, 30),
    (SimulatedModel(40, known=0.75, centre=0.30, width=0.03), 1000, 40),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10), 711, 15),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10), 711, 10),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10), 711, 6),
    (SimulatedModel(30, known=0.75, centre=0.25, width=0.06), 250, 6),
    (SimulatedModel(30, known=0.30, centre=0.25, width=0.06), 300, 6),
    (SimulatedModel(40, known=0.75, centre=0.30, width=0.03), 1000, 8),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10, dip=8), 711, 30),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10, dip=8), 711, 10),
    (SimulatedModel(30, known=0.70, centre=0.25, width=0.10, dip=4), 711, 10),
)

HEAD = """\
| questions | layers | points | known | centre, width | dip at n | critical | same answers | its median length | sharpness | left at 20 % |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""  # noqa: E501


def row(setting: tuple[SimulatedModel, int, int], num_draws: int) -> str:
    """Return a line of the table."""
    model, num_questions, num_points = setting
    held = coverage(model, num_questions, num_points, num_draws)
    return (
        f"| {num_questions:,} | {model.num_layers} | {num_points} | {model.known:.2f} | "
        f"{model.centre:.2f}, {model.width:.2f} | {model.dip or ''} | {held['critical']:.1%} | "
        f"{held['same answers']:.1%} | {held['length']:.3f} | {held['sharpness']:.1%} | "
        f"{held['left']:.1%} |\n"
    ).replace("%", " %")


def main() -> None:
    """Simulate every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="simulations of each row")
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(partial(row, num_draws=options.draws), SETTINGS))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    said = f"{options.draws:,} simulations of each row:\n\n"
    page = f"{before}{START}{said}{HEAD}{''.join(rows)}{END}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
