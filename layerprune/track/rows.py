"""What a point says on Weights & Biases, as rows of a run's history."""

import math
from typing import Any

from layerprune.record.point import HELDOUT, Point

Row = dict[str, Any]


def row(point: Point) -> Row:
    """A point as one row: `TASK/MEASURE` and its standard error against `fraction`.

    Names with a slash are the tasks' measures alone, those of `curves.csv`.
    """
    values: Row = {
        "fraction": point.plan["fraction"],
        "layers_dropped": point.num_dropped,
        "first_layer": min(point.plan["dropped"], default=None),
        **_costs(point),
        f"{HELDOUT}/loss": point.loss["nats"],
        f"{HELDOUT}/loss_stderr": point.loss["stderr"],
        f"{HELDOUT}/loss_normalised": point.loss["normalised"],
    }
    if point.healing is not None:
        values["loss_before_healing"] = point.healing["heldout_before"]
        values["loss_after_healing"] = point.healing["heldout_after"]
    for score in point.scores:
        for name, measure in score["measures"].items():
            values[f"{score['task']}/{name}"] = measure["value"]
            if measure["stderr"] is not None:
                values[f"{score['task']}/{name}_stderr"] = measure["stderr"]
    return {name: value for name, value in values.items() if value is not None}


def healing_rows(point: Point) -> list[Row]:
    """What was seen while a point was healed, against `heal/step`: `heal/loss`, ..."""
    if point.healing is None:
        return []
    steps = point.healing["steps"]
    tokens = point.healing["tokens"] / max(1, steps[-1]["step"]) if steps else 0
    rows = []
    for step in steps:
        seen = {
            f"heal/{name}": step[name]
            for name in ("loss", "learning_rate", "heldout", "peak_memory_bytes")
            if step.get(name) is not None
        }
        if step["seconds"]:
            seen["heal/tokens_per_second"] = tokens / step["seconds"]
        rows.append({"heal/step": step["step"], **seen})
    return rows


def _costs(point: Point) -> Row:
    seconds = point.costs["seconds"]
    return {
        "seconds": math.fsum(seconds.values()),
        **{f"seconds_{stage}": value for stage, value in seconds.items()},
        "peak_memory_bytes": point.costs["peak_memory_bytes"],
        "parameters_kept": point.model["parameters_kept"],
        "healing_seconds": point.healing["seconds"] if point.healing is not None else None,
    }
