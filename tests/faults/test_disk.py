"""Disks that are full, read-only, or gone."""

import subprocess
from contextlib import contextmanager
from functools import partial

import pytest
from faults.disturb import vanishing
from faults.running import SAME
from faults.test_killed import EXPORTED, LORA, PLAIN, SEAM

ROOMS = {
    "distances": (PLAIN, "cache/profiles", 0),
    "answers": (PLAIN, "cache/answers", 0),
    "the cache": (PLAIN, "cache", 0),
    "records": (PLAIN, "faults/points", 4),
    "exports": (EXPORTED, "faults/points", 64),
    "the study": (PLAIN, "faults", 0),
    "jobs and records": (PLAIN, "faults", 16),
    "healing's checkpoints": (LORA, "faults/points", 64),
    "states at the seam": (SEAM, "faults/points", 32),
}
"""The run, its folder on a separate disk, and the KiB that are free there."""


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@contextmanager
def disk(folder, free):
    """Yield a disk with some KiB free; a file takes the rest."""
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={free + 4}k", "tmpfs", folder)
    (folder / "filler").write_bytes(bytes(4096))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_full_disk(room, place, undisturbed, seen):
    asked, folder, size = ROOMS[room]
    expected = undisturbed(*asked)
    with disk(place.outputs / folder, size) as full:
        done = place.run(*asked)
        assert done.status in (1, 2), done.said
        assert "No space left on device" in done.last or "are free" in done.last, done.said
        assert not place.half_files()
        assert all(expected[key] == found for key, found in place.results().items())
        mount("-o", "remount,size=64m", full)
        again = place.run(*asked)
        assert again.status == 0, again.said
        assert place.results() == expected
        assert not place.remains()
    seen("disks", f"full, for {room}", done, "once there is space: " + SAME)


def test_a_full_disk_for_the_report(place, undisturbed, seen):
    with disk(place.study / "figures", 4) as full:
        done = place.run(*PLAIN, report=True)
        assert done.status in (0, 1, 2), done.said
        assert place.results() == undisturbed(*PLAIN), "the records are there"
        assert not place.half_files()
        mount("-o", "remount,size=64m", full)
        assert place.run(*PLAIN, report=True).status == 0
        assert list(full.glob("*.svg"))
    assert "No space left on device" in done.said
    seen("disks", "full, for the report", done, "records are complete; the next run draws it")


@pytest.mark.parametrize("room", ["outputs", "cache", "faults/points"])
def test_a_read_only_disk(room, place, undisturbed, seen):
    folder = place.outputs if room == "outputs" else place.outputs / room
    with disk(folder, 65536):
        mount("-o", "remount,ro", folder)
        done = place.run(*PLAIN)
        assert done.status in (1, 2), done.said
        assert "Read-only file system" in done.last, done.said
        mount("-o", "remount,rw", folder)
        assert place.run(*PLAIN).status == 0
        assert place.results() == undisturbed(*PLAIN)
    seen("disks", f"read-only: {room}", done, "once it is writable: " + SAME)


@pytest.mark.parametrize("what", ["the cache", "the study", "all points", "outputs"])
@pytest.mark.parametrize("moment", ["cache/profiles/", "cache/answers/"])
def test_a_folder_that_vanishes(what, moment, place, undisturbed, seen):
    gone = {
        "the cache": place.outputs / "cache", "the study": place.study,
        "all points": place.study / "points", "outputs": place.outputs,
    }[what]  # fmt: skip
    done = place.run(*PLAIN, disturb=partial(vanishing, place.outputs, moment, gone))
    assert done.status in (0, 1, 2), done.said
    assert not place.half_files()
    again = place.run(*PLAIN)
    assert again.status == 0, again.said
    assert place.results() == undisturbed(*PLAIN)
    stage = {"cache/profiles/": "distances are kept", "cache/answers/": "answers are kept"}
    seen("folders", f"{what} removed while {stage[moment]}", done, SAME)


def test_a_model_that_vanishes(place, tmp_path, seen):
    import shutil

    home = place.model
    place.model = shutil.copytree(home, tmp_path / "tiny")
    moment = partial(vanishing, place.outputs, "cache/profiles/", place.model)
    done = place.run(*PLAIN, disturb=moment)
    assert done.status in (1, 2), done.said
    assert not place.results()
    shutil.copytree(home, place.model)
    again = place.run(*PLAIN)
    assert again.status == 0, again.said
    seen("folders", "the model's, removed before loading", done, "once it is restored: " + SAME)
