"""A study's Weights & Biases runs, as plain data: one per point, per curve, and for the study.

A curve's run has all its tasks, as columns `TASK/MEASURE`: they share models, loss and costs, and
W&B draws a column of many runs in one plot. With a run per task, a curve on MMLU would be 57 runs.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layerprune.record.point import HELDOUT, Point, content_hash
from layerprune.record.store import Store
from layerprune.runtime.redact import redacted

Row = dict[str, Any]

MAX_TAG = 64
"""Characters that W&B allows in a tag."""

FRACTION = (("fraction", None), ("*", "fraction"))
HEALING = (("heal/step", None), ("heal/*", "heal/step"))
"""Axes: (metric or pattern, metric of its x axis)."""

PLAN = ("strategy", "metric", "fraction", "fraction_asked", "dropped", "score", "reason")
"""Fields of a plan in the configuration of its run."""


@dataclass(frozen=True)
class WandbRun:
    """The content of one run."""

    id: str
    """A hash of the study's name and of the key of the point or curve: a repeat is the same run."""
    curve: str
    """Key of the curve; empty for the study's own run."""
    group: str
    """The model's name; the study's for its own run."""
    kind: str
    """`point`, `curve` or `study`."""
    name: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    axes: tuple[tuple[str, str | None], ...]
    """(metric or pattern, metric of its x axis)."""
    parts: tuple[tuple[Row, ...], ...]
    """Rows of the history; a part is sent completely or not at all. A curve has a part per point,
    by fraction."""
    summary: dict[str, Any]
    exit_code: int

    @property
    def part_hashes(self) -> list[str]:
        """A hash of each part."""
        return [content_hash(part) for part in self.parts]

    @property
    def content(self) -> str:
        """Hash of everything that is sent, except pictures, which are drawn from it."""
        return content_hash(asdict(self))


@dataclass(frozen=True)
class Media:
    """What a run shows beside its history."""

    pictures: dict[str, Path] = field(default_factory=dict)
    """PNG files by their keys in the run."""
    table: str = ""
    """Key of a table."""
    rows: tuple[Row, ...] = ()
    """The table's rows; none without a table."""


def make_runs(study: Path) -> tuple[list[WandbRun], list[str]]:
    """Return the runs of a study, its own last, and a line for each unreadable record."""
    store = Store(study)
    name = study.resolve().name
    points, skipped = store.points()
    runs = [_point_run(name, point) for point in points]
    failures = list(_failures(store))
    runs += [_failed_run(name, failure) for failure in failures]
    by_curve: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_curve[point.curve_key].append(point)
    failed = Counter(map(_curve_key, failures))
    curves = [_curve_run(name, key, group, failed[key]) for key, group in by_curve.items()]
    return [*runs, *curves, *_study_runs(name, curves)], skipped


def _point_run(study: str, point: Point) -> WandbRun:
    dropped = f"{point.num_dropped} of {point.model.num_layers} layers dropped"
    return WandbRun(
        id=content_hash([study, "point", point.key]),
        curve=point.curve_key,
        group=redacted(point.model.name),
        kind="point",
        name=redacted(f"{_label(point)}, {dropped}"),
        tags=_tags(study, *point.curve[:4]),
        config=redacted(
            {
                **point.config,
                **_shared(study, point),
                "point": point.key,
                "plan": {name: getattr(point.plan, name) for name in PLAN},
                # In the order of record.json.
                "costs": dict(sorted(asdict(point.costs).items())),
                "provenance": dict(sorted(asdict(point.provenance).items())),
            }
        ),
        axes=(*FRACTION, *HEALING),
        parts=((history_row(point), *healing_rows(point)),),
        summary={"failed": False},
        exit_code=0,
    )


def _curve_run(study: str, key: str, points: Iterable[Point], failed: int) -> WandbRun:
    """Return the run of a curve, with exit status 1 as long as some of its points fail."""
    points = sorted(points, key=lambda point: (point.plan.fraction, point.key))
    first = points[0]
    return WandbRun(
        id=content_hash([study, "curve", key]),
        curve=key,
        group=redacted(first.model.name),
        kind="curve",
        name=redacted(_label(first)),
        tags=_tags(study, *first.curve[:4]),
        # Not the configuration of a job, which would depend on the point that came first.
        config=redacted({**first.identity, "prune": first.plan.strategy}) | _shared(study, first),
        axes=FRACTION,
        parts=tuple((history_row(point),) for point in points),
        summary={"points": len(points), "failed_points": failed},
        exit_code=1 if failed else 0,
    )


def _study_runs(study: str, curves: list[WandbRun]) -> list[WandbRun]:
    """Return the run with the figures and the summary of a study, if it has a curve."""
    if not curves:
        return []
    failed = sum(run.summary["failed_points"] for run in curves)
    summary = {"points": sum(len(run.parts) for run in curves), "failed_points": failed}
    return [
        WandbRun(
            id=content_hash([study, "study"]),
            curve="",
            group=redacted(study),
            kind="study",
            name=redacted(f"{study}: figures and summary"),
            tags=_tags(study),
            config={"study": study, "curves": content_hash([run.content for run in curves])},
            axes=(),
            parts=((summary,),),
            summary=summary,
            exit_code=1 if failed else 0,
        )
    ]


def _failed_run(study: str, failure: dict[str, Any]) -> WandbRun:
    identity, key = failure["identity"], failure["key"]
    return WandbRun(
        id=content_hash([study, "point", key]),
        curve=_curve_key(failure),
        group=redacted(identity["model"].get("name", study)),
        kind="point",
        name=f"{key} failed",
        tags=_tags(study, "failed"),
        config=redacted({**identity, "study": study, "curve": _curve_key(failure), "point": key}),
        axes=(),
        parts=(),
        summary=redacted({"failed": True, "error": failure["error"]}),
        exit_code=1,
    )


def _failures(store: Store) -> Iterator[dict[str, Any]]:
    """Yield key, identity and error of each failed point."""
    for path, _ in store.failures():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            failure = {name: content[name] for name in ("key", "identity", "error")}
            _curve_key(failure)
        except (OSError, ValueError, TypeError, KeyError):
            continue  # the report lists it
        yield failure


def _curve_key(failure: dict[str, Any]) -> str:
    """Return the `Point.curve_key` that the failed point would have had."""
    identity = failure["identity"]
    return content_hash({**identity, "prune": {"strategy": identity["prune"]["strategy"]}})


def history_row(point: Point) -> Row:
    """Return a point as one row: `TASK/MEASURE` and its standard error against `fraction`.

    Only the measures of tasks, as in `curves.csv`, have a slash in their name. Seconds of what
    points share are the point's share.
    """
    healing = point.healing
    values: Row = {
        "fraction": point.plan.fraction,
        "layers_dropped": point.num_dropped,
        "first_layer": point.first_layer,
        "seconds": point.costs.total_seconds,
        **{f"seconds_{stage}": value for stage, value in point.costs.seconds.items()},
        "peak_memory_bytes": point.costs.peak_memory_bytes,
        "parameters_kept": point.model.parameters_kept,
        "healing_seconds": None if healing is None else healing.seconds * healing.share,
        f"{HELDOUT}/loss": point.loss.nats,
        f"{HELDOUT}/loss_stderr": point.loss.stderr,
        f"{HELDOUT}/loss_normalised": point.loss.normalised,
    }
    if healing is not None:
        values["loss_before_healing"] = healing.heldout_before
        values["loss_after_healing"] = healing.heldout_after
    for score in point.scores:
        for name, measure in score.measures.items():
            values[f"{score.task}/{name}"] = measure.value
            if measure.stderr is not None:
                values[f"{score.task}/{name}_stderr"] = measure.stderr
    return {name: value for name, value in values.items() if value is not None}


def healing_rows(point: Point) -> list[Row]:
    """Return the log of a point's healing, against `heal/step`: `heal/loss`, ..."""
    if point.healing is None:
        return []
    steps = point.healing.steps
    tokens = point.healing.tokens / max(1, steps[-1].step) if steps else 0
    rows = []
    for step in steps:
        values = {
            f"heal/{name}": value
            for name in ("loss", "learning_rate", "heldout", "peak_memory_bytes")
            if (value := getattr(step, name)) is not None
        }
        if step.seconds:
            values["heal/tokens_per_second"] = tokens / step.seconds
        rows.append({"heal/step": step.step, **values})
    return rows


def _label(point: Point) -> str:
    model, metric, strategy, heal, seed = point.curve
    return f"{model} {strategy} {metric} {heal} seed {seed}"


def _tags(study: str, *names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag[:MAX_TAG] for tag in redacted([*names, study]) if tag))


def _shared(study: str, point: Point) -> dict[str, Any]:
    """Return the configuration of all runs of a curve, for filters."""
    model, metric, strategy, heal, seed = point.curve
    return {
        "study": study,
        "curve": point.curve_key,
        "model_name": redacted(model),
        "family": point.model.family,
        "num_layers": point.model.num_layers,
        "metric_name": metric,
        "strategy": strategy,
        "recipe": heal,
        # Equal for a healed curve and its counterpart that was not healed.
        "pair": redacted(f"{model} {strategy} {metric} seed {seed}"),
        "seed": int(seed),
    }
