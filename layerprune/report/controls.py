"""What a reader can switch on and off in all figures at once."""

from collections.abc import Sequence
from html import escape

from layerprune.report.curves import UNHEALED, Curve

DIMENSIONS = ("model", "metric", "strategy", "recipe", "seed")


def facts_of(curve: Curve) -> dict[str, str]:
    """What a curve is, in each of `DIMENSIONS`."""
    first = curve.first
    recipe = first.heal if first.heal != UNHEALED else "not healed"
    values = (first.model, first.metric, first.strategy, recipe, str(first.seed))
    return dict(zip(DIMENSIONS, values, strict=True))


def controls(curves: Sequence[Curve]) -> str:
    """A set of boxes for each dimension that varies, as HTML; nothing if none does.

    It is hidden until the page's script runs, without which it would do nothing.
    """
    facts = [facts_of(curve) for curve in curves]
    sets = [
        _boxes(name, values)
        for name in DIMENSIONS
        if len(values := list(dict.fromkeys(each[name] for each in facts))) > 1
    ]
    if not sets:
        return ""
    return f"""<form id="controls" aria-label="Shown in all figures" hidden>
{"".join(sets)}<p><button type="reset">All</button> <output aria-live="polite"></output></p>
</form>
"""


def _boxes(name: str, values: Sequence[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="{name}" value="{escape(value)}" checked>'
        f"<span>{escape(value)}</span></label>\n"
        for value in values
    )
    return f"<fieldset>\n<legend>{name}</legend>\n{boxes}</fieldset>\n"
