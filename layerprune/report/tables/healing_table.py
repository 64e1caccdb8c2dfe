"""Healed points as a table: cost and recovery."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from layerprune.analysis.curves import JOINT, UNHEALED, Curve, Task
from layerprune.record.healing import OWN_TOKENS, Healing
from layerprune.record.point import Point
from layerprune.report.tables.points import accuracy_cell
from layerprune.report.tables.text_table import ARROW, TextTable, fitting, table_of


def make_healing_table(
    curves: Sequence[Curve], tasks: Sequence[Task], width: int | None = None
) -> TextTable | None:
    """Return the table; None if no point was healed.

    Before and after are the same layers removed from the same model, on the same questions.
    Where the table is wider than `width`, tokens per second and standard errors are left out.
    """
    return fitting(partial(_table, curves, tasks), width)


def _table(curves: Sequence[Curve], tasks: Sequence[Task], wide: bool) -> TextTable | None:
    points = [
        (curve, point, point.healing)
        for curve in curves
        for point in curve.points
        if point.healing is not None
    ]
    if not points:
        return None
    unhealed = {
        (point.comparison_key, point.plan.dropped): point
        for curve in curves
        for point in curve.points
        if point.recipe == UNHEALED
    }
    tasks = [
        task
        for task in tasks
        if task.parent is None and any(point.accuracy(task.name) for _, point, _ in points)
    ]
    names = _names({curve.first.curve_key: curve for curve, _, _ in points})
    recipes = all(names[point.curve_key] == point.recipe for _, point, _ in points)

    def cells(point: Point, healing: Healing) -> Iterator[tuple[str, str]]:
        before = unhealed.get((point.comparison_key, point.plan.dropped))
        seconds, memory = healing.seconds, healing.peak_memory_bytes
        yield "recipe" if recipes else "curve", names[point.curve_key]
        yield "n", str(point.num_dropped)
        yield "tokens", short(healing.tokens)
        if wide:
            yield "tokens\n/ s", f"{healing.tokens / seconds:,.0f}" if seconds else ""
        yield "seconds", f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:,.1f}"
        yield "memory\nGiB", "" if memory is None else f"{memory / 2**30:.2f}"
        yield "trained", short(healing.trainable_parameters)
        losses = f"{healing.heldout_before:.3f}{ARROW}{healing.heldout_after:.3f}"
        yield "held-out loss\nbefore → after", losses
        for task in tasks:
            was, now = (accuracy_cell(one, task.name, wide) for one in (before, point))
            yield f"{task.name} %\nbefore → after", f"{was}{ARROW}{now}".strip() if now else ""

    table = table_of(
        "Cost and recovery of healing", 1, (cells(point, healing) for _, point, healing in points)
    )
    unpaired = any(cell.startswith(ARROW.strip()) for row in table.rows for cell in row)
    named = [(names[point.curve_key], point, healing) for _, point, healing in points]
    return replace(table, note=_note(named, bool(tasks), unpaired))


def _names(curves: dict[str, Curve]) -> dict[str, str]:
    """Return a name for each healed curve: its recipe, or its label where recipes repeat."""
    recipes = {curve.first.recipe for curve in curves.values()}
    alike = len({(curve.first.model.name, curve.mark) for curve in curves.values()}) == 1
    if alike and len(recipes) == len(curves):
        return {key: curve.first.recipe for key, curve in curves.items()}
    # A label has the recipe only where the study's curves differ in it.
    return {
        key: curve.label
        if curve.first.recipe in curve.label.split(JOINT)
        else f"{curve.label}{JOINT}{curve.first.recipe}"
        for key, curve in curves.items()
    }


def short(count: int) -> str:
    """Return a count in about four digits: `9,999`, `327.7k`, `4.42M`."""
    if count < 10_000:
        return f"{count:,}"
    for size, digits, letter in ((10**6, 1, "k"), (10**9, 2, "M")):
        if (rounded := round(count / size * 1000, digits)) < 1000:
            return f"{rounded:.{digits}f}{letter}"
    return f"{count / 10**9:,.2f}G"


def _note(points: Sequence[tuple[str, Point, Healing]], with_tasks: bool, unpaired: bool) -> str:
    """Return the meaning of the columns, and each recipe's own numbers.

    `unpaired` says that a healed point has no unhealed one to compare with.
    """
    sizes = sorted({point.loss.num_sequences for _, point, _ in points})
    lines = [
        "tokens: of the healing text. seconds: healing alone, without evaluation. memory: the "
        "peak during healing. trained: trainable parameters. held-out loss: nats per token on "
        f"{' or '.join(map(str, sizes))} sequences.",
    ]
    if with_tasks:
        lines.append("%: accuracy with the same layers removed, not healed → healed.")
    if unpaired:
        lines.append("No number before an arrow: the study lacks this point without healing.")
    details: dict[str, list[str]] = {}
    together: dict[tuple[str, range], list[float]] = {}
    for name, point, healing in points:
        if healing.together is not None:
            own = together.setdefault((name, healing.together), [])
            own.append(healing.details[OWN_TOKENS])
        elif healing.details:
            pairs = ", ".join(f"{key} {value:.4g}" for key, value in healing.details.items())
            details.setdefault(name, []).append(f"n={point.num_dropped} {pairs}")
    lines += [f"{name}: {'; '.join(numbers)}." for name, numbers in details.items()]
    for (name, counts), own in together.items():
        tokens = " to ".join(dict.fromkeys(short(int(count)) for count in (min(own), max(own))))
        lines.append(
            f"{name}: one training for {counts[0]} to {counts[-1]} layers removed, each on "
            f"{tokens} of its tokens; tokens, seconds and memory count the whole training."
        )
    return " ".join(lines)
