"""Reads an offline W&B file: what a run would send, as its own records say it.

The file is a LevelDB log: a header of 7 bytes, then blocks of 32 KiB; each record in a block has
7 bytes before it (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last).
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024


@dataclass
class Run:
    run_id: str = ""
    group: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[tuple[str, str]] = field(default_factory=list)
    """(name or pattern, its step metric)."""
    exit_code: int | None = None


def read_run(path: Path) -> Run:
    run = Run()
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.group = record.run.run_id, record.run.run_group
        elif kind == "metric":
            run.metrics.append(
                (record.metric.name or record.metric.glob_name, record.metric.step_metric)
            )
        elif kind == "history":
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
                for item in record.history.item
            }
            run.history.append({k: v for k, v in items.items() if not k.startswith("_")})
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(content: bytes) -> Iterator[Record]:
    at, parts = 7, []
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(b"".join(parts))
            parts = []
