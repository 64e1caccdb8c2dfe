"""A figure as SVG and as pixels. Runs in processes of its own, so it imports little."""

import io
import re
import signal
from typing import Any, NamedTuple

import vl_convert
from PIL import Image

MOST_SVG = 100_000
"""Characters of a picture that stands in the page as SVG; of more, a PNG takes less room."""

MOST_PIXELS = 1_000_000
"""Of a picture that is drawn in double resolution as PNG."""

PALETTE = 128
"""Colours of a PNG that stands in the page."""


class Rendered(NamedTuple):
    """One figure, drawn."""

    svg: str
    png: bytes
    small: bytes | None
    """The PNG in single resolution and few colours, where the SVG is large."""


def prepare() -> None:
    """What each process does first, before it has anything to draw."""
    # Ctrl-C reaches all processes: those that draw are ended by the one that waits for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def render(spec: dict[str, Any], version: str) -> Rendered:
    """The picture of a Vega-Lite specification, in every form."""
    svg = svg_of(spec, version)
    sharp = _area(svg) <= MOST_PIXELS
    png = vl_convert.svg_to_png(svg, scale=2 if sharp else 1)
    return Rendered(svg, png, _small(png, halved=sharp) if len(svg) > MOST_SVG else None)


def svg_of(spec: dict[str, Any], version: str) -> str:
    """The picture as SVG; the same text whatever was drawn before."""
    return _renumbered(vl_convert.vegalite_to_svg(spec, vl_version=version))


def javascript_bundle(version: str) -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, out of the wheel of vl-convert."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    # Inside a script element this would end it; in JavaScript's texts `<\\/` is the same.
    return bundle.replace("</script", "<\\/script")


def _area(svg: str) -> float:
    found = re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg)
    assert found is not None
    return float(found[1]) * float(found[2])


def _small(png: bytes, halved: bool) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        plain = image.convert("RGB")
    (plain.reduce(2) if halved else plain).quantize(PALETTE).save(out, "png")
    return out.getvalue()


def _renumbered(svg: str) -> str:
    """`svg` with its gradients and clips counted from 0: Vega counts on from picture to picture."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{numbers.setdefault(match[2] + match[3], len(numbers))}"

    return re.sub(r'(id="|url\(#)(gradient_|clip)(\d+)', number, svg)
