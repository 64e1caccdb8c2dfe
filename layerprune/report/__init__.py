"""Reports of studies from their records: tables, figures and one page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from layerprune.analysis.critical import CurveDecline
from layerprune.analysis.curves import Curve, Task, make_curves, make_tasks
from layerprune.config.schema import FigureWidth
from layerprune.errors import UserError
from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.record.point import Point
from layerprune.record.store import Store
from layerprune.report.tables.critical import critical_declines
from layerprune.report.tables.curve_rows import Row, make_rows
from layerprune.report.tables.search_result import SearchReport, read_search
from layerprune.report.tables.text_table import TextTable
from layerprune.search.result import RESULT_FILE

__all__ = ["Report", "draw", "read"]


@dataclass(frozen=True)
class Report:
    """The contents of one study, or of several, and the files that were written for it."""

    study: Path
    """The folder of the report: the study's, or the one for several studies."""
    curves: list[Curve]
    tasks: list[Task]
    profiles: list[tuple[str, DistanceMatrix]]
    """Distance matrices, each with its model's name."""
    written: list[Path]
    skipped: list[str]
    """A line for each file that could not be read, with the reason."""
    failed: list[str]
    """A line for each failed point, with the reason."""
    searches: list[SearchReport] = field(default_factory=list)
    """Each study's last search for the smallest model within a budget, if there was one."""

    @property
    def points(self) -> list[Point]:
        """The points of all curves."""
        return [point for curve in self.curves for point in curve.points]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of `curves.csv`."""
        return make_rows(self.points)

    @cached_property
    def critical(self) -> list[CurveDecline]:
        """The fall of each curve on each task, computed on first use, while figures are drawn."""
        return critical_declines(self.curves, self.tasks)

    @property
    def search_tables(self) -> list[TextTable]:
        """The tables of all searches."""
        return [table for search in self.searches for table in search.tables]


def read(studies: Sequence[Path], to: Path | None = None) -> Report:
    """Return the contents of one or several studies; writes nothing.

    Damaged and foreign records are skipped and named. A point that several studies have is taken
    from the first. Raises `UserError` if a folder is missing, or if no record can be read.
    """
    points: dict[str, Point] = {}
    profiles: dict[str, tuple[str, DistanceMatrix]] = {}
    skipped, failed = [], []
    searches: list[SearchReport] = []
    for study in studies:
        if not study.is_dir():
            raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
        store = Store(study)
        prefix = f"{study}: " if len(studies) > 1 else ""
        own_points, lines = store.points()
        matrices, lost = store.distances_of(own_points)
        lines += lost
        for point in own_points:
            points.setdefault(point.key, point)
        for model, profile in matrices:
            profiles.setdefault(profile.key, (model, profile))
        try:
            searches += [] if (search := read_search(study)) is None else [search]
        except (ValueError, OSError) as error:
            lines.append(f"{RESULT_FILE}: {error}: the search is not shown")
        skipped += [f"{prefix}{line}" for line in lines]
        failed += [
            f"{prefix}{path.parent.name}: {reason}\n  {path.parent / 'traceback.txt'} has details."
            for path, reason in store.failures()
        ]
    if not points:
        reason = f"{len(skipped)} skipped, the first: {skipped[0]}" if skipped else "it is empty"
        names = " and ".join(map(str, studies))
        raise UserError(f"{names} holds no record that can be read ({reason}).")
    curves = make_curves(points.values())
    return Report(
        study=to or studies[0],
        curves=curves,
        tasks=make_tasks(curves),
        profiles=list(profiles.values()),
        written=[],
        skipped=skipped,
        failed=failed,
        searches=searches,
    )


def draw(*studies: Path, to: Path | None = None, width: FigureWidth = FigureWidth.page) -> Report:
    """Write `report.html`, `curves.csv`, `critical.csv`, `figures/` ... from records.

    Reads as `read` does, with its errors; the report returned names the files written.
    """
    from layerprune.report.figures.render_pool import RenderPool

    with RenderPool() as pool:  # its processes start meanwhile
        report = read(studies, to)
        from layerprune.report.publish import write_report

        write_report(report, pool, width)
        return report
