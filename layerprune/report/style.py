"""How the figures look: colours that the colour-blind tell apart, sizes, fonts."""

from typing import Any

# Okabe and Ito, "Color Universal Design" (2008), the darker ones first; yellow is too pale for
# lines on white.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5A4A00", "#000000")

DENSE = "#333333"
CHANCE = "#8a8a8a"
SAID = "#666666"
"""Of words inside a figure."""
KEPT = "#e6e6e6"
"""Of a layer that stays."""
PAPER = "#ffffff"
"""Of what lies under a figure, and of gaps between marks."""
NEAREST = "#d62728"

_AXIS, _GRID, _WORDS, _SMALL = "#888888", "#ececec", "#333334", "#555555"

DARK = {
    DENSE: "#d5dade",
    CHANCE: "#8f979e",
    SAID: "#a9b2ba",
    KEPT: "#3a424a",
    PAPER: "#1d2227",
    _AXIS: "#6d757d",
    _GRID: "#2e353c",
    _WORDS: "#d5dade",
    _SMALL: "#a9b2ba",
    # Of the hues, those too dark to be seen there; yellow, too pale on white, is good on black.
    "#0072B2": "#3d9fdc",
    "#5A4A00": "#F0E442",
    "#000000": "#ffffff",
}
"""What each colour becomes on a page for dark screens; the rest stay as they are."""

DOTTED = [2, 3]
SOLID = [1, 0]
DASHED = [7, 4]

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")

NEAR_TO_FAR = ["#fde725", "#5ec962", "#21918c", "#3b528b", "#440154"]
"""Viridis from its bright end: yellow for alike, as in the figures of Gromov et al."""

WIDTH = 640
HEIGHT = 360
"""Of a figure with one panel, in pixels."""

_FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"


def config(stacked: bool) -> dict[str, Any]:
    """The part of a Vega-Lite specification that all figures share.

    Legends are `stacked` where there is no room for them in one line.
    """
    return {
        "background": PAPER,
        "font": _FONT,
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
            "labelColor": _WORDS,
            "titleColor": _WORDS,
            "labelFlush": False,
            "labelSeparation": 8,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelColor": _WORDS,
            "titleColor": _WORDS,
            "labelLimit": 320,
            "symbolSize": 90,
            # Of legends of shapes alone.
            "symbolBaseFillColor": _WORDS,
            "symbolBaseStrokeColor": _AXIS,
            "layout": {"top": {"direction": "vertical" if stacked else "horizontal"}},
        },
        "header": {"labelFontSize": 13, "labelFontWeight": "bold", "labelColor": _WORDS},
        "title": {
            "anchor": "start",
            "color": _WORDS,
            "frame": "group",
            "fontSize": 16,
            "subtitleFontSize": 12.5,
            "subtitleColor": _SMALL,
            "subtitlePadding": 5,
            "offset": 12,
        },
        "concat": {"spacing": 28},
    }
