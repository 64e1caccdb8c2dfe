"""Files are whole, and say so; what the system refuses is named by the file that a user knows."""

import errno
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from layerprune.errors import refusal
from layerprune.runtime.atomic_files import (
    UNFINISHED,
    CorruptFile,
    creating_folder,
    read_checksummed,
    replacing,
    replacing_folder,
    verify_checksums,
    write_checksummed,
    write_checksums,
    write_json,
)
from layerprune.runtime.progress import OneLine

pytestmark = pytest.mark.quick

CONTENT = {"b": [1.5, -2e-7, {"ä": None}], "a": 'a "quoted"\nline', "sha256 of": "nothing"}


def test_what_is_sealed_is_plain_json_and_comes_back(tmp_path):
    path = tmp_path / "some.json"
    write_checksummed(path, CONTENT)
    assert read_checksummed(path) == CONTENT
    plain = json.loads(path.read_text())
    assert len(plain.pop("sha256")) == 64
    assert plain == CONTENT


def test_a_folder_stays_until_another_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "model"
    for content in ("old", "new"):
        with replacing_folder(path) as beside:
            (beside / "some").write_text(content)
            assert path.is_dir() is (content == "new")
        assert [file.read_text() for file in path.iterdir()] == [content]
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as beside:
        (beside / "some").write_text("torn")
        raise KeyboardInterrupt
    assert (path / "some").read_text() == "new"

    rename, moved, refused = Path.rename, [], [0]

    def refuse(self, target):
        moved.append(self)
        if len(moved) == refused[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    for at in (1, 2):  # putting the old one aside, and the new one in its place
        moved.clear()
        refused[0] = at
        with pytest.raises(PermissionError), replacing_folder(path):
            pass
        assert (path / "some").read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]


def test_any_change_of_a_sealed_file_is_seen(tmp_path):
    path = tmp_path / "some.json"
    write_checksummed(path, CONTENT)
    whole = path.read_bytes()
    rng = random.Random(0)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(CorruptFile):
            read_checksummed(path)
        path.write_bytes(whole[:at])
        with pytest.raises(CorruptFile):
            read_checksummed(path)


def test_a_file_without_a_seal_will_do_where_it_may(tmp_path):
    path = tmp_path / "some.json"
    write_json(path, CONTENT)
    with pytest.raises(CorruptFile, match="no checksum"):
        read_checksummed(path)
    assert read_checksummed(path, required=False) == CONTENT
    path.write_text("[1, 2]")
    with pytest.raises(CorruptFile, match="not a JSON object"):
        read_checksummed(path, required=False)


def test_sums_of_a_folder(tmp_path):
    (tmp_path / "one").write_bytes(b"1" * 1000)
    (tmp_path / "other").write_bytes(b"")
    with pytest.raises(CorruptFile, match="No such file"):
        verify_checksums(tmp_path)
    write_checksums(tmp_path, ["one", "other"])
    verify_checksums(tmp_path)
    (tmp_path / "one").write_bytes(b"1" * 999 + b"0")
    with pytest.raises(CorruptFile, match="one was changed"):
        verify_checksums(tmp_path)
    (tmp_path / "one").unlink()
    with pytest.raises(CorruptFile, match="one: No such file"):
        verify_checksums(tmp_path)


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "some.json"
    killed = (
        "import os, pathlib; from layerprune.runtime.atomic_files import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r})) as beside:\n"
        "    beside.write_text('half'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert len([each for each in tmp_path.iterdir() if UNFINISHED in each.name]) == 1
    with replacing(path) as beside:  # another writer's stays, as long as it is at work
        write_json(path, CONTENT)
        assert beside.is_file()
        beside.write_text("whole")
    assert [each.name for each in tmp_path.iterdir()] == ["some.json"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize("filename", [None, "beside"])
@pytest.mark.parametrize("kind", [replacing, creating_folder])
def test_a_refusal_names_the_file_that_was_to_be(kind, filename, tmp_path):
    path = tmp_path / "some.json"
    with pytest.raises(OSError, match="No space") as caught, kind(path) as beside:
        more = () if filename is None else (str(beside),)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *more)
    assert refusal(caught.value) == f"{path}: No space left on device."
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "some.json"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


def test_the_screen_has_one_line_of_what_the_log_says_more_of():
    try:
        raise ValueError("deep inside")
    except ValueError:
        entry = logging.LogRecord("x", logging.ERROR, "", 0, "Loading %s.\nMore", ("it",),
                                  sys.exc_info())  # fmt: skip
    logging.Formatter().format(entry)  # the log file's: it keeps its text in the entry
    assert OneLine("%(levelname)s %(message)s").format(entry) == "ERROR Loading it."
