"""Records on disk as tables, curves and one page: a view that can be made again at any time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from layerprune.errors import UserError
from layerprune.report.entry import Entry, read_entry
from layerprune.report.rows import Row, csv_text, make_rows

if TYPE_CHECKING:
    from layerprune.record.store import Store
    from layerprune.report.critical import Critical
    from layerprune.report.curves import Curve, Task
    from layerprune.report.fit import Fit
    from layerprune.report.pictures import Drawing, Drawn, Picture
    from layerprune.report.texts import TextTable
    from layerprune.similarity.profile import Profile

__all__ = ["Report", "draw", "read", "read_entries", "read_profiles", "show"]

MOST_PRINTED = 500
"""Points whose tables are printed where nobody has asked for them."""


@dataclass(frozen=True)
class Report:
    """What was read from a study, or from several, and what was written for it."""

    study: Path
    """Where it is written: the study's folder, or the one for several studies."""
    curves: "list[Curve]"
    tasks: "list[Task]"
    profiles: "list[tuple[str, Profile]]"
    """Matrices of distances, each with its model's name."""
    written: list[Path]
    skipped: list[str]
    """What could not be read: a line for each, with the reason."""
    failed: list[str]
    """Points that came to nothing: a line for each, with the reason."""
    fits: "list[Fit]" = field(default_factory=list)
    """Each study's last search for the smallest model within a budget, if there was one."""

    @cached_property
    def rows(self) -> list[Row]:
        """Those of `curves.csv`."""
        return make_rows(entry for curve in self.curves for entry in curve.entries)

    @cached_property
    def critical(self) -> "Critical | None":
        """Where each curve falls; worked out when it is asked for, while others draw."""
        from layerprune.report.critical import make_critical

        return make_critical(self.curves, self.tasks)

    @property
    def fitted(self) -> "list[TextTable]":
        """The tables of all searches."""
        return [table for fit in self.fits for table in fit.tables]


def read(studies: Sequence[Path], to: Path | None = None) -> Report:
    """What the records of a study say, or those of several studies together; writes nothing.

    Damaged and foreign records are skipped and named. A point that several studies have is taken
    from the first. Raises `UserError` if a folder is none or if no record is left.
    """
    from layerprune.record.store import Store
    from layerprune.report.curves import make_curves, make_tasks
    from layerprune.report.fit import FIT, Fit, make_fit

    entries: dict[str, Entry] = {}
    profiles: dict[str, tuple[str, Profile]] = {}
    skipped, failed = [], []
    fits: list[Fit] = []
    for study in studies:
        if not study.is_dir():
            raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
        store = Store(study)
        found, bad = read_entries(store)
        matrices, lost = read_profiles(store, found)
        entries = {**{entry.key: entry for entry in found}, **entries}
        profiles = {**{each[1].key: each for each in matrices}, **profiles}
        said = [f"{path.parent.name}: {why}\n  {path.with_name('traceback.txt')} says where."
                for path, why in store.failures()]  # fmt: skip
        try:
            fit = make_fit(study)
            fits += [] if fit is None else [fit]
        except (ValueError, OSError) as error:
            lost.append(f"{FIT}: {error}: how it was chosen is not shown")
        several = f"{study}: " if len(studies) > 1 else ""
        skipped += [f"{several}{line}" for line in bad + lost]
        failed += [f"{several}{line}" for line in said]
    if not entries:
        seen = f"{len(skipped)} skipped, the first: {skipped[0]}" if skipped else "it has no points"
        names = " and ".join(map(str, studies))
        raise UserError(f"{names} holds no record that can be read ({seen}).")
    curves = make_curves(entries.values())
    tasks = make_tasks(curves)
    return Report(
        study=to or studies[0],
        curves=curves,
        tasks=tasks,
        profiles=list(profiles.values()),
        written=[],
        skipped=skipped,
        failed=failed,
        fits=fits,
    )


def draw(*studies: Path, to: Path | None = None) -> Report:
    """Write a report from records: what `read` reads. Its errors; returns what was written, too.

    In the folder: `report.html`, `curves.csv`, `critical.csv`, `figures/` ...
    """
    from layerprune.report.pictures import Drawing

    with Drawing() as drawing:
        return _write(read(studies, to), drawing)


def _write(report: Report, drawing: "Drawing") -> Report:
    from layerprune.files import write_text
    from layerprune.report.figures import make_figures
    from layerprune.report.healed import make_healed
    from layerprune.report.making import making
    from layerprune.report.page import make_page
    from layerprune.report.sped import make_sped
    from layerprune.report.summary import findings
    from layerprune.report.table import WIDTH, make_grids

    curves, tasks, page = report.curves, report.tasks, report.study / "report.html"
    drawn = drawing.pictures(make_figures(curves, tasks, report.profiles, report.fits))
    tables = _write_tables(report)  # meanwhile
    pictures, files = _write_pictures(report.study, drawn)
    text = make_page(
        curves=curves,
        found=findings(curves, tasks),
        pictures=pictures,
        bundle=drawing.bundle(),
        healed=make_healed(curves, tasks),
        sped=make_sped(curves),
        critical=report.critical,
        fitted=report.fitted,
        grids=make_grids(curves, tasks, WIDTH),
        made=making(curves, report.profiles),
    )
    write_text(page, text)
    report.written.extend([page, *tables, *files])
    return report


def _write_tables(report: Report) -> list[Path]:
    from layerprune.files import replacing, write_text
    from layerprune.report.publish import (
        critical_csv,
        critical_latex,
        critical_markdown,
        write_parquet,
    )

    falls = () if report.critical is None else report.critical.falls
    texts = {
        "curves.csv": csv_text(report.rows),
        "critical.csv": critical_csv(falls),
        "critical.md": critical_markdown(falls),
        "critical.tex": critical_latex(falls),
    }
    parquet = report.study / "curves.parquet"
    for name, text in texts.items():
        write_text(report.study / name, text)
    with replacing(parquet) as beside:
        write_parquet(report.rows, beside)
    return [parquet, *(report.study / name for name in texts)]


def _write_pictures(study: Path, drawn: "Sequence[Drawn]") -> "tuple[list[Picture], list[Path]]":
    from layerprune.files import replacing, write_text
    from layerprune.progress import bar

    pictures, written = [], []
    with bar(f"{study.name} report", total=len(drawn)) as advance:
        for each in drawn:
            picture = each.picture()
            pictures.append(picture)
            svg, png, numbers = (
                study / "figures" / f"{picture.figure.name}.{kind}"
                for kind in ("svg", "png", "csv")
            )
            write_text(svg, picture.svg)
            with replacing(png) as beside:
                beside.write_bytes(picture.png)
            write_text(numbers, picture.figure.csv())
            written += [svg, png, numbers]
            advance(1)
    return pictures, written


def show(report: Report, text_curves: bool = False) -> None:
    """Print the tables on standard output, then what was skipped and what was written.

    With `text_curves`, after the tables, each task's accuracy against the fraction as characters.
    Without, tables of more points than anybody reads on a terminal are left to the page.
    """
    from rich.console import Console
    from rich.text import Text

    from layerprune.report.critical import fitted
    from layerprune.report.fit import SAMPLES
    from layerprune.report.healed import make_healed
    from layerprune.report.making import BLOCKS, agreements
    from layerprune.report.sped import make_sped
    from layerprune.report.table import WIDTH, make_grids, show_grids
    from layerprune.report.terminal import make_plots, show_plots
    from layerprune.report.texts import show_table

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    num_points = sum(len(curve.entries) for curve in report.curves)
    if text_curves or num_points <= MOST_PRINTED:
        show_grids(console, make_grids(report.curves, report.tasks, console.width))
        healed = make_healed(report.curves, report.tasks, console.width)
        if healed is not None:
            show_table(console, healed)
        sped = make_sped(report.curves, console.width)
        if sped is not None:
            show_table(console, sped)
    else:
        console.print(f"The tables of {num_points:,} points are in the page; --text prints them.\n")
    if report.critical is not None:
        show_table(console, fitted(report.critical, console.width))
    for texts in report.fitted:
        if texts.title != SAMPLES:  # they are to be read side by side
            show_table(console, texts)
    for line in agreements(report.profiles):
        console.print(Text(f"{BLOCKS.capitalize()}: {line}\n"))
    if text_curves:
        show_plots(console, make_plots(report.curves, report.tasks, console.width))
    # A picture's three files in one line.
    drawn = {path.with_suffix("") for path in report.written if path.suffix == ".svg"}
    for line in report.skipped:
        console.print(Text(f"Skipped {line}"), soft_wrap=True)
    for line in report.failed:
        console.print(Text(f"Failed: {line}"), soft_wrap=True)
    for path in report.written:
        of_picture = path.with_suffix("") in drawn
        if of_picture and path.suffix != ".svg":
            continue
        console.print(Text(f"{path}{', .png and .csv' if of_picture else ''}"), soft_wrap=True)


def read_entries(store: "Store") -> tuple[list[Entry], list[str]]:
    """The points of a study, and a line for each record that is none."""
    entries: dict[str, Entry] = {}
    skipped = []
    for path, point, why in store.points():
        name = path.relative_to(store.folder)
        if point is None:
            skipped.append(f"{name}: {why}")
            continue
        try:
            entry = read_entry(point)
        except ValueError as error:
            skipped.append(f"{name}: {error}")
            continue
        if entry.key in entries:
            skipped.append(f"{name}: {entry.key} is there already")
        else:
            entries[entry.key] = entry
    return list(entries.values()), skipped


def read_profiles(
    store: "Store", entries: Iterable[Entry]
) -> "tuple[list[tuple[str, Profile]], list[str]]":
    """Each matrix of distances once, with its model's name, and a line for each that is lost."""
    import numpy as np

    owners: dict[str, Entry] = {}
    for entry in entries:
        if entry.profile is not None:
            owners.setdefault(entry.profile, entry)
    found, lost = [], []
    for key, entry in owners.items():
        profile = store.read_profile(key)
        side = entry.num_layers + 1
        try:
            whole = profile is not None and (
                profile.matrix.shape == (side, side) and bool(np.isfinite(profile.matrix).all())
            )
        except (ValueError, TypeError):
            whole = False
        if profile is not None and whole:
            found.append((entry.model, profile))
        else:
            lost.append(f"profiles/{key}.json: not there, or damaged: its heat-map is not drawn")
    return found, lost
