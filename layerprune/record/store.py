"""The points of a study, on disk."""

import shutil
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerprune.files import Damaged, read_sealed, write_json, write_sealed, write_text
from layerprune.record.point import SCHEMA, ForeignRecord, Point
from layerprune.redact import redacted
from layerprune.similarity.profile import Profile

RECORD, FAILED = "record.json", "failed.json"
"""Files of a point that was made, and of one that came to nothing."""


class Store:
    """`FOLDER/points/KEY/record.json`, and `FOLDER/profiles/KEY.json` for matrices of distances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> Point | None:
        """The finished point of that key; None if there is none, or its record is damaged."""
        point = _read(self._record(key))[0]
        return point if point is not None and point.key == key else None

    def point_folder(self, key: str) -> Path:
        """Where everything of one point lies."""
        return self._record(key).parent

    def checkpoints(self, key: str) -> Path:
        """Where a point's training is kept until its record is written."""
        return self.point_folder(key) / "checkpoints"

    def drop_checkpoints(self, key: str) -> None:
        """Remove what a point's training needed to go on after a stop."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def write(self, point: Point) -> Path:
        """Write a point's record, whole or not at all; returns its path."""
        path = self._record(point.key)
        content = point.to_json()
        # Neither is part of the key; what was typed on the command line may hold a token.
        content |= redacted({name: content[name] for name in ("config", "provenance")})
        write_sealed(path, content)
        self._failure(point.key).unlink(missing_ok=True)
        self.traceback(point.key).unlink(missing_ok=True)
        return path

    def write_failure(self, key: str, identity: dict[str, Any], why: str, error: Exception) -> None:
        """Keep why a point came to nothing, and where; both go once the point is done."""
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
        """The file that says where a point failed, if it did."""
        return self.point_folder(key) / "traceback.txt"

    def failure(self, key: str) -> str | None:
        """Why a point came to nothing, if it did and has not been made since."""
        content, _ = _read_json(self._failure(key))
        return content.get("error") if isinstance(content, dict) else None

    def failures(self) -> Iterator[tuple[Path, str]]:
        """Each point that failed and has not been made since: its file, and why it failed."""
        for path in sorted((self.folder / "points").glob(f"*/{FAILED}")):
            content, why = _read_json(path)
            said = content.get("error") if isinstance(content, dict) else None
            yield path, str(said or why or "it does not say why")

    def points(self) -> Iterator[tuple[Path, Point | None, str]]:
        """Every record: its path, its point, or None and why it could not be read."""
        for path in sorted((self.folder / "points").glob(f"*/{RECORD}")):
            yield path, *_read(path)

    def write_profile(self, profile: Profile) -> None:
        """Keep a matrix of distances beside the points that were planned from it."""
        if self.read_profile(profile.key) is None:
            write_sealed(self._profile(profile.key), asdict(profile))

    def read_profile(self, key: str) -> Profile | None:
        """The matrix of distances of that key, if it is there and whole."""
        content, _ = _read_json(self._profile(key))
        try:
            return Profile(**content)
        except TypeError:
            return None

    def _record(self, key: str) -> Path:
        return self.folder / "points" / key / RECORD

    def _failure(self, key: str) -> Path:
        return self.point_folder(key) / FAILED

    def _profile(self, key: str) -> Path:
        return self.folder / "profiles" / f"{key}.json"


def _read(path: Path) -> tuple[Point | None, str]:
    content, why = _read_json(path)
    if why:
        return None, why
    try:
        return Point.from_json(content), ""
    except ForeignRecord as error:
        return None, str(error)


def _read_json(path: Path) -> tuple[Any, str]:
    try:
        return read_sealed(path, must=False), ""
    except FileNotFoundError:
        return None, "it does not exist"
    except (ValueError, OSError) as error:
        return None, str(error) if isinstance(error, Damaged) else f"it cannot be read ({error})"
