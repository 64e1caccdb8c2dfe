"""Draw figures in worker processes, while this one does other work."""

from collections.abc import Iterable
from concurrent.futures import Future

from loky.process_executor import ProcessPoolExecutor

from layerprune.config.schema import FigureWidth
from layerprune.report.figures.figure import VEGA_LITE, Figure
from layerprune.report.figures.render import Image, ignore_interrupts, javascript_bundle, render

WORKERS = 2
"""Processes that draw: vl-convert draws one figure at a time, and Python waits for it."""


class RenderPool:
    """Worker processes, started at once: create the pool before reading a study.

    Leaving its context ends the workers, also in the middle of a drawing.
    """

    def __init__(self) -> None:
        # Not forked, since PyTorch may have started threads. Not spawned by multiprocessing, which
        # runs the main module again: a notebook has none, and a script may lack the guard.
        self._workers = ProcessPoolExecutor(WORKERS, initializer=ignore_interrupts)
        self.bundle = self._workers.submit(javascript_bundle, VEGA_LITE)
        """Vega, Vega-Lite and Vega-Embed as one script."""

    def submit(
        self, figures: Iterable[Figure], width: FigureWidth
    ) -> list[tuple[Figure, "Future[Image]"]]:
        """Start to draw figures, in their order."""
        return [
            (figure, self._workers.submit(render, figure.spec, VEGA_LITE, width))
            for figure in figures
        ]

    def __enter__(self) -> "RenderPool":
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown(kill_workers=True)
