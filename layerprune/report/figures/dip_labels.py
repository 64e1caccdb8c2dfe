"""Labels of the dips of curves, placed where they cover no line, error bar or other label."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

from layerprune.report.figures import theme
from layerprune.report.figures.curve_data import Datum, point_rows

Place = tuple[float, float]
"""Pixels from the left and from the top of a panel."""

Line = tuple[Place, Place]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

CHARACTER, TEXT_HEIGHT = 6.0, 11.0
"""Pixels of a label's text, whose font has 11 pixels."""

CLEARANCE = 2.0
"""Pixels between a label and anything else."""

DOT = 6.0
"""Radius in pixels that a dot needs."""

DIRECTIONS = ((0, 1), (1, 1), (-1, 1), (1, 0), (-1, 0), (1, -1), (-1, -1), (0, -1))
"""Places of a label relative to its dot, to the right and downward: below a dip is free most
often."""

GAPS = (4, 10, 16, 22, 28, 34, 40)
"""Pixels between a dot and its label; the smallest that is free is used."""


def dip_rows(
    data: Sequence[Datum],
    dips: Mapping[str, Sequence[int]],
    fractions: Sequence[float],
    values: Sequence[float],
) -> list[Datum]:
    """Return a row for the label of each curve that dips, at the dip that recovers most.

    `dips` are the numbers of layers removed by the label of each curve; `fractions` and `values`
    are the domains of the two axes. `dx` and `dy` of a row are the pixels from the dot to the
    middle of its label. A label that would cover something at every place is left out.
    """

    def place(fraction: float, value: float) -> Place:
        (left, right), (bottom, top) = fractions, values
        across, up = (fraction - left) / (right - left), (value - bottom) / (top - bottom)
        return across * theme.WIDTH, (1 - up) * theme.HEIGHT

    points = point_rows(data)
    lines, boxes = list(_lines(data, place)), list(_boxes(data, place))
    rows = []
    for curve, counts in dips.items():
        own = [row for row in points if row["curve"] == curve]
        dips_of_curve = [row for row in own if row["layers_dropped"] in counts]
        if not dips_of_curve:
            continue
        deepest = max(dips_of_curve, key=partial(_recovery, own))
        label = f"dip at n = {deepest['layers_dropped']}"
        dot = place(deepest["fraction"], deepest["value"])
        for dx, dy in _offsets(len(label) * CHARACTER):
            box = _box((dot[0] + dx, dot[1] + dy), len(label) * CHARACTER)
            if _free(box, lines, boxes):
                boxes.append(box)
                names = {name: deepest[name] for name in ("panel", "curve", "hue", "mark")}
                at = {name: deepest[name] for name in ("fraction", "value")}
                rows.append({"kind": "dip", **names, **at, "label": label, "dx": dx, "dy": dy})
                break
    return rows


def _recovery(curve: Sequence[Datum], dip: Datum) -> float:
    """Return the accuracy that a curve regains after a dip."""
    later = (row["value"] for row in curve if row["fraction"] > dip["fraction"])
    return float(max(later, default=dip["value"]) - dip["value"])


def _offsets(width: float) -> Iterator[Place]:
    """Yield offsets from a dot to the middle of its label, the nearest first."""
    for gap in GAPS:
        for across, down in DIRECTIONS:
            sideways = across * (width / 2 + (gap if down == 0 else 0))
            yield sideways, down * (DOT + gap + TEXT_HEIGHT / 2)


def _lines(data: Sequence[Datum], place: Callable[[float, float], Place]) -> Iterator[Line]:
    """Yield the lines between dots, the error of each dot, and the dashed lines."""
    curves = defaultdict(list)
    for row in point_rows(data):
        dot = place(row["fraction"], row["value"])
        if row["joined"]:
            curves[row["curve"]].append(dot)
        if row["error"] != "none":
            middle = row["bar"] if row["error"] == "bar" else row["fraction"]
            yield place(middle, row["low"]), place(middle, row["high"])
    for dots in curves.values():
        yield from pairwise(dots)
    for row in data:
        if row["kind"] != "point":
            _, height = place(0, row["value"])
            yield (0, height), (theme.WIDTH, height)


def _boxes(data: Sequence[Datum], place: Callable[[float, float], Place]) -> Iterator[Box]:
    """Yield the boxes of the dots, and of the labels that a figure has already."""
    for row in data:
        if row["kind"] == "point":
            left, top = place(row["fraction"], row["value"])
            yield left - DOT, top - DOT, left + DOT, top + DOT
            if row["lone"]:
                width = len(row["lone"]) * CHARACTER
                yield _box((left + 8 + width / 2, top), width)
        elif row["label"]:
            _, height = place(0, row["value"])
            width = len(row["label"]) * CHARACTER
            if row["kind"] == "chance":
                yield _box((4 + width / 2, height + 10), width)
            else:
                yield _box((theme.WIDTH - 2 - width / 2, height - 9), width)


def _box(middle: Place, width: float) -> Box:
    left, top = middle[0] - width / 2, middle[1] - TEXT_HEIGHT / 2
    return left, top, left + width, top + TEXT_HEIGHT


def _free(box: Box, lines: Iterable[Line], boxes: Iterable[Box]) -> bool:
    """Return True if a label's box is within the panel and touches nothing."""
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > theme.WIDTH or bottom > theme.HEIGHT:
        return False
    wider = left - CLEARANCE, top - CLEARANCE, right + CLEARANCE, bottom + CLEARANCE
    return not (
        any(_crosses(line, wider) for line in lines)
        or any(
            wider[0] < other[2] and other[0] < wider[2]
            and wider[1] < other[3] and other[1] < wider[3]
            for other in boxes
        )
    )  # fmt: skip


def _crosses(line: Line, box: Box) -> bool:
    """Return True if a part of the line is within the box (Liang and Barsky's clipping)."""
    start, end = 0.0, 1.0
    for axis in (0, 1):
        first, step = line[0][axis], line[1][axis] - line[0][axis]
        low, high = box[axis] - first, box[axis + 2] - first
        if step == 0:
            if low > 0 or high < 0:
                return False
            continue
        near, far = sorted((low / step, high / step))
        start, end = max(start, near), min(end, far)
    return start <= end
