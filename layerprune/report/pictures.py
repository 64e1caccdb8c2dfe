"""Figures as pictures, drawn beside other work."""

import base64
import functools
import io
import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import vl_convert
from PIL import Image

from layerprune.report.figures import VEGA_LITE, Figure

MOST_SVG = 100_000
"""Characters of a picture that stands in the page as SVG; of more, a PNG takes less room."""

PALETTE = 128
"""Colours of such a PNG."""

MOST_PIXELS = 1_000_000
"""Of a picture that is drawn in double resolution as PNG."""


@dataclass(frozen=True)
class Picture:
    """One figure, drawn."""

    figure: Figure
    svg: str
    png: bytes
    still: str
    """As data URI for a page."""


class Drawing:
    """Draws figures meanwhile: vl-convert lets Python go on, though it does one thing at a time."""

    def __init__(self) -> None:
        self._vega = ThreadPoolExecutor(max_workers=1)
        self._pixels = ThreadPoolExecutor(max_workers=1)
        self._bundle = self._vega.submit(_javascript_bundle)

    def pictures(self, figures: Iterable[Figure]) -> list[Future[Picture]]:
        """The figures drawn, in their order, each as soon as it is there."""
        svgs = [(figure, self._vega.submit(figure.svg)) for figure in figures]
        return [self._pixels.submit(_picture, figure, svg) for figure, svg in svgs]

    def bundle(self) -> str:
        """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
        return self._bundle.result()

    def __enter__(self) -> "Drawing":
        return self

    def __exit__(self, *error: object) -> None:
        for thread in (self._vega, self._pixels):
            thread.shutdown(cancel_futures=True)


def _picture(figure: Figure, drawn: Future[str]) -> Picture:
    svg = drawn.result()
    sharp = _pixels(svg) <= MOST_PIXELS
    png = vl_convert.svg_to_png(svg, scale=2 if sharp else 1)
    if len(svg) <= MOST_SVG:
        return Picture(figure, svg, png, _uri("image/svg+xml", svg.encode()))
    return Picture(figure, svg, png, _uri("image/png", _small(png, halved=sharp)))


def _pixels(svg: str) -> float:
    found = re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg)
    assert found is not None
    return float(found[1]) * float(found[2])


def _small(png: bytes, halved: bool) -> bytes:
    """The same picture in few colours, which take a quarter of the room."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        plain = image.convert("RGB")
    (plain.reduce(2) if halved else plain).quantize(PALETTE).save(out, "png")
    return out.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _javascript_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    # Inside a script element this would end it; in JavaScript's texts `<\\/` is the same.
    return bundle.replace("</script", "<\\/script")
