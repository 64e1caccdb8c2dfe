"""Prints the table of `experiments/healing.md`: recipes by layers dropped, means over seeds.

    python tools/recipes_table.py outputs/recipes [--task facts]

Accuracy and loss are means over seeds. The interval is what the seeds span, where there are
several; the questions' own standard error stands below the table. Seconds count training
alone, as medians over steps, plus what a recipe computes before its first step.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerprune.record.healing import Healing
from layerprune.record.point import Point
from layerprune.record.store import Store

ORDER = ("none", "linear", "seam", "tail", "lora", "qlora", "full", "distill")


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--task", default="facts")
    options = parser.parse_args()
    groups: dict[tuple[int, str], list[Point]] = defaultdict(list)
    for point in _points(options.study):
        groups[point.num_dropped, point.recipe].append(point)
    print("| n | recipe | tokens | s | GiB | trained | held-out loss | accuracy % | seeds |")
    print("|--:|:--|--:|--:|--:|--:|--:|--:|--:|")
    for count, recipe in sorted(groups, key=lambda key: (key[0], ORDER.index(key[1]))):
        print(_row(count, recipe, groups[count, recipe], options.task))
    found = [point.accuracy(options.task).stderr for some in groups.values() for point in some]
    errors = [100 * stderr for stderr in found if stderr is not None]
    if errors:
        print(f"\nStandard error of an accuracy: {min(errors):.1f} to {max(errors):.1f}.")


def figures(study: Path, task: str = "facts") -> list[dict[str, Any]]:
    """Of each point: layers dropped, recipe, seed, seconds, parameters trained, loss, accuracy.

    Seconds and parameters are None where nothing was healed. In the order of the table.
    """
    points = sorted(_points(study), key=lambda each: (each.num_dropped, ORDER.index(each.recipe)))
    return [
        {
            "num_dropped": each.num_dropped,
            "recipe": each.recipe,
            "seed": each.seed,
            "seconds": each.healing and _seconds(each.healing),
            "trained": each.healing and each.healing.trainable_parameters,
            "nats": each.loss.nats,
            "accuracy": each.correct_share(task),
        }
        for each in points
    ]


def _points(study: Path) -> list[Point]:
    points, skipped = Store(study).points()
    if skipped:
        raise SystemExit(skipped[0])
    return points


def _row(count: int, recipe: str, points: Sequence[Point], task: str) -> str:
    accuracy = [100 * point.correct_share(task) for point in points]
    loss = [point.loss.nats for point in points]
    cells = [str(count), recipe, "", "", "", ""]
    healings = [point.healing for point in points if point.healing is not None]
    if healings:
        cells[2:] = [
            f"{healings[0].tokens / 1000:.1f}k",
            f"{statistics.mean(map(_seconds, healings)):.0f}",
            f"{statistics.mean(each.peak_memory_bytes for each in healings) / 2**30:.2f}",
            f"{healings[0].trainable_parameters / 1e6:.2f}M",
        ]
    cells += [_spread(loss, 3), _spread(accuracy, 1), str(len(points))]
    return f"| {' | '.join(cells)} |"


def _seconds(healing: Healing) -> float:
    steps = [step.seconds for step in healing.steps if step.seconds]
    if not steps:
        return healing.seconds
    return statistics.median(steps) * len(steps) + healing.prepare_seconds


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the least and the greatest where they differ."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if max(values) - min(values) < 10**-digits:
        return mean
    return f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
