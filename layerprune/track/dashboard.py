"""`python -m layerprune.track.dashboard outputs/STUDY`: a study's workspaces on W&B, as code.

The only file that imports wandb_workspaces.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.errors import UserError
from layerprune.files import write_json
from layerprune.record.store import Store
from layerprune.redact import redacted
from layerprune.report import read_entries
from layerprune.report.curves import Curve, Task, make_curves, make_tasks
from layerprune.track.mirrored import recorded_tracker

MAX_RUNS = 50
"""Curves in one plot; W&B's own is 10."""

INSTALL = "pip install 'layerprune[dashboards]'"

SUBJECTS = 60
"""Plots of single subjects at most: a workspace of hundreds opens slowly."""


@dataclass(frozen=True)
class Panel:
    """A plot against the fraction dropped, or the pictures of that name if it has no columns."""

    title: str
    columns: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]
    is_open: bool = True


def sections(family: str, curves: Sequence[Curve], tasks: Sequence[Task]) -> list[Section]:
    """What the curves of one family of models are looked at by; empty sections are left out."""
    whole = [task for task in tasks if task.parent is None]
    parts = [task for task in tasks if task.parent is not None]
    healed = any(entry.healing is not None for curve in curves for entry in curve.entries)
    maps = any(entry.profile is not None for curve in curves for entry in curve.entries)
    loss = Panel("held-out loss / ln V", ("heldout/loss_normalised",))
    found = [
        Section(f"Curves: {family}", (*map(_accuracy, whole), loss)),
        Section(
            "Before and after healing",
            (
                Panel("held-out loss before healing (nats)", ("loss_before_healing",)),
                Panel("held-out loss after healing (nats)", ("loss_after_healing",)),
                Panel("seconds of healing", ("healing_seconds",)),
            )
            if healed
            else (),
        ),
        Section(
            "Distances between layers",
            (Panel("heat-maps", pictures=("distances",)),) if maps else (),
        ),
        Section(
            "Speed and cost",
            (
                Panel("seconds for a point", ("seconds",)),
                Panel("peak memory (bytes)", ("peak_memory_bytes",)),
                Panel("parameters kept", ("parameters_kept",)),
            ),
        ),
        Section("Subjects", tuple(map(_accuracy, parts[:SUBJECTS])), is_open=False),
    ]
    return [section for section in found if section.panels]


def _accuracy(task: Task) -> Panel:
    return Panel(f"accuracy on {task.name}", (f"{task.name}/{task.measure}",))


def make_workspaces(study: Path, entity: str, project: str) -> list[Any]:
    """A workspace for each family of models in the study, of the curves' runs alone.

    W&B filters runs for a whole workspace, not for a panel: families have one each.
    """
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    entries, _ = read_entries(Store(study))
    if not entries:
        raise UserError(f"{study} holds no record that can be read.")
    curves = make_curves(entries)
    name = study.resolve().name

    def panel(each: Panel) -> Any:
        if each.pictures:
            return wr.MediaBrowser(title=each.title, media_keys=list(each.pictures))
        return wr.LinePlot(
            title=each.title,
            x="fraction",
            y=list(each.columns),
            title_x="fraction of layers dropped",
            smoothing_type="none",
            ignore_outliers=False,
            max_runs_to_show=MAX_RUNS,
        )

    made = []
    for family in dict.fromkeys(curve.first.family for curve in curves):
        own = [curve for curve in curves if curve.first.family == family]
        made.append(
            ws.Workspace(
                entity=entity,
                project=project,
                name=f"{redacted(name)}: {family}",
                sections=[
                    ws.Section(
                        name=section.title,
                        panels=[panel(each) for each in section.panels],
                        is_open=section.is_open,
                    )
                    for section in sections(family, own, make_tasks(own))
                ],
                settings=ws.WorkspaceSettings(x_axis="fraction", max_runs=MAX_RUNS),
                runset_settings=ws.RunsetSettings(
                    filters=[
                        ws.Metric("JobType") == "curve",
                        ws.Config("study") == name,
                        ws.Config("family") == family,
                    ],
                    order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
                ),
            )
        )
    return made


def spec(workspace: Any) -> dict[str, Any]:
    """What would be sent of a workspace."""
    view: dict[str, Any] = {
        "name": workspace.name,
        "entity": workspace.entity,
        "project": workspace.project,
        "spec": workspace._spec["spec"],
    }
    return view


def save(workspaces: Sequence[Any], state: Path) -> None:
    """Save workspaces on W&B; `state` says under which names, so that a repeat changes them."""
    try:
        known = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    for workspace in workspaces:
        key = f"{workspace.entity}/{workspace.project}/{workspace.name}"
        if key in known:
            workspace._internal_name, workspace._internal_id = known[key]
        workspace.save()
        known[key] = [workspace._internal_name, workspace._internal_id]
        write_json(state, known)
        print(f"{workspace.name}: {workspace.url}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make and send the workspaces; 2 for what the user can mend, 1 if W&B failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.track.dashboard",
        description="Make a workspace of a study's curves on Weights & Biases, one for each family "
        "of models: curves, healing, heat-maps, costs. A repeat changes it.",
    )
    parser.add_argument("study", type=Path, metavar="outputs/STUDY", help="folder of a study")
    parser.add_argument("--project", metavar="NAME", help="that of the study's newest record")
    parser.add_argument("--entity", metavar="NAME", help="user or team that has the project")
    parser.add_argument("--to", type=Path, metavar="FILE.json", help="write it there, send nothing")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        tracker = recorded_tracker(asked.study)
        entity = asked.entity or tracker.entity or os.environ.get("WANDB_ENTITY", "")
        if not entity and asked.to is None:
            raise UserError("--entity NAME is missing: the user or team that has the project.")
        made = make_workspaces(asked.study, entity, asked.project or tracker.project)
        if asked.to is not None:
            write_json(asked.to, {"workspaces": [spec(each) for each in made]})
            print(asked.to)
        else:
            save(made, asked.study / "wandb" / "workspaces.json")
    except UserError as error:
        return _complain(str(error), 2)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("wandb_workspaces"):
            raise
        return _complain(f"wandb-workspaces is not installed: {INSTALL}", 2)
    except OSError as error:
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}.", 2)
    except Exception as error:  # whatever W&B raises
        return _complain(redacted(f"Weights & Biases failed: {' '.join(str(error).split())}"), 1)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"layerprune: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
