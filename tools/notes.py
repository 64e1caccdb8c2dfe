"""Writes what a lab note shows of its study: figures, tables, and how the points were made.

    python tools/notes.py [NAME ...] [--outputs outputs]

`make notes` does it for every preset of the bundled model. A note is `experiments/NAME.md`: its
title, the result in words, figures and tables, what else was found in words, and the provenance.
Words stay as they are. A note whose points are not all there stays as it is and is named.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "experiments"))

import tables
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from pictures import small

from layerprune.analysis.curves import JOINT, Curve, Task, make_curves, make_tasks
from layerprune.config.compose import conf_dir, typed
from layerprune.config.schema import Config
from layerprune.errors import UserError
from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.prune.target import targets
from layerprune.record.point import Point, layer_ranges
from layerprune.report import read
from layerprune.report.figures.distance_figures import best_block_data
from layerprune.report.figures.figure import Figure
from layerprune.report.figures.study_figures import make_figures
from layerprune.report.tables.critical import critical_declines, critical_table
from layerprune.report.tables.healing_table import make_healing_table
from layerprune.report.tables.provenance import provenance_facts
from layerprune.report.tables.speed_table import make_speed_table
from layerprune.report.tables.text_table import TextTable, to_markdown
from layerprune.runtime.atomic_files import replacing, write_text

NOT_YET = "Nothing is written yet."
"""What was found, in a new note."""


@dataclass(frozen=True)
class Shown:
    """The points of one preset, whatever else is in their study."""

    study: Path
    curves: list[Curve]
    tasks: list[Task]
    profiles: list[tuple[str, DistanceMatrix]]

    @property
    def points(self) -> list[Point]:
        """The points."""
        return [point for curve in self.curves for point in curve.points]

    def figures(self, starts: Sequence[str]) -> dict[str, Figure]:
        """The report's figures of these points whose names begin so, by their files' names."""
        figures = list(make_figures(self.curves, self.tasks, self.profiles))
        found: dict[str, Figure] = {}
        for start in starts:
            alike = [each for each in figures if each.name.partition("-")[0] == start]
            # A name says no more than it must: the rest may change from study to study.
            names = [start] if len(alike) == 1 else [each.name for each in alike]
            found |= {f"{name}.png": each for name, each in zip(names, alike, strict=True)}
        return found


def accuracies(shown: Shown) -> TextTable:
    """Accuracy on each task at each fraction."""
    heads = [task for task in shown.tasks if task.parent is None]
    rows: list[Row] = [
        (f"{task.name}{JOINT}{curve.label}" if len(heads) > 1 else curve.label, curve,
         partial(_accuracy, task.name))
        for task in heads
        for curve in shown.curves
    ]  # fmt: skip
    return _by_fraction("accuracy %", rows, " ".join(_sizes(shown, task) for task in heads))


def losses(shown: Shown) -> TextTable:
    """Held-out loss at each fraction."""
    sizes = sorted({point.loss.num_sequences for point in shown.points})
    said = f"On {' or '.join(map(str, sizes))} sequences; 1 is chance."
    rows: list[Row] = [(curve.label, curve, _loss) for curve in shown.curves]
    return _by_fraction("held-out loss / ln V", rows, said)


def plans(shown: Shown) -> TextTable:
    """The layers removed at each fraction."""
    rows: list[Row] = [(curve.label, curve, _layers) for curve in shown.curves]
    return _by_fraction("layers removed", rows, "Layers count from 0.")


def critical(shown: Shown) -> TextTable | None:
    """Where each curve has lost half of its margin over chance."""
    return critical_table(critical_declines(shown.curves, shown.tasks))


def speed(shown: Shown) -> TextTable | None:
    """How fast each cut model is."""
    return make_speed_table(shown.curves)


def costs(shown: Shown) -> TextTable | None:
    """What training took."""
    return make_healing_table(shown.curves, [])


def blocks(shown: Shown) -> TextTable:
    """The most similar block of every third size."""
    data = [
        datum
        for datum in best_block_data(shown.profiles, [model for model, _ in shown.profiles])
        if datum["size"] % 3 == 0
    ]
    rows = tuple(
        (
            f"{each['size']}",
            f"{each['first_layer']}-{each['last_layer']}",
            f"{each['distance']:.4f}",
        )
        for each in data
    )
    columns = "n", "most similar block", "distance"
    return TextTable("", 0, columns, rows, "Every third size n; layers count from 0.")


@dataclass(frozen=True)
class View:
    """What is worth showing of a preset's points."""

    figures: tuple[str, ...]
    """How the names of the report's figures begin."""
    tables: tuple[Callable[[Shown], TextTable | None], ...]


VIEWS = {
    "elastic": View(("accuracy", "loss"), (accuracies, losses, costs)),
    "fig1": View(("accuracy", "loss", "nearest"), (accuracies, losses)),
    "fig2": View(("accuracy",), (accuracies, losses, plans, critical)),
    "fig3": View(("loss",), (losses,)),
    "fig4": View(("distances", "nearest"), (blocks,)),
    "fig5": View(("accuracy", "loss"), (accuracies, losses)),
    "fig6": View(("accuracy",), (accuracies,)),
    "fig7": View(("accuracy",), (accuracies, critical)),
    "fig7_order": View(("accuracy",), (accuracies, critical)),
    "fig8": View(("accuracy", "loss"), (accuracies, losses)),
    "fig9": View(("accuracy", "loss"), (accuracies, losses)),
    "metrics": View(("accuracy", "layers"), (accuracies, plans)),
    "strategies": View(("accuracy", "loss", "layers"), (accuracies, losses)),
    "calibration": View(("layers", "accuracy"), (plans,)),
    "speed": View(("speed",), (speed,)),
    "training_cost": View(("cost",), (costs,)),
    "v2": View(("accuracy",), (accuracies, critical)),
}
"""Of each preset whose note is written here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the notes that the command line names, or all, then the index of presets."""
    parser = argparse.ArgumentParser(description="Write lab notes from their studies.")
    parser.add_argument("name", nargs="*", help=f"presets, all if none: {', '.join(VIEWS)}")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.name if name not in VIEWS]:
        parser.error(f"no note of {', '.join(unknown)} is written here")
    for name in asked.name or VIEWS:
        try:
            print(write(name, asked.outputs))
        except UserError as error:
            print(f"{tables.note_of(name).name} stays as it is: {error}")
    tables.INDEX.write_text(tables.index(), encoding="utf-8")


def write(name: str, outputs: Path) -> str:
    """Write the note of a preset; returns a line that says so.

    Raises `UserError` if its points are not all there, or if the note has lost its marks.
    """
    note = tables.note_of(name)
    text = note.read_text(encoding="utf-8") if note.is_file() else _new(name)
    before, figures_begin, rest = text.partition(tables.FIGURES)
    _, end, rest = rest.partition(tables.END)
    after, how_begin, _ = rest.partition(tables.MEASURED_HOW)
    for mark, there in ((tables.FIGURES, figures_begin), (tables.END, end),
                        (tables.MEASURED_HOW, how_begin)):  # fmt: skip
        if not there:
            raise UserError(f"it has no {mark}.")
    shown = shown_of(name, outputs)
    figures = shown.figures(VIEWS[name].figures)
    folder = note.with_suffix("")
    for file, figure in figures.items():
        with replacing(folder / file) as beside:
            beside.write_bytes(small(figure.svg()))
    # What an earlier note showed.
    for old in set(folder.glob("*.png")) - {folder / file for file in figures}:
        old.unlink()
    parts = [
        *(f"![{figure.title}]({name}/{file})" for file, figure in figures.items()),
        *(_table(table) for make in VIEWS[name].tables if (table := make(shown)) is not None),
    ]
    made = dict(provenance_facts(shown.curves, shown.profiles))
    lines = [f"- {fact}: {'; '.join(made[fact])}" for fact in tables.MADE]
    words = before.partition("\n\n")[2]
    shows = "\n\n".join([tables.FIGURES, *parts, tables.END])
    write_text(note, f"{tables.head(name)}{words}{shows}{after}{tables.provenance(name, lines)}")
    return f"{note.name} is written from {shown.study}."


def compose_sweep(preset: str) -> list[Config]:
    """Return the configuration of each job that `python main.py experiment=PRESET` would run."""
    chosen = f"experiment={preset}"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra_compose("config", overrides=[chosen], return_hydra_config=True)
        params = composed.hydra.sweeper.params or {}
        lists = [f"{key}={values}" for key, values in params.items()]
        parsed = OverridesParser.create().parse_overrides(lists)
        (jobs,) = BasicSweeper.split_arguments(parsed, None)
        return [typed(hydra_compose("config", overrides=[chosen, *job])) for job in jobs]


def shown_of(name: str, outputs: Path) -> Shown:
    """The points that a preset asks for. Raises `UserError` if they are not all there."""
    jobs = compose_sweep(name)
    wanted = [label for job in jobs for label in _labels(job)]
    report = read([outputs / jobs[0].study])
    mine = [point for curve in report.curves for point in curve.points if _label(point) in wanted]
    if len(mine) != len(wanted):
        raise UserError(
            f"{report.study} has {len(mine)} of the {len(wanted)} points of experiment={name}."
        )
    curves = make_curves(mine)
    measured = {point.plan.profile for point in mine}
    profiles = [each for each in report.profiles if each[1].key in measured]
    return Shown(report.study, curves, make_tasks(curves), profiles)


Label = tuple[str, str, str, str, int, str, str, int]
"""What identifies a preset's points: model, metric, strategy, recipe, seed, number of few-shot
examples, their order, layers dropped."""

NOT_SET = "not set"


def _labels(job: Config) -> list[Label]:
    assert job.model.name is not None
    assert job.model.shape is not None
    same = job.model.name, job.metric.name, job.prune.strategy, job.heal.recipe, job.seed
    few = [
        NOT_SET if each is None else str(each)
        for each in (job.eval.num_fewshot, job.eval.fewshot_seed)
    ]
    wanted, _ = targets(job.prune, job.model.shape.num_hidden_layers)
    return [(*same, few[0], few[1], target.count) for target in wanted]


def _label(point: Point) -> Label:
    same = point.model.name, point.plan.metric, point.plan.strategy, point.recipe, point.seed
    few = [point.settings.get(f"eval.{name}", NOT_SET) for name in ("num_fewshot", "fewshot_seed")]
    return *same, few[0], few[1], point.num_dropped


def _new(name: str) -> str:
    return (
        f"{tables.head(name)}**Result.** {NOT_YET}\n\n{tables.FIGURES}{tables.END}\n\n"
        f"{tables.MEASURED_HOW}"
    )


Row = tuple[str, Curve, Callable[[Point], str]]
"""A table's row: its name, the points, and the cell's text for each."""


MAX_FRACTIONS = 10
"""Columns of a table by fraction; more fractions are rows."""


def _by_fraction(what: str, rows: Sequence[Row], note: str) -> TextTable:
    """A column for each fraction dropped, with the number of layers; a row, if they are many."""
    points = [point for _, curve, _ in rows for point in curve.points]
    if len({(point.plan.fraction, point.num_dropped) for point in points}) > MAX_FRACTIONS:
        counts = sorted({point.num_dropped for point in points})
        of_rows = [
            {point.num_dropped: cell(point) for point in curve.points} for _, curve, cell in rows
        ]
        by_count = ((str(n), *(of_row.get(n, "") for of_row in of_rows)) for n in counts)
        names = tuple(name for name, *_ in rows)
        corner = what if what == "layers removed" else f"{what}; layers removed"
        return TextTable("", 0, (corner, *names), tuple(by_count), note)
    # Of models of several depths, as many layers are another fraction.
    fractions = sorted({(point.plan.fraction, point.num_dropped) for point in points})
    cells = []
    for name, curve, cell in rows:
        said = {(point.plan.fraction, point.num_dropped): cell(point) for point in curve.points}
        cells.append((name, *(said.get(column, "") for column in fractions)))
    columns = what, *(f"{fraction:.0%} ({count})" for fraction, count in fractions)
    return TextTable("", 1, columns, tuple(cells), note)


def _accuracy(task: str, point: Point) -> str:
    value = point.accuracy(task)
    return "" if value is None else f"{100 * value.value:.1f}"


def _loss(point: Point) -> str:
    return f"{point.loss.normalised:.3f}"


def _layers(point: Point) -> str:
    return layer_ranges(point.plan.dropped)


def _sizes(shown: Shown, task: Task) -> str:
    values = [value for point in shown.points if (value := point.accuracy(task.name)) is not None]
    errors = [100 * value.stderr for value in values if value.stderr is not None]
    said = [task.size, *(f"chance {chance:.1%}" for chance in task.chances)]
    if errors:
        said.append(f"standard errors {min(errors):.1f} to {max(errors):.1f}")
    return f"{task.name}: {', '.join(said)}."


def _table(table: TextTable) -> str:
    columns = [" ".join(column.replace("-\n", "").split()) for column in table.columns]
    return f"{to_markdown(columns, table.num_names, table.rows)}\n\n{table.note}"


if __name__ == "__main__":
    main()
