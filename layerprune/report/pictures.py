"""Figures as pictures, drawn beside other work."""

import base64
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from loky.process_executor import ProcessPoolExecutor

from layerprune.report.figure import VEGA_LITE, Figure
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
        # Neither forked, since the threads of PyTorch may be there, nor spawned by multiprocessing,
        # which runs the main module again: a notebook has none, and a script may lack the guard.
        self._workers = ProcessPoolExecutor(WORKERS, initializer=prepare)
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
        # What is not drawn by now never will be: an error ends the report.
        self._workers.shutdown(kill_workers=True)


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
