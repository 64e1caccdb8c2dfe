"""Draw Vega-Lite specifications. Worker processes import this module: it imports little."""

import base64
import io
import re
import signal
from typing import Any, NamedTuple

import vl_convert
from PIL import Image as Pixels

from layerprune.config.schema import FigureWidth
from layerprune.report.figures.print_size import column_spec

MAX_SVG = 100_000
"""Characters of an SVG that is put into the page; a longer one is replaced by a smaller PNG."""

MAX_PIXELS = 1_000_000
"""Area of a picture whose PNG has double resolution."""

PALETTE = 128
"""Colours of a PNG in the page."""


class Image(NamedTuple):
    """A drawn figure."""

    svg: str
    png: bytes
    pdf: bytes
    data_uri: str
    """For a page: the SVG, or a PNG of few colours where this is smaller."""


def ignore_interrupts() -> None:
    """Leave Ctrl-C, which reaches all processes, to the main one: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def render(spec: dict[str, Any], version: str, width: FigureWidth) -> Image:
    """Return a drawn specification of a `version` of Vega-Lite."""
    svg = svg_of(column_spec(spec) if width is FigureWidth.column else spec, version)
    sharp = _area(svg) <= MAX_PIXELS
    png = vl_convert.svg_to_png(svg, scale=2 if sharp else 1)
    if len(svg) > MAX_SVG:
        kind, content = "png", _small(png, halved=sharp)
    else:
        kind, content = "svg+xml", svg.encode()
    data_uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Image(svg, png, vl_convert.svg_to_pdf(svg), data_uri)


def svg_of(spec: dict[str, Any], version: str) -> str:
    """Return the SVG of a specification; it does not depend on what was drawn before."""
    return _renumbered(vl_convert.vegalite_to_svg(spec, vl_version=version))


def javascript_bundle(version: str) -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, from the wheel of vl-convert."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    # This would end the page's script element; in a JavaScript string, `<\\/` means the same.
    return bundle.replace("</script", "<\\/script")


def _area(svg: str) -> float:
    size = re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg)
    assert size is not None
    return float(size[1]) * float(size[2])


def _small(png: bytes, halved: bool) -> bytes:
    out = io.BytesIO()
    with Pixels.open(io.BytesIO(png)) as image:
        opaque = image.convert("RGB")
    (opaque.reduce(2) if halved else opaque).quantize(PALETTE).save(out, "png")
    return out.getvalue()


def _renumbered(svg: str) -> str:
    """Return `svg` with gradients and clips counted from 0: Vega counts on between pictures."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{numbers.setdefault(match[2] + match[3], len(numbers))}"

    return re.sub(r'(id="|url\(#)(gradient_|clip)(\d+)', number, svg)
