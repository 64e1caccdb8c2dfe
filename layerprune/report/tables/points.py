"""Every point of a study in tables: a row for each depth, a block of columns for each curve."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from layerprune.analysis.curves import Curve, Task
from layerprune.record.point import Point, layer_ranges
from layerprune.record.scores import Measure
from layerprune.report.tables.text_table import LAYERS, TextTable


def point_tables(curves: Sequence[Curve], tasks: Sequence[Task], width: int) -> list[TextTable]:
    """Return tables of all points; curves of one model and benchmark share one within `width`."""
    groups: dict[str, list[Curve]] = defaultdict(list)
    for curve in curves:
        groups[curve.first.comparison_key].append(curve)
    heads = [task for task in tasks if task.parent is None]
    tables = []
    for group in groups.values():
        side_by_side: list[Curve] = []
        for curve in group:
            if side_by_side and _table([*side_by_side, curve], heads).width > width:
                tables.append(_table(side_by_side, heads))
                side_by_side = []
            side_by_side.append(curve)
        tables.append(_table(side_by_side, heads))
    # A note that several tables in a row share stands under the last of them.
    notes = [*(table.note for table in tables[1:]), ""]
    return [
        replace(table, note="") if table.note == following else table
        for table, following in zip(tables, notes, strict=True)
    ]


def accuracy_cell(point: Point | None, task: str, errors: bool = True) -> str:
    """Return an accuracy in percent with its standard error, `45.0 ± 5.0`; empty without one."""
    value = None if point is None else point.accuracy(task)
    return "" if value is None else in_percent(value, errors)


def in_percent(value: Measure, errors: bool = True) -> str:
    """Return a measure of shares with its standard error, if it has one, without the sign."""
    stderr = f" ± {100 * value.stderr:.1f}" if errors and value.stderr is not None else ""
    return f"{100 * value.value:.1f}{stderr}"


def _table(curves: Sequence[Curve], heads: Sequence[Task]) -> TextTable:
    first = curves[0].first
    tasks = [
        task
        for task in heads
        if any(task.name in point.task_scores for curve in curves for point in curve.points)
    ]
    # By number of layers, and by the place among a curve's points with that number: layers named by
    # the user can be different ones of the same number.
    points: dict[tuple[int, int], dict[int, Point]] = defaultdict(dict)
    for index, curve in enumerate(curves):
        repeats: dict[int, int] = defaultdict(int)
        for point in curve.points:
            points[point.num_dropped, repeats[point.num_dropped]][index] = point
            repeats[point.num_dropped] += 1
    rows = []
    for (num_dropped, _), row in sorted(points.items(), key=lambda item: item[0]):
        fraction = next(iter(row.values())).plan.fraction
        cells = [cell for index in range(len(curves)) for cell in _cells(row.get(index), tasks)]
        rows.append((f"{fraction:.1%}", str(num_dropped), *cells))
    columns = (LAYERS, *(f"{task.name} %" for task in tasks), "loss", "/ ln V")
    names = tuple(curve.short for curve in curves)
    return TextTable(
        title=first.model.name if len(curves) > 1 else f"{first.model.name}: {names[0]}",
        num_names=0,
        columns=("fraction", "n", *columns * len(curves)),
        rows=tuple(rows),
        note=_note(first, tasks),
        blocks=names,
    )


def _cells(point: Point | None, tasks: Sequence[Task]) -> list[str]:
    if point is None:
        return [""] * (len(tasks) + 3)
    return [
        layer_ranges(point.plan.dropped),
        *(accuracy_cell(point, task.name) for task in tasks),
        f"{point.loss.nats:.3f}",
        f"{point.loss.normalised:.3f}",
    ]


def _note(first: Point, tasks: Sequence[Task]) -> str:
    sentences = []
    for task in tasks:
        answers = first.task_scores.get(task.name)
        if answers is not None:
            chance = f", chance {answers.chance:.1%}" if answers.chance else ""
            sentences.append(
                f"{task.name}: accuracy ± standard error on {answers.num_samples:,} "
                f"questions{chance}."
            )
    sentences.append(
        f"loss: nats per token on {first.loss.num_sequences} held-out sequences; "
        "/ ln V: 1 is chance."
    )
    return " ".join(sentences)
