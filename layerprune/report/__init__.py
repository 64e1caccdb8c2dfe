"""Records on disk as tables, curves and one page: a view that can be made again at any time."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerprune.errors import UserError
from layerprune.report.entry import Entry, read_entry
from layerprune.report.rows import Row

if TYPE_CHECKING:
    from layerprune.record.store import Store
    from layerprune.report.curves import Curve, Task
    from layerprune.similarity.profile import Profile

__all__ = ["Report", "draw", "read_entries", "read_profiles", "show"]


@dataclass(frozen=True)
class Report:
    """What was read from a study and what was written for it."""

    study: Path
    rows: list[Row]
    """Those of `curves.csv`."""
    curves: "list[Curve]"
    tasks: "list[Task]"
    written: list[Path]
    skipped: list[str]
    """What could not be read: a line for each, with the reason."""
    failed: list[str]
    """Points that came to nothing: a line for each, with the reason."""


def draw(study: Path) -> Report:
    """Write `curves.csv`, `figures/` and `report.html` of a study from its records.

    Damaged and foreign records are skipped and named. Raises `UserError` if none is left.
    """
    from layerprune.files import replacing, write_text
    from layerprune.progress import bar
    from layerprune.record.store import Store
    from layerprune.report.curves import make_curves, make_tasks
    from layerprune.report.rows import csv_text, make_rows

    if not study.is_dir():
        raise UserError(f"{study} is not a folder: name the folder of a study, outputs/STUDY.")
    store = Store(study)
    if not any((study / "points").glob("*/record.json")):
        raise UserError(f"{study} holds no record that can be read (it has no points).")
    # Not before: these bring the libraries that draw.
    from layerprune.report.figures import make_figures
    from layerprune.report.healed import make_healed
    from layerprune.report.making import making
    from layerprune.report.page import make_page
    from layerprune.report.pictures import Drawing
    from layerprune.report.summary import findings
    from layerprune.report.table import WIDTH, make_grids

    pictures = []
    with Drawing() as drawing:
        entries, skipped = read_entries(store)
        if not entries:
            seen = f"{len(skipped)} skipped, the first: {skipped[0]}"
            raise UserError(f"{study} holds no record that can be read ({seen}).")
        curves = make_curves(entries)
        tasks = make_tasks(curves)
        profiles, lost = read_profiles(store, entries)
        drawn = drawing.pictures(make_figures(curves, tasks, profiles))
        rows = make_rows(entries)
        written = [study / "curves.csv"]
        write_text(written[0], csv_text(rows))
        with bar(f"{study.name} report", total=len(drawn)) as advance:
            for each in drawn:
                picture = each.result()
                pictures.append(picture)
                path = study / "figures" / f"{picture.figure.name}.svg"
                write_text(path, picture.svg)
                with replacing(path.with_suffix(".png")) as beside:
                    beside.write_bytes(picture.png)
                write_text(path.with_suffix(".csv"), picture.figure.csv())
                written += [path, path.with_suffix(".png"), path.with_suffix(".csv")]
                advance(1)
        bundle = drawing.bundle()
    page = make_page(
        curves=curves,
        found=findings(curves, tasks),
        pictures=pictures,
        bundle=bundle,
        healed=make_healed(curves, tasks),
        grids=make_grids(curves, tasks, WIDTH),
        made=making(curves, profiles),
    )
    written.insert(1, study / "report.html")
    write_text(written[1], page)
    failed = [
        f"{path.parent.name}: {why}\n  {path.with_name('traceback.txt')} says where."
        for path, why in store.failures()
    ]
    return Report(study, rows, curves, tasks, written, skipped + lost, failed)


def show(report: Report) -> None:
    """Print the study's tables on standard output, then what was skipped and what was written."""
    from rich.console import Console
    from rich.text import Text

    from layerprune.report.healed import make_healed, show_healed
    from layerprune.report.table import WIDTH, make_grids, show_grids

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    show_grids(console, make_grids(report.curves, report.tasks, console.width))
    healed = make_healed(report.curves, report.tasks, console.width)
    if healed is not None:
        show_healed(console, healed)
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
