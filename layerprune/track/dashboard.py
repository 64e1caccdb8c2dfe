"""`python -m layerprune.track.dashboard outputs/STUDY`: create a study's workspaces on W&B.

This is the only file that imports wandb_workspaces.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from layerprune.analysis.curves import Curve, Task, make_tasks
from layerprune.errors import ExitStatus, UserError
from layerprune.report import read
from layerprune.runtime.atomic_files import write_json
from layerprune.runtime.redact import redacted
from layerprune.track.sync import recorded_tracker

MAX_RUNS = 50
"""Curves in one plot; W&B's default is 10."""

INSTALL = "pip install 'layerprune[dashboards]'"

SUBJECTS, MAX_SUBJECTS = "Subjects", 60
"""Section of single subjects, closed at first, and its most plots: hundreds would open slowly."""


HEAT_MAPS = "distances"
"""Key of the pictures of layer distances in a run."""


def sections(
    family: str, curves: Sequence[Curve], tasks: Sequence[Task]
) -> dict[str, dict[str, str]]:
    """Return the sections for a model family, without empty ones: panel titles by column."""
    points = [point for curve in curves for point in curve.points]
    healed = any(point.healing is not None for point in points)
    measured = any(point.plan.profile is not None for point in points)
    healing = {
        "loss_before_healing": "held-out loss before healing (nats)",
        "loss_after_healing": "held-out loss after healing (nats)",
        "healing_seconds": "seconds of healing",
    }
    cost = {
        "seconds": "seconds per point",
        "peak_memory_bytes": "peak memory (bytes)",
        "parameters_kept": "parameters kept",
    }
    candidates = {
        f"Curves: {family}": {
            **_accuracies(task for task in tasks if task.parent is None),
            "heldout/loss_normalised": "held-out loss / ln V",
        },
        "Before and after healing": healing if healed else {},
        "Distances between layers": {HEAT_MAPS: "heat-maps"} if measured else {},
        "Speed and cost": cost,
        SUBJECTS: _accuracies(islice((task for task in tasks if task.parent), MAX_SUBJECTS)),
    }
    return {title: panels for title, panels in candidates.items() if panels}


def _accuracies(tasks: Iterable[Task]) -> dict[str, str]:
    return {f"{task.name}/{task.measure}": f"accuracy on {task.name}" for task in tasks}


def make_workspaces(study: Path, entity: str, project: str) -> list[Any]:
    """Return a workspace of the study's figures, and one of the curves of each model family.

    W&B filters runs per workspace, not per panel, so each family has its own.
    """
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    from layerprune.report.figures.study_figures import make_figures
    from layerprune.track.media import media_key

    report = read([study])
    curves = report.curves
    name = study.resolve().name

    def panel(column: str, title: str) -> Any:
        if column == HEAT_MAPS:
            return wr.MediaBrowser(title=title, media_keys=[column])
        return wr.LinePlot(
            title=title,
            x="fraction",
            y=[column],
            title_x="fraction of layers dropped",
            smoothing_type="none",
            ignore_outliers=False,
            max_runs_to_show=MAX_RUNS,
        )

    def workspace(title: str, sections: list[Any], **runset: Any) -> Any:
        return ws.Workspace(
            entity=entity,
            project=project,
            name=f"{redacted(name)}: {title}",
            sections=sections,
            settings=ws.WorkspaceSettings(x_axis="fraction", max_runs=MAX_RUNS),
            runset_settings=ws.RunsetSettings(**runset),
        )

    figures = make_figures(curves, report.tasks, report.profiles, report.searches)
    keys = [media_key(figure.name) for figure in figures]
    of_study = [ws.Metric("JobType") == "study", ws.Config("study") == name]
    workspaces = [
        workspace(
            "figures and summary",
            [
                ws.Section(
                    name="Summary",
                    panels=[wr.WeavePanelSummaryTable(table_name="summary")],
                    is_open=True,
                ),
                ws.Section(
                    name="Figures",
                    panels=[wr.MediaBrowser(title=key, media_keys=[key]) for key in keys],
                    is_open=True,
                ),
            ],
            filters=of_study,
        )
    ]
    for family in dict.fromkeys(curve.first.model.family for curve in curves):
        own = [curve for curve in curves if curve.first.model.family == family]
        parts = [
            ws.Section(
                name=title,
                panels=[panel(*column_and_title) for column_and_title in panels.items()],
                is_open=title != SUBJECTS,
            )
            for title, panels in sections(family, own, make_tasks(own)).items()
        ]
        filters = [
            ws.Metric("JobType") == "curve",
            ws.Config("study") == name,
            ws.Config("family") == family,
        ]
        # Each healed curve stands beside its counterpart, and seeds are apart.
        groups = [ws.Config(key) for key in ("model_name", "pair", "recipe")]
        order = [ws.Ordering(ws.Metric("Name"), ascending=True)]
        workspaces.append(workspace(family, parts, filters=filters, groupby=groups, order=order))
    return workspaces


def spec(workspace: Any) -> dict[str, Any]:
    """Return the data of a workspace as `save` would send it."""
    view = {name: getattr(workspace, name) for name in ("name", "entity", "project")}
    return {**view, "spec": workspace._spec["spec"]}


def save(workspaces: Sequence[Any], state: Path) -> None:
    """Save workspaces on W&B; the file `state` holds their ids, so that a repeat updates them."""
    try:
        ids = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        ids = {}
    for workspace in workspaces:
        key = f"{workspace.entity}/{workspace.project}/{workspace.name}"
        if key in ids:
            workspace._internal_name, workspace._internal_id = ids[key]
        workspace.save()
        ids[key] = [workspace._internal_name, workspace._internal_id]
        write_json(state, ids)
        print(f"{workspace.name}: {workspace.url}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the workspaces; return 2 after an error of the user's, 1 if W&B failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.track.dashboard",
        description="Create workspaces of a study on Weights & Biases: its figures and summary, "
        "and for each model family curves, healing, heat-maps and costs. A repeat updates them.",
    )
    parser.add_argument("study", type=Path, metavar="outputs/STUDY", help="folder of a study")
    parser.add_argument("--project", metavar="NAME", help="by default, the newest record's")
    parser.add_argument("--entity", metavar="NAME", help="user or team of the project")
    parser.add_argument("--to", type=Path, metavar="FILE.json", help="write it to a file instead")
    options = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    status = ExitStatus()
    try:
        with status.catch():
            tracker = recorded_tracker(options.study)
            entity = options.entity or tracker.entity or os.environ.get("WANDB_ENTITY", "")
            if not entity and options.to is None:
                raise UserError("--entity NAME is missing: name the user or team of the project.")
            workspaces = make_workspaces(options.study, entity, options.project or tracker.project)
            if options.to is not None:
                write_json(options.to, {"workspaces": [spec(item) for item in workspaces]})
                print(options.to)
            else:
                save(workspaces, options.study / "wandb" / "workspaces.json")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("wandb_workspaces"):
            raise
        status.fail(f"wandb-workspaces is not installed: {INSTALL}")
    except Exception as error:  # W&B raises any error
        status.fail(f"Weights & Biases failed: {' '.join(str(error).split())}", 1)
    return status.value


if __name__ == "__main__":
    sys.exit(main())
