"""Figures as pictures, drawn beside other work."""

import base64
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

from layerprune.report.figures import VEGA_LITE, Figure
from layerprune.report.render import Rendered, javascript_bundle, prepare, render

WORKERS = 2
"""Processes that draw: vl-convert does one thing at a time, and Python waits for it."""


@dataclass(frozen=True)
class Picture:
    """One figure, drawn."""

    figure: Figure
    svg: str
    png: bytes
    still: str
    """As data URI for a page."""


class Drawing:
    """Draws figures in processes of its own, which start when it is made: best before reading."""

    def __init__(self) -> None:
        # Not forked: the threads of PyTorch may be there.
        spawn = multiprocessing.get_context("spawn")
        self._workers = ProcessPoolExecutor(WORKERS, spawn, initializer=prepare)
        self._bundle = self._workers.submit(javascript_bundle, VEGA_LITE)

    def pictures(self, figures: Iterable[Figure]) -> "list[Drawn]":
        """The figures, in their order."""
        return [
            Drawn(figure, self._workers.submit(render, figure.spec, VEGA_LITE))
            for figure in figures
        ]

    def bundle(self) -> str:
        """Vega, Vega-Lite and Vega-Embed as one script."""
        return self._bundle.result()

    def __enter__(self) -> "Drawing":
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Drawn:
    """A figure that is on its way to be a picture."""

    figure: Figure
    rendered: Future[Rendered]

    def picture(self) -> Picture:
        """The picture, as soon as it is there."""
        svg, png, small = self.rendered.result()
        kind, content = ("svg+xml", svg.encode()) if small is None else ("png", small)
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return Picture(self.figure, svg, png, uri)
