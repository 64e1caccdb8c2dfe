"""Pictures of lab notes: sharp, and small enough to be kept with the text."""

import io
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from PIL import Image

from layerprune.report.figures import theme
from layerprune.report.figures.figure import VEGA_LITE
from layerprune.report.figures.render import svg_of
from layerprune.runtime.atomic_files import replacing

PALETTE = 256
"""Colours of a picture: few make it small."""


def write(path: Path, chart: alt.TopLevelMixin) -> None:
    """Draw a chart in this project's style, as PNG."""
    spec: dict[str, Any] = {**chart.to_dict(), "config": theme.vega_config()}
    with replacing(path) as beside:
        beside.write_bytes(small(svg_of(spec, VEGA_LITE)))


def small(svg: str) -> bytes:
    """A picture as PNG in double resolution."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=2))) as image:
        image.convert("RGB").quantize(PALETTE).save(out, "png", optimize=True)
    return out.getvalue()
