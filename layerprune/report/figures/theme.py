"""Colours, sizes and fonts of all figures."""

from collections.abc import Sequence
from typing import Any

# Okabe and Ito, "Color Universal Design" (2008): distinct for colour-blind readers too. Darker ones
# come first; yellow is too pale for lines on white.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5A4A00", "#000000")

DENSE = "#333333"
CHANCE = "#8a8a8a"
LABEL = "#666666"
REMAINING = "#e6e6e6"
"""Layers that are not removed."""
BACKGROUND = "#ffffff"
"""Also the colour of gaps between marks."""
HIGHLIGHT = "#d62728"

_AXIS, _GRID, _TEXT, _SUBTITLE = "#888888", "#ececec", "#333334", "#555555"

DARK = {
    DENSE: "#d5dade",
    CHANCE: "#8f979e",
    LABEL: "#a9b2ba",
    REMAINING: "#3a424a",
    BACKGROUND: "#1d2227",
    _AXIS: "#6d757d",
    _GRID: "#2e353c",
    _TEXT: "#d5dade",
    _SUBTITLE: "#a9b2ba",
    # Hues that are too dark on a dark page; yellow is good on black.
    "#0072B2": "#3d9fdc",
    "#5A4A00": "#F0E442",
    "#000000": "#ffffff",
}
"""Replacements for a dark page; all other colours stay."""

SOLID = [1, 0]
DASHED = [7, 4]
DOTTED = [2, 3]

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")

SIMILAR_TO_DIFFERENT = ["#fde725", "#5ec962", "#21918c", "#3b528b", "#440154"]
"""Viridis from its bright end: yellow for similar, as in the figures of Gromov et al."""

WIDTH = 640
HEIGHT = 360
"""Size of a figure with one panel, in pixels."""


def tints(bases: Sequence[str]) -> list[str]:
    """Return a colour for each name: one hue per different name, and tints of it for repeats."""
    distinct = list(dict.fromkeys(bases))
    colors = []
    for index, base in enumerate(bases):
        color = HUES[distinct.index(base) % len(HUES)]
        repeat, repeats = bases[:index].count(base), bases.count(base)
        share = 0.6 * repeat / max(1, repeats - 1)
        channels = (int(color[at : at + 2], 16) for at in (1, 3, 5))
        mixed = (round(channel + (255 - channel) * share) for channel in channels)
        colors.append("#" + "".join(f"{channel:02X}" for channel in mixed) if repeat else color)
    return colors


def vega_config() -> dict[str, Any]:
    """Return the `config` of a Vega-Lite specification."""
    return {
        "background": BACKGROUND,
        "font": "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif",
        "padding": 12,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": 12,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "gridColor": _GRID,
            "domainColor": _AXIS,
            "tickColor": _AXIS,
            "labelColor": _TEXT,
            "titleColor": _TEXT,
            "labelFlush": False,
            "labelSeparation": 8,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelColor": _TEXT,
            "titleColor": _TEXT,
            "labelLimit": 320,
            "symbolSize": 90,
            "symbolBaseFillColor": _TEXT,  # legends of shapes without colours
            "symbolBaseStrokeColor": _AXIS,
            "layout": {"top": {"direction": "vertical"}},  # side by side, long ones overlap
        },
        "header": {"labelFontSize": 13, "labelFontWeight": "bold", "labelColor": _TEXT},
        "title": {
            "anchor": "start",
            "color": _TEXT,
            "frame": "group",
            "fontSize": 16,
            "subtitleFontSize": 12.5,
            "subtitleColor": _SUBTITLE,
            "subtitlePadding": 5,
            "offset": 12,
        },
        "concat": {"spacing": 28},
    }
