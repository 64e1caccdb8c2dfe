"""What a study is on Weights & Biases, as plain data: one run a point, and one a curve.

A curve's run holds all its tasks, as columns `TASK/MEASURE`: they were answered by the same models
in one pass, and W&B draws a column of many runs in one plot. With a run a task, a curve of the 57
subjects of MMLU would be 57 runs with the same loss and the same costs.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprune.record.point import Point, content_hash
from layerprune.record.store import Store
from layerprune.redact import redacted
from layerprune.track.rows import Row, healing_rows, row

MAX_TAG = 64
"""Characters that W&B takes in a tag."""

FRACTION = (("fraction", None), ("*", "fraction"))
HEALING = (("heal/step", None), ("heal/*", "heal/step"))


@dataclass(frozen=True)
class Run:
    """One run: what it is called, and what stands in it."""

    id: str
    """Follows from the study's name and the key of what it shows: a repeat is the same run."""
    curve: str
    """Key of the curve, which is the run's group."""
    kind: str
    """`point` or `curve`."""
    name: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    axes: tuple[tuple[str, str | None], ...]
    """(name or pattern, what it is drawn against)."""
    parts: tuple[tuple[Row, ...], ...]
    """Rows of the history; each part is there whole or not at all. A curve's parts are its points,
    by how many layers they drop."""
    summary: dict[str, Any]
    exit_code: int

    @property
    def marks(self) -> list[str]:
        """A hash of each part."""
        return [content_hash(part) for part in self.parts]

    @property
    def content(self) -> str:
        """Hash of everything that is sent, but for pictures, which follow from it."""
        return content_hash(asdict(self))


def make_runs(study: Path) -> tuple[list[Run], list[str]]:
    """The runs of a study, points first, and a line for each record that makes none."""
    store = Store(study)
    name = study.resolve().name
    points: list[Point] = []
    runs, skipped = [], []
    for path, point, why in store.points():
        try:
            if point is None:
                raise ValueError(why)
            runs.append(_point_run(name, point))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            skipped.append(f"{path.relative_to(study)}: {error}")
        else:
            points.append(point)
    failures = list(_failures(store))
    runs += [_failed_run(name, failure) for failure in failures]
    together: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        together[point.curve_key].append(point)
    lost: dict[str, int] = defaultdict(int)
    for failure in failures:
        lost[_curve_key(failure)] += 1
    curves = [_curve_run(name, key, group, lost[key]) for key, group in together.items()]
    return [*runs, *curves], skipped


def _point_run(study: str, point: Point) -> Run:
    dropped = f"{point.num_dropped} of {point.model['num_layers']} layers dropped"
    return Run(
        id=content_hash([study, "point", point.key]),
        curve=point.curve_key,
        kind="point",
        name=redacted(f"{_label(point)}, {dropped}"),
        tags=_tags(study, *point.curve[:4]),
        config=redacted(
            {
                **point.config,
                **_shared(study, point),
                "point": point.key,
                "plan": {name: point.plan[name] for name in PLAN},
                "costs": point.costs,
                "provenance": point.provenance,
            }
        ),
        axes=(*FRACTION, *HEALING),
        parts=((row(point), *healing_rows(point)),),
        summary={"failed": False},
        exit_code=0,
    )


PLAN = ("strategy", "metric", "fraction", "fraction_asked", "dropped", "score", "reason")


def _curve_run(study: str, key: str, points: Iterable[Point], failed: int) -> Run:
    """The whole curve, and exit status 1 as long as some of its points came to nothing."""
    points = sorted(points, key=lambda point: (point.plan["fraction"], point.key))
    first = points[0]
    return Run(
        id=content_hash([study, "curve", key]),
        curve=key,
        kind="curve",
        name=redacted(_label(first)),
        tags=_tags(study, *first.curve[:4]),
        # Not the configuration of one of its jobs, which says which of its points came first.
        config=redacted({**first.identity, "prune": first.plan["strategy"]})
        | _shared(study, first),
        axes=FRACTION,
        parts=tuple((row(point),) for point in points),
        summary={"points": len(points), "failed_points": failed},
        exit_code=1 if failed else 0,
    )


def _failed_run(study: str, failure: dict[str, Any]) -> Run:
    """A point that came to nothing: no row, exit status 1, and why. It goes once it is made."""
    identity, key = failure["identity"], failure["key"]
    return Run(
        id=content_hash([study, "point", key]),
        curve=_curve_key(failure),
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
    """What is known of each point that failed and has not been made since."""
    for path, _ in store.failures():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            failure = {name: content[name] for name in ("key", "identity", "error")}
            _curve_key(failure)
        except (OSError, ValueError, TypeError, KeyError):
            continue  # the report names it
        yield failure


def _curve_key(failure: dict[str, Any]) -> str:
    """The key of the curve that the point would have been on, as `Point.curve_key` has it."""
    identity = failure["identity"]
    return content_hash({**identity, "prune": {"strategy": identity["prune"]["strategy"]}})


def _label(point: Point) -> str:
    model, metric, strategy, heal, seed = point.curve
    return f"{model} {strategy} {metric} {heal} seed {seed}"


def _tags(study: str, *names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag[:MAX_TAG] for tag in redacted([*names, study]) if tag))


def _shared(study: str, point: Point) -> dict[str, Any]:
    """What runs are filtered by, for points and curves alike."""
    model, metric, strategy, heal, seed = point.curve
    return {
        "study": study,
        "curve": point.curve_key,
        "model_name": redacted(model),
        "family": point.model["family"],
        "num_layers": point.model["num_layers"],
        "metric_name": metric,
        "strategy": strategy,
        "recipe": heal,
        "seed": int(seed),
    }
