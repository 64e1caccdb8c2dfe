"""Read an offline W&B file: what a run would send, as its own records have it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts import script
from wandb.proto.wandb_internal_pb2 import Record


@dataclass
class Run:
    run_id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    """What was set beside the history."""
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[tuple[str, str]] = field(default_factory=list)
    """(name or pattern, its step metric)."""
    exit_code: int | None = None


def read_run(path: Path) -> Run:
    run = Run()
    for content in script("golden").log_records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.group = record.run.run_id, record.run.run_group
            run.job_type, run.name = record.run.job_type, record.run.display_name
            run.project = record.run.project
            for item in record.run.config.update:
                run.config[item.key] = json.loads(item.value_json)
        elif kind == "summary":
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                run.summary[key] = json.loads(item.value_json)
        elif kind == "metric":
            run.metrics.append(
                (record.metric.name or record.metric.glob_name, record.metric.step_metric)
            )
        elif kind == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                inner = row
                for key in outer:
                    inner = inner.setdefault(key, {})
                inner[last] = json.loads(item.value_json)
            run.history.append({k: v for k, v in row.items() if not k.startswith("_")})
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def read_runs(folder: Path) -> list[Run]:
    """Every run that was written under `outputs/STUDY/wandb`."""
    return [read_run(path) for path in sorted(folder.glob("*run-*/run-*.wandb"))]
