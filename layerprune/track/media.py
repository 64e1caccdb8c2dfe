"""The report's figures as pictures, and the tables, that a study's runs show."""

import re
from pathlib import Path

import vl_convert

from layerprune.analysis.critical import curve_declines
from layerprune.analysis.curves import make_tasks
from layerprune.report import read
from layerprune.report.figures.figure import Figure
from layerprune.report.figures.study_figures import make_figures
from layerprune.report.tables.critical import published
from layerprune.track.runs import Media, WandbRun

CURVE_FIGURES = ("accuracy-", "loss", "healing")
"""Prefixes of the names of figures that show one curve; the others compare curves."""

HEAT_MAP = "distances-"


class StudyMedia:
    """The media of a study's runs; records are read once, and each heat-map is drawn once."""

    def __init__(self, study: Path, folder: Path) -> None:
        self._report = read([study])
        self._curves = {curve.first.curve_key: curve for curve in self._report.curves}
        self._profiles = {profile.key: (model, profile) for model, profile in self._report.profiles}
        self._folder = folder
        pictures = {path.stem: path for path in (study / "figures").glob("*.png")}
        # A heat-map's name is a hash of its content: reuse the report's files.
        self._heat_maps = {
            name: path for name, path in pictures.items() if name.startswith(HEAT_MAP)
        }
        # So are all files of a report that was drawn after the last record was written.
        newest = max(path.stat().st_mtime for path in study.glob("points/*/record.json"))
        self._drawn = {
            name: path for name, path in pictures.items() if path.stat().st_mtime > newest
        }

    def of(self, run: WandbRun) -> Media:
        """Return the media of a curve's run, or of the study's; none for other runs."""
        if run.kind == "study":
            return self._of_study(run)
        if run.kind != "curve" or run.curve not in self._curves:
            return Media()
        curve = self._curves[run.curve]
        keys = dict.fromkeys(point.plan.profile for point in curve.points)
        maps = {f"{HEAT_MAP}{key}": self._profiles[key] for key in keys if key in self._profiles}
        new = [matrix for name, matrix in maps.items() if name not in self._heat_maps]
        pictures = {}
        for figure in make_figures([curve], make_tasks([curve]), new):
            if figure.name.startswith(HEAT_MAP):
                self._heat_maps[figure.name] = self._draw(run, figure)
            elif figure.name.startswith(CURVE_FIGURES):
                pictures[media_key(f"plot_{figure.name}")] = self._draw(run, figure)
        for name in maps:
            pictures["distances" if len(maps) == 1 else media_key(name)] = self._heat_maps[name]
        return Media(pictures, "curve", tuple(row for part in run.parts for row in part))

    def _of_study(self, run: WandbRun) -> Media:
        """Return all figures of the report, and its critical fractions as a table."""
        report, drawn = self._report, self._heat_maps | self._drawn
        figures = make_figures(report.curves, report.tasks, report.profiles, report.searches)
        pictures = {
            media_key(figure.name): drawn.get(figure.name) or self._draw(run, figure)
            for figure in figures
        }
        columns, _, rows = published(curve_declines(report.curves, report.tasks))
        return Media(
            pictures, "summary", tuple(dict(zip(columns, row, strict=True)) for row in rows)
        )

    def _draw(self, run: WandbRun, figure: Figure) -> Path:
        path = self._folder / f"{run.id}-{figure.name}.png"
        path.write_bytes(vl_convert.svg_to_png(figure.svg(), scale=2))
        return path


def media_key(name: str) -> str:
    """Return the key of a figure's picture in a run."""
    return re.sub(r"\W+", "_", name)
