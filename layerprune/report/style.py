"""How the figures look: colours that the colour-blind tell apart, sizes, fonts."""

from typing import Any

# Okabe and Ito, "Color Universal Design" (2008), the darker ones first; yellow is too pale for
# lines on white.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5A4A00", "#000000")

DENSE = "#333333"
CHANCE = "#8a8a8a"
KEPT = "#e6e6e6"
"""Of a layer that stays."""

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


def config() -> dict[str, Any]:
    """The part of a Vega-Lite specification that all figures share."""
    return {
        "background": "white",
        "font": _FONT,
        "padding": 12,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": 12,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "gridColor": "#ececec",
            "domainColor": "#888",
            "tickColor": "#888",
            "labelColor": "#333",
            "titleColor": "#333",
            "labelFlush": False,
            "labelSeparation": 8,
        },
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelColor": "#333",
            "titleColor": "#333",
            "labelLimit": 320,
            "symbolSize": 90,
        },
        "header": {"labelFontSize": 13, "labelFontWeight": "bold", "labelColor": "#333"},
        "title": {
            "anchor": "start",
            "frame": "group",
            "fontSize": 16,
            "subtitleFontSize": 12.5,
            "subtitleColor": "#555",
            "subtitlePadding": 5,
            "offset": 12,
        },
        "concat": {"spacing": 28},
    }
