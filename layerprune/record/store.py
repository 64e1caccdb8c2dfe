"""The points of a study on disk."""

import shutil
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.record.point import SCHEMA, Point
from layerprune.record.validation import ForeignRecord
from layerprune.runtime.atomic_files import (
    CorruptFile,
    read_checksummed,
    write_checksummed,
    write_json,
    write_text,
)
from layerprune.runtime.cache import read_intact
from layerprune.runtime.redact import redacted

RECORD, FAILED = "record.json", "failed.json"
"""Files of a finished point, and of one that failed."""


class Store:
    """The files `FOLDER/points/KEY/record.json`, and the distances `FOLDER/profiles/KEY.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> Point | None:
        """Return the finished point of that key; None if it is missing or its record damaged."""
        try:
            point = _read_point(self._record(key))
        except ForeignRecord:
            return None
        return point if point.key == key else None

    def point_folder(self, key: str) -> Path:
        """Return the folder of a point."""
        return self._record(key).parent

    def checkpoints(self, key: str) -> Path:
        """Return the folder of a point's training checkpoints, kept until its record is written."""
        return self.point_folder(key) / "checkpoints"

    def drop_checkpoints(self, key: str) -> None:
        """Remove the checkpoints that a point's training would have resumed from."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def write(self, point: Point) -> Path:
        """Write a point's record, atomically, and return its path."""
        path = self._record(point.key)
        content = point.to_json()
        # Neither is part of the key, and a command line may hold a token.
        content |= redacted({name: content[name] for name in ("config", "provenance")})
        write_checksummed(path, content)
        self._failure(point.key).unlink(missing_ok=True)
        self.traceback(point.key).unlink(missing_ok=True)
        return path

    def write_failure(self, key: str, identity: dict[str, Any], why: str, error: Exception) -> None:
        """Write the reason and the traceback of a failed point, until it succeeds."""
        write_text(self.traceback(key), redacted("".join(traceback.format_exception(error))))
        content = {
            "schema": SCHEMA,
            "status": "failed",
            "key": key,
            "identity": identity,
            "error": redacted(why),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(self._failure(key), content)

    def traceback(self, key: str) -> Path:
        """Return the file with the traceback of a failed point."""
        return self.point_folder(key) / "traceback.txt"

    def failure(self, key: str) -> str | None:
        """Return the reason why a point failed; None if it didn't, or has succeeded since."""
        try:
            return _read_json(self._failure(key)).get("error")
        except ForeignRecord:
            return None

    def failures(self) -> Iterator[tuple[Path, str]]:
        """Yield the file and the reason of each point that failed and hasn't succeeded since."""
        for path in sorted((self.folder / "points").glob(f"*/{FAILED}")):
            try:
                yield path, str(_read_json(path).get("error") or "it gives no reason")
            except ForeignRecord as error:
                yield path, str(error)

    def points(self) -> tuple[list[Point], list[str]]:
        """Return every finished point once, and a line for each record that can't be read."""
        points: dict[str, Point] = {}
        skipped = []
        for path in sorted((self.folder / "points").glob(f"*/{RECORD}")):
            try:
                point = _read_point(path)
                if point.key in points:
                    name = path.parent.name
                    raise ForeignRecord(f"{name} holds a point that another folder holds too")
                points[point.key] = point
            except ForeignRecord as error:
                skipped.append(f"{path.relative_to(self.folder)}: {error}")
        return list(points.values()), skipped

    def write_distances(self, distances: DistanceMatrix) -> None:
        """Keep a matrix of distances beside the points that were planned from it."""
        if self.read_distances(distances.key) is None:
            write_checksummed(self._distances(distances.key), asdict(distances))

    def read_distances(self, key: str) -> DistanceMatrix | None:
        """Return the matrix of distances of that key; None if it is missing or damaged."""
        return read_intact(
            self._distances(key),
            lambda path: DistanceMatrix(**read_checksummed(path, required=False)),
        )

    def distances_of(
        self, points: Iterable[Point]
    ) -> tuple[list[tuple[str, DistanceMatrix]], list[str]]:
        """Return the matrices behind points with their models' names, and a line for each lost."""
        owners: dict[str, Point] = {}
        for point in points:
            if point.plan.profile is not None:
                owners.setdefault(point.plan.profile, point)
        matrices, lost = [], []
        for key, point in owners.items():
            distances = self.read_distances(key)
            if distances is None or len(distances.distances) != point.model.num_layers + 1:
                lost.append(f"profiles/{key}.json: missing or damaged: its heat map is not drawn")
            else:
                matrices.append((point.model.name, distances))
        return matrices, lost

    def _record(self, key: str) -> Path:
        return self.folder / "points" / key / RECORD

    def _failure(self, key: str) -> Path:
        return self.point_folder(key) / FAILED

    def _distances(self, key: str) -> Path:
        return self.folder / "profiles" / f"{key}.json"


def _read_point(path: Path) -> Point:
    return Point.from_json(_read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    """Return a file's content. Raises `ForeignRecord` with the reason if it can't be read."""
    try:
        return read_checksummed(path, required=False)
    except CorruptFile as error:
        raise ForeignRecord(str(error)) from error
    except OSError as error:
        raise ForeignRecord(f"it cannot be read ({error})") from error
