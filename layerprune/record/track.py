"""The curves on Weights & Biases: a mirror of the records, never the truth.

The only file that imports wandb.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.progress import say
from layerprune.record.point import HELDOUT, Point

log = logging.getLogger(__name__)


def track(config: TrackerConfig, study: Path, points: Sequence[Point], made: bool) -> None:
    """Log the points of one curve against `fraction`, as one run, under `study/wandb`.

    Nothing is logged where no point was `made` and a run of this curve is there. The run's id
    follows from the curve: with the same id, a later run takes the place of an earlier one. What
    goes wrong here is a warning, since the records are already written.
    """
    if config.mode is TrackerMode.disabled or not points:
        return
    kind = "offline-run" if config.mode is TrackerMode.offline else "run"
    if not made and any((study / "wandb").glob(f"{kind}-*-{points[0].curve_key}")):
        return
    try:
        _log_curve(config, study, points)
    except Exception as error:  # whatever W&B does, a run must end well
        log.exception("Weights & Biases failed.")
        say(f"Weights & Biases failed ({error}); the records are whole.")


def _log_curve(config: TrackerConfig, study: Path, points: Sequence[Point]) -> None:
    import wandb

    model, metric, strategy, heal, seed = points[0].curve
    with wandb.init(
        project=config.project,
        entity=config.entity,
        dir=study,
        mode=config.mode.value,
        id=points[0].curve_key,
        name=f"{model} {strategy} {metric} {heal} seed {seed}",
        group=study.name,
        job_type="curve",
        tags=[tag[:64] for tag in (model, metric, strategy, heal)],
        config={**points[0].config, "num_layers": points[0].model["num_layers"]},
        settings=wandb.Settings(silent=True, disable_git=True, save_code=False, console="off"),
    ) as run:
        run.define_metric("fraction")
        run.define_metric("*", step_metric="fraction")
        run.define_metric("heal/step")
        run.define_metric("heal/*", step_metric="heal/step")
        for point in sorted(points, key=lambda point: point.num_dropped):
            run.log(row(point))
            for step in healing_rows(point):
                run.log(step)


def healing_rows(point: Point) -> list[dict[str, Any]]:
    """What was seen while a point was healed, against `heal/step`: `heal/NUM_DROPPED/loss`, ..."""
    if point.healing is None:
        return []
    steps = point.healing["steps"]
    tokens = point.healing["tokens"] / max(1, steps[-1]["step"])
    rows = []
    for step in steps:
        seen = {
            name: step[name]
            for name in ("loss", "learning_rate", "heldout", "peak_memory_bytes")
            if step[name] is not None
        }
        if step["seconds"]:
            seen["tokens_per_second"] = tokens / step["seconds"]
        named = {f"heal/{point.num_dropped}/{name}": value for name, value in seen.items()}
        rows.append({"heal/step": step["step"], **named})
    return rows


def row(point: Point) -> dict[str, Any]:
    """A point as W&B shows it: `TASK/MEASURE` and its standard error against `fraction`."""
    values: dict[str, Any] = {
        "fraction": point.plan["fraction"],
        "layers_dropped": point.num_dropped,
        f"{HELDOUT}/loss": point.loss["nats"],
        f"{HELDOUT}/loss_stderr": point.loss["stderr"],
        f"{HELDOUT}/loss_normalised": point.loss["normalised"],
    }
    for score in point.scores:
        for name, measure in score["measures"].items():
            values[f"{score['task']}/{name}"] = measure["value"]
            if measure["stderr"] is not None:
                values[f"{score['task']}/{name}_stderr"] = measure["stderr"]
    return values
