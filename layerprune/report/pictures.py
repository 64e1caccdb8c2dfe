"""Figures as pictures, drawn beside other work."""

import base64
import functools
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import vl_convert
from PIL import Image

from layerprune.report.figures import VEGA_LITE, Figure

MOST_SVG = 100_000
"""Characters of a picture that stands in the page as SVG; of more, a PNG takes less room."""

PALETTE = 128
"""Colours of such a PNG."""

MOST_PIXELS = 2_000_000
"""Of a picture that is drawn in double resolution as PNG."""


@dataclass(frozen=True)
class Picture:
    """One figure, drawn."""

    figure: Figure
    svg: str
    png: bytes
    still: str
    """As data URI for a page."""


@dataclass(frozen=True)
class Drawing:
    """What is being drawn; each is waited for when it is asked for."""

    _pictures: list[Future[Picture]]
    _bundle: Future[str]

    def pictures(self) -> Iterator[Picture]:
        """The figures in their order."""
        for picture in self._pictures:
            yield picture.result()

    def bundle(self) -> str:
        """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
        return self._bundle.result()


@contextmanager
def drawing(figures: Iterable[Figure]) -> Iterator[Drawing]:
    """Draw meanwhile: vl-convert lets Python go on, though it draws one thing at a time."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        bundle = thread.submit(_javascript_bundle)
        yield Drawing([thread.submit(picture_of, figure) for figure in figures], bundle)


def picture_of(figure: Figure) -> Picture:
    """The figure as SVG and PNG."""
    svg = figure.svg()
    sharp = _pixels(svg) <= MOST_PIXELS
    png = vl_convert.svg_to_png(svg, scale=2 if sharp else 1)
    if len(svg) <= MOST_SVG:
        return Picture(figure, svg, png, _uri("image/svg+xml", svg.encode()))
    small = vl_convert.svg_to_png(svg, scale=1) if sharp else png
    return Picture(figure, svg, png, _uri("image/png", _in_few_colours(small)))


def _pixels(svg: str) -> float:
    found = re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg)
    assert found is not None
    return float(found[1]) * float(found[2])


def _in_few_colours(png: bytes) -> bytes:
    """The same picture in a palette, which takes a quarter of the room."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(PALETTE).save(out, "png")
    return out.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _javascript_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    # Inside a script element this would end it; in JavaScript's texts `<\\/` is the same.
    return bundle.replace("</script", "<\\/script")
