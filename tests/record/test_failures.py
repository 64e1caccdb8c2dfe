"""What a study's folder keeps beside records: failures, distances, checkpoints, how it was made."""

import dataclasses
import json
import os
import platform
import sys

import pytest
from studies import Maker, make_profile

from layerprune.record.provenance import PACKAGES, PromptSharing, provenance
from layerprune.record.store import Store
from layerprune.runtime.atomic_files import read_checksummed

pytestmark = pytest.mark.quick

KEY = "tiny-block-02-0123456789ab"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "study")


def fail(store, key=KEY, why="it is too small"):
    try:
        raise ValueError("of its own")
    except ValueError as error:
        store.write_failure(key, {"seed": 3}, why, error)


def test_a_failure_says_what_why_when_and_where(store):
    fail(store)
    folder = store.folder / "points" / KEY
    assert sorted(path.name for path in folder.iterdir()) == ["failed.json", "traceback.txt"]
    content = json.loads((folder / "failed.json").read_text())
    assert content.pop("time").endswith("+00:00")
    assert content == {
        "schema": 1, "status": "failed", "key": KEY, "identity": {"seed": 3},
        "error": "it is too small",
    }  # fmt: skip
    trace = store.traceback(KEY).read_text()
    assert trace.startswith("Traceback")
    assert trace.endswith("ValueError: of its own\n")
    assert store.failure(KEY) == "it is too small"
    assert store.failure("another") is None


def test_failures_are_listed_by_name_and_damaged_ones_with_them(store):
    fail(store, "b", "second")
    fail(store, "a", "first")
    for name, text in (("c", "{}"), ("d", "[]"), ("e", "{")):
        (store.folder / "points" / name).mkdir()
        (store.folder / "points" / name / "failed.json").write_text(text)
    found = [(path.parent.name, why) for path, why in store.failures()]
    assert found[:3] == [("a", "first"), ("b", "second"), ("c", "it gives no reason")]
    assert found[3] == ("d", "it is not a JSON object")
    assert found[4][1].startswith("it cannot be read (")
    assert len(found) == 5
    assert store.failure("d") is None


def test_a_record_takes_its_failure_away(tmp_path):
    maker = Maker(tmp_path / "study")
    maker.curve(counts=(2,))
    store = Store(tmp_path / "study")
    (point,) = store.points()[0]
    path = store.point_folder(point.key) / "record.json"
    assert json.loads(path.read_text())["status"] == "ok"
    fail(store, point.key)
    store.write(point)
    assert [each.name for each in path.parent.iterdir()] == ["record.json"]
    assert store.failure(point.key) is None


def test_distances_are_kept_once_and_damaged_ones_written_again(store):
    profile = make_profile(key="abc")
    assert store.read_distances("abc") is None
    store.write_distances(profile)
    path = store.folder / "profiles" / "abc.json"
    assert read_checksummed(path)["key"] == "abc"
    assert store.read_distances("abc") == profile
    store.write_distances(make_profile(key="abc", num_layers=4))  # what is there stays
    assert store.read_distances("abc") == profile
    path.write_text("{}")
    assert store.read_distances("abc") is None
    store.write_distances(profile)
    assert store.read_distances("abc") == profile


def test_checkpoints_lie_in_the_point_and_go(store):
    folder = store.checkpoints(KEY)
    assert folder == store.folder / "points" / KEY / "checkpoints"
    (folder / "one").mkdir(parents=True)
    store.drop_checkpoints(KEY)
    store.drop_checkpoints(KEY)  # there are none
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_how_a_point_was_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "a=b", "c=d"])
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr("torch.are_deterministic_algorithms_enabled", lambda: True)
    made = provenance("cuda:1", PromptSharing())
    assert list(dataclasses.asdict(made)) == [
        "time", "arguments", "commit", "python", "platform", "cpus", "threads", "deterministic",
        "device", "versions", "prompt_sharing", "float32_matmul_precision",
    ]  # fmt: skip
    assert made.time.endswith("+00:00")
    assert len(made.time) == len("2026-01-01T00:00:00+00:00")
    assert made.arguments == ("a=b", "c=d")
    assert made.python == platform.python_version()
    assert made.platform == platform.platform()
    assert made.cpus == os.cpu_count()
    assert (made.threads, made.deterministic, made.device) == (3, True, "cuda:1")
    assert made.float32_matmul_precision == "highest"
    assert "products" not in made.machine
    coarser = dataclasses.replace(made, float32_matmul_precision="high")
    assert coarser.machine == f"{made.machine}, float32 products in precision high"
    assert list(made.versions) == list(PACKAGES)
    assert made.versions["torch"].startswith("2.")
    assert made.commit is None or len(made.commit.rstrip("+")) == 40
