"""The size of a figure's files: for a page, or for one column of a paper."""

import copy
import textwrap
from collections.abc import Iterator
from typing import Any

COLUMN = 320
"""Width of a panel, in pixels. With axes and margins the picture has some 400, which are 3.3 inches
in a column of a paper: 12 pixels of a label are then 7 points."""

HALF = 140
"""Width of one of two panels side by side."""

HEIGHT = 200

TITLE, SUBTITLE, HEADER = 38, 56, 18
"""Characters in a line above all panels, and above one of two panels side by side."""


def column_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a Vega-Lite specification that fits one column: panels are below each other."""
    spec = copy.deepcopy(spec)
    names = {row["panel"] for row in spec["data"]["values"]} if "facet" in spec else ()
    narrow = len(names) > 2 and max(map(len, names)) <= HEADER
    spec["columns"] = 2 if narrow else 1  # of panels; a single one ignores it
    for panel in _views(spec):
        if "width" in panel:
            square = panel["height"] > 0.9 * panel["width"]
            panel["width"] = COLUMN if spec["columns"] == 1 else HALF
            panel["height"] = COLUMN if square else min(panel["width"], HEIGHT, panel["height"])
    title = spec.get("title")
    if isinstance(title, dict):
        subtitle = title.get("subtitle", [])
        lines = [subtitle] if isinstance(subtitle, str) else subtitle
        title["text"] = textwrap.wrap(title["text"], TITLE)
        title["subtitle"] = [part for line in lines for part in textwrap.wrap(line, SUBTITLE)]
    for legend in _legends(spec):
        longest = max([len(str(value)) for value in legend.get("values", [])], default=0)
        legend["columns"] = max(1, (COLUMN // 7 - 2) // (longest + 5))
        legend["titleOrient"] = "top"
        legend["labelLimit"] = COLUMN
        legend["gradientLength"] = min(legend.get("gradientLength", COLUMN), COLUMN - 40)
        legend["titleLimit"] = COLUMN
    return spec


def _views(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a specification and those inside it."""
    yield spec
    for part in (*spec.get("concat", ()), *spec.get("layer", ())):
        yield from _views(part)
    if isinstance(spec.get("spec"), dict):
        yield from _views(spec["spec"])


def _legends(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for view in _views(spec):
        for channel in view.get("encoding", {}).values():
            if isinstance(channel, dict) and isinstance(channel.get("legend"), dict):
                yield channel["legend"]
