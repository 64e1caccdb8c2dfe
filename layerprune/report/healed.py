"""Healed points as a table of texts: what healing cost, and what it gave."""

from collections.abc import Sequence

from layerprune.report.curves import JOINT, UNHEALED, Curve, Task
from layerprune.report.entry import Entry, Value
from layerprune.report.healing import Healing
from layerprune.report.texts import ARROW, TextTable


def make_healed(
    curves: Sequence[Curve], tasks: Sequence[Task], width: int | None = None
) -> TextTable | None:
    """The table; None if no point was healed.

    Before and after are the same layers dropped from the same model, asked the same questions.
    Where the table is wider than `width`, tokens per second and standard errors are left out.
    """
    table = _table(curves, tasks, wide=True)
    if table is not None and width is not None and table.width > width:
        return _table(curves, tasks, wide=False)
    return table


def _table(curves: Sequence[Curve], tasks: Sequence[Task], wide: bool) -> TextTable | None:
    points = [
        (curve, entry, entry.healing)
        for curve in curves
        for entry in curve.entries
        if entry.healing is not None
    ]
    if not points:
        return None
    before = {
        (entry.ground, entry.dropped): entry
        for curve in curves
        for entry in curve.entries
        if entry.heal == UNHEALED
    }
    asked = [
        task
        for task in tasks
        if task.parent is None and any(entry.accuracy(task.name) for _, entry, _ in points)
    ]
    names = _names({curve.first.curve_key: curve for curve, _, _ in points})
    rows = tuple(
        (
            names[entry.curve_key],
            str(entry.num_dropped),
            *_costs(healing, wide),
            f"{healing.before:.3f}{ARROW}{healing.after:.3f}",
            *(
                _change(before.get((entry.ground, entry.dropped)), entry, task, wide)
                for task in asked
            ),
        )
        for curve, entry, healing in points
    )
    alone = any(cell.startswith(ARROW.strip()) for row in rows for cell in row)
    recipes = all(names[entry.curve_key] == entry.heal for _, entry, _ in points)
    return TextTable(
        title="Healing",
        num_names=1,
        columns=(
            "recipe" if recipes else "curve",
            "n",
            "tokens",
            *(["tokens\n/ s"] if wide else []),
            "seconds",
            "memory\nGiB",
            "trained",
            "held-out loss\nbefore → after",
            *(f"{task.name} %\nbefore → after" for task in asked),
        ),
        rows=rows,
        note=_note(
            [(names[entry.curve_key], entry, healing) for curve, entry, healing in points],
            asked,
            alone,
        ),
    )


def _names(curves: dict[str, Curve]) -> dict[str, str]:
    """A name for each healed curve: its recipe, or its label where recipes are not enough."""
    recipes = {curve.first.heal for curve in curves.values()}
    alike = len({(curve.first.model, curve.mark) for curve in curves.values()}) == 1
    if alike and len(recipes) == len(curves):
        return {key: curve.first.heal for key, curve in curves.items()}
    # A label has the recipe only where the study's curves differ in it.
    return {
        key: curve.label
        if curve.first.heal in curve.label.split(JOINT)
        else f"{curve.label}{JOINT}{curve.first.heal}"
        for key, curve in curves.items()
    }


def _costs(healing: Healing, wide: bool) -> list[str]:
    speed = f"{healing.tokens / healing.seconds:,.0f}" if healing.seconds else ""
    return [
        short(healing.tokens),
        *([speed] if wide else []),
        f"{healing.seconds:,.0f}" if healing.seconds >= 100 else f"{healing.seconds:,.1f}",
        "" if healing.peak_memory_bytes is None else f"{healing.peak_memory_bytes / 2**30:.2f}",
        short(healing.trainable_parameters),
    ]


def short(count: int) -> str:
    """A count in four digits or so: `9,999`, `327.7k`, `4.42M`."""
    if count < 10_000:
        return f"{count:,}"
    for size, digits, letter in ((10**6, 1, "k"), (10**9, 2, "M")):
        if (said := round(count / size * 1000, digits)) < 1000:
            return f"{said:.{digits}f}{letter}"
    return f"{count / 10**9:,.2f}G"


def _change(before: Entry | None, after: Entry, task: Task, errors: bool) -> str:
    now = after.accuracy(task.name)
    if now is None:
        return ""
    then = None if before is None else before.accuracy(task.name)
    return f"{_said(then, errors)}{ARROW}{_said(now, errors)}".strip()


def _said(value: Value | None, errors: bool) -> str:
    if value is None:
        return ""
    stderr = f" ± {100 * value.stderr:.1f}" if errors and value.stderr is not None else ""
    return f"{100 * value.value:.1f}{stderr}"


def _note(points: Sequence[tuple[str, Entry, Healing]], asked: Sequence[Task], alone: bool) -> str:
    """What the columns are; `alone` where a healed point has none to compare with."""
    sizes = sorted({entry.loss.num_sequences for _, entry, _ in points})
    said = [
        "tokens: of healing text. seconds: of healing alone, without measuring. memory: the most "
        "that was held meanwhile. trained: parameters. held-out loss: "
        f"nats per token on {' or '.join(map(str, sizes))} sequences.",
    ]
    if asked:
        said.append("%: accuracy with the same layers dropped, not healed → healed.")
    if alone:
        said.append("Nothing before an arrow: the study has no such point that is not healed.")
    details: dict[str, list[str]] = {}
    for name, entry, healing in points:
        if healing.details:
            pairs = ", ".join(f"{key} {value}" for key, value in healing.details.items())
            details.setdefault(name, []).append(f"n={entry.num_dropped} {pairs}")
    said += [f"{name}: {'; '.join(each)}." for name, each in details.items()]
    return " ".join(said)
