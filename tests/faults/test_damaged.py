"""Damaged files of caches and records are detected and recomputed."""

import json
import re
import shutil
import signal
from functools import partial

import pytest
from faults.disturb import signalled
from faults.running import SAME, Place
from faults.test_killed import LORA, LORA_EXPORTED, PLAIN, moments

GREEDY = ("prune=greedy",)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Change a digit of a number in a text file, a bit in others."""
    content = bytearray(path.read_bytes())
    numbers = [at.start() for at in re.finditer(rb"(?<=\d)\d(?=\d)", content)]
    if path.suffix == ".json":
        at = numbers[len(numbers) // 2]
        content[at] = ord("1") if content[at] != ord("1") else ord("2")
    else:
        content[len(content) * 3 // 4] ^= 0x10
    path.write_bytes(content)


def odd(path):
    path.write_text('{"hello": [1, 2, 3]}')


def folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "cut short": cut, "emptied": empty, "with a bit flipped": flip,
    "written by another program": odd, "a folder in its place": folder,
}  # fmt: skip

FILES = {
    "the model's fingerprint": (PLAIN, "cache/fingerprints.json"),
    "distances": (PLAIN, "cache/profiles/*.json"),
    "the order of layers": (GREEDY, "cache/profiles/order-*.json"),
    "answers": (PLAIN, "cache/answers/*/*.json"),
}


def copied(place, finished):
    shutil.copytree(finished.outputs, place.outputs)
    return place.results()


def only(place, pattern):
    found = sorted(place.outputs.glob(pattern))
    assert found, pattern
    return found[0]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_cache(kind, damage, place, finished, seen):
    asked, pattern = FILES[kind]
    expected = copied(place, finished(*asked))
    shutil.rmtree(place.study)
    DAMAGES[damage](only(place, pattern))
    done = place.run(*asked)
    if damage == "a folder in its place":
        assert done.status != 0
        assert "Is a directory" in done.last, done.said
        only(place, pattern).rmdir()
        seen("caches", f"{kind}: {damage}", done, "once it is removed: " + SAME)
        done = place.run(*asked)
    else:
        seen("caches", f"{kind}: {damage}", done, "recomputed; same records")
    assert done.status == 0, done.said
    assert place.results() == expected
    assert not place.half_files()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record(damage, place, finished, seen):
    expected = copied(place, finished(*PLAIN))
    path = only(place, "faults/points/*/record.json")
    kept = {each: each.stat().st_mtime_ns for each in place.study.glob("points/*/record.json")}
    del kept[path]
    DAMAGES[damage](path)
    done = place.run(*PLAIN)
    if damage == "a folder in its place":
        assert done.status != 0
        path.rmdir()
        seen("records", f"a record: {damage}", done, "once it is removed: " + SAME)
        done = place.run(*PLAIN)
    else:
        seen("records", f"a record: {damage}", done, "recomputed; the others are kept")
    assert done.status == 0, done.said
    assert place.results() == expected
    assert kept == {each: each.stat().st_mtime_ns for each in kept}


@pytest.mark.parametrize("damage", ["cut short", "with a bit flipped"])
def test_damaged_distances_of_a_study(damage, place, finished, seen):
    copied(place, finished(*PLAIN))
    path = only(place, "faults/profiles/*.json")
    whole = path.read_text()
    DAMAGES[damage](path)
    only(place, "faults/points/*/record.json").unlink()
    done = place.run(*PLAIN)
    assert done.status == 0, done.said
    assert path.read_text() == whole
    seen("records", f"a study's distances: {damage}", done, "written again with the next point")


@pytest.mark.parametrize("kind", ["a record", "answers", "distances"])
def test_a_file_of_another_of_its_kind(kind, place, finished, tmp_path, tiny_tasks, seen):
    """Intact files, checksum included, whose content belongs elsewhere."""
    expected = copied(place, finished(*PLAIN))
    if kind == "a record":
        first, second, *_ = sorted(place.study.glob("points/*/record.json"))
        shutil.copy(second, first)
    else:
        shutil.rmtree(place.study)
        pattern = FILES[kind][1]
        other = Place(tmp_path / "other", place.model, tiny_tasks)
        more = ("eval.num_fewshot=1", "data.calibration_sequences=4")
        assert other.run(*PLAIN, *more).status == 0
        shutil.copy(only(other, pattern), only(place, pattern))
    done = place.run(*PLAIN)
    assert done.status == 0, done.said
    assert place.results() == expected
    seen("caches", f"{kind}: with another file's content", done, "recomputed; same records")


@pytest.mark.parametrize("damage", ["cut short", "emptied", "with a bit flipped"])
@pytest.mark.parametrize("name", ["trained.safetensors", "trainer_state.json", "optimizer.pt"])
def test_a_damaged_checkpoint(name, damage, place, undisturbed, changed, seen):
    expected = undisturbed(*LORA)
    at = moments(changed(*LORA), "checkpoints/checkpoint-3")[-1]
    stopped = place.run(*LORA, disturb=partial(signalled, place.outputs, signal.SIGKILL, at))
    assert stopped.status == -signal.SIGKILL
    newest = max(place.study.glob("points/*/checkpoints/checkpoint-*"))
    DAMAGES[damage](newest / name)
    done = place.run(*LORA)
    assert done.status == 0, done.said
    assert place.results() == expected
    seen("healing", f"a checkpoint's {name}: {damage}", done, "uses an earlier one; same records")


@pytest.mark.parametrize("damage", ["cut short", "with a bit flipped"])
def test_a_damaged_update_is_not_exported(damage, place, finished, seen):
    expected = copied(place, finished(*LORA))
    path = only(place, "faults/points/*/adapter/adapter_model.safetensors")
    DAMAGES[damage](path)
    done = place.run(*LORA_EXPORTED)
    assert done.status == 2
    assert "was changed after it was written" in done.last
    assert not (path.parent.parent / "model").exists()
    shutil.rmtree(path.parent.parent)
    again = place.run(*LORA_EXPORTED)
    assert again.status == 0, again.said
    assert place.results() == expected
    seen("exports", f"LoRA adapters: {damage}", done, "once it is removed: " + SAME)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "a folder in its place"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model(name, damage, place, tmp_path, seen):
    place.model = shutil.copytree(place.model, tmp_path / "tiny")
    DAMAGES[damage](place.model / name)
    done = place.run(*PLAIN)
    assert done.status in (1, 2), done.said
    assert str(tmp_path) in done.last or "model.path" in done.last, done.said
    assert not place.results()
    seen("the model", f"{name}: {damage}", done, "no point is computed")


def test_a_record_from_before_there_were_seals(place, finished):
    expected = copied(place, finished(*PLAIN))
    for path in place.study.glob("points/*/record.json"):
        content = json.loads(path.read_text())
        del content["sha256"]
        path.write_text(json.dumps(content))
    before = {path: path.stat().st_mtime_ns for path in place.study.glob("points/*/record.json")}
    assert place.run(*PLAIN).status == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(expected) == len(before)
