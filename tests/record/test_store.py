"""Records are whole or not there; keys follow what changes a result."""

import dataclasses
import json
import os

import pytest
import torch
from configs import config, make_metric
from safetensors.torch import save_file
from studies import Maker

from layerprune.config.schema import (
    Calibration,
    DataConfig,
    Dtype,
    EvalConfig,
    ModelConfig,
    Quantization,
    RuntimeConfig,
    Tokens,
    TrackerConfig,
    TrackerMode,
)
from layerprune.heal.recipes.linear import Linear
from layerprune.prune.strategies.deepest import Deepest
from layerprune.prune.target import Target
from layerprune.record.identity import identity, order_identity, point_key, profile_identity
from layerprune.record.point import Point
from layerprune.record.store import Store
from layerprune.record.validation import ForeignRecord
from layerprune.runtime.atomic_files import creating_folder, replacing, write_json

pytestmark = pytest.mark.quick


def key(target=Target(0.1, 3), model="a", text="b", questions="c", name="tiny", **changes):  # noqa: B008
    return point_key(identity(config(**changes), name, model, text, questions, target))


def test_distances_follow_what_changes_them_and_the_seed_only_where_it_draws_them():
    def of(seed=0, **metric):
        made = config(seed=seed, metric=make_metric(**metric))
        return profile_identity(made, "weights", "text", "questions")

    assert of(name="cka", tokens=Tokens.last) != of(name="cka", tokens=Tokens.all)
    assert of(name="random", seed=0) != of(name="random", seed=1)
    for metric in ({"name": "perplexity"}, {"name": "angular", "tokens": Tokens.last}):
        assert of(seed=0, **metric) == of(seed=1, **metric)


def test_distances_on_questions_follow_the_questions_and_those_on_text_do_not():
    def of(calibration, text="b", questions="c", **eval):
        data = DataConfig(calibration=calibration)
        asked = EvalConfig(**{"tasks": ["facts"], **eval})
        return profile_identity(config(data=data, eval=asked), "a", text, questions)

    on_text, on_questions = of(Calibration.text), of(Calibration.questions)
    assert on_text == of(Calibration.text, questions="xyz", tasks=["boolq"])
    assert on_text != of(Calibration.text, text="xyz")
    # Matrices from before there was a choice have the keys that they had.
    assert on_text["text"] == "b"
    assert "questions" not in on_text
    assert on_questions != on_text
    assert on_questions == of(Calibration.questions, text="xyz", limit=5, num_fewshot=2)
    assert on_questions != of(Calibration.questions, questions="xyz")
    assert on_questions != of(Calibration.questions, tasks=["boolq"])


def test_points_on_text_have_the_keys_that_they_had():
    def of(calibration):
        data = DataConfig(calibration=calibration)
        return identity(config(data=data), "m", "a", "b", "c", Target(0.1, 3))

    on_text, on_questions = of(Calibration.text), of(Calibration.questions)
    assert "calibration" not in on_text["data"]
    assert on_questions == {**on_text, "data": {**on_text["data"], "calibration": "questions"}}


def test_key_follows_what_changes_the_result():
    other = [
        key(model="xyz"),
        key(text="xyz"),
        key(questions="xyz"),
        key(name="another label"),
        key(Target(0.1, 4)),
        key(Target(0.1, 3, (1, 2, 3))),
        key(seed=1),
        key(metric=make_metric("cosine", Tokens.last)),
        key(metric=make_metric("angular")),
        key(metric=make_metric("perplexity")),
        key(prune=Deepest()),
        key(heal=Linear(sequences=8, sequence_length=8)),
        key(eval=EvalConfig(tasks=["facts"], limit=5)),
        key(eval=EvalConfig(tasks=["facts"], num_fewshot=2)),
        key(data=DataConfig(sequence_length=64)),
        key(data=DataConfig(heldout_sequences=3)),
        key(data=DataConfig(calibration=Calibration.questions)),
    ]
    assert len({key(), *other}) == len(other) + 1


def test_key_ignores_what_does_not():
    same = [
        key(Target(0.12, 3)),
        key(study="another"),
        key(tracker=TrackerConfig(mode=TrackerMode.disabled)),
        key(runtime=RuntimeConfig(outputs="elsewhere", threads=1)),
        key(eval=EvalConfig(tasks=["facts"], include_path="elsewhere")),
    ]
    assert {key()} == set(same)
    assert key(name="../../etc/<passwd>").startswith("etc-passwd-block-03-")


def test_what_is_computed_with_is_part_of_every_key():
    half = ModelConfig(path="m", dtype=Dtype.bfloat16)
    held = ModelConfig(path="m", quantization=Quantization.nf4)
    models = [ModelConfig(path="m"), half, held]
    for found in (
        [identity(config(model=model), "m", "a", "b", "c", Target(0, 0)) for model in models],
        [profile_identity(config(model=model), "a", "b", "c") for model in models],
        [order_identity(config(model=model), "a", "b", "c") for model in models],
    ):
        dense, half_dense, held_dense = (each["model"] for each in found)
        assert half_dense != dense
        # Records from before there was a choice have the keys that they had.
        assert "quantization" not in dense
        assert held_dense == {**dense, "quantization": "nf4"}


@pytest.fixture
def point(tmp_path):
    return Maker(tmp_path).point([1, 2], heal="lora", speed=True, write=False)


def test_written_and_read_again(tmp_path, point):
    store = Store(tmp_path)
    assert store.read(point.key) is None
    path = store.write(point)
    assert store.read(point.key) == point
    assert store.points() == ([point], [])
    assert path == tmp_path / "points" / point.key / "record.json"
    assert [child.name for child in path.parent.iterdir()] == ["record.json"]


def test_damaged_and_foreign_records_are_named_not_fatal(tmp_path, point):
    store = Store(tmp_path)
    whole = store.write(point).read_text()
    lacking = json.loads(whole)
    del lacking["sha256"], lacking["model"]["weight_bytes"]
    for name, content in (
        ("truncated", whole[: len(whole) // 2]),
        ("newer", json.dumps({**json.loads(whole), "schema": 99})),
        ("foreign", '{"hello": 1}'),
        ("list", "[1, 2]"),
        ("short", '{"schema": 1}'),
        ("lacking", json.dumps(lacking)),
        ("binary", "\0\1"),
    ):
        path = tmp_path / "points" / name / "record.json"
        path.parent.mkdir()
        path.write_text(content)
        assert store.read(name) is None
    points, skipped = store.points()
    assert points == [point]
    reasons = dict(line.removeprefix("points/").split("/record.json: ") for line in skipped)
    assert set(reasons) == {
        "truncated", "newer", "foreign", "list", "short", "lacking", "binary"
    }  # fmt: skip
    assert all(reasons.values())
    assert "99" in reasons["newer"]
    assert reasons["lacking"] == "model.weight_bytes: Field required"


def test_a_record_in_two_folders_counts_once(tmp_path, point):
    store = Store(tmp_path)
    path = store.write(point)
    (tmp_path / "points" / "twice").mkdir()
    (tmp_path / "points" / "twice" / "record.json").write_bytes(path.read_bytes())
    points, (line,) = store.points()
    assert points == [point]
    assert "another folder" in line


def test_foreign_record_says_what_it_lacks(point):
    with pytest.raises(ForeignRecord, match="identity"):
        Point.from_json({"schema": 1, "key": "k"})
    assert Point.from_json(point.to_json()) == point
    assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert dataclasses.replace(point, key="x") != point


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"value": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_fails_is_never_there(tmp_path):
    with pytest.raises(RuntimeError), creating_folder(tmp_path / "model") as beside:
        (beside / "config.json").write_text("{}")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with creating_folder(tmp_path / "model") as beside:
            (beside / "file").write_text(content)
    assert (tmp_path / "model" / "file").read_text() == "first"
    assert [child.name for child in tmp_path.iterdir()] == ["model"]


def test_remains_of_the_killed_go_and_what_others_fill_stays(tmp_path):
    for name in (".model-unfinished-a", ".model-unfinished-b", ".model-2-unfinished-c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    with creating_folder(tmp_path / "model") as slow:
        assert {child.name for child in tmp_path.iterdir()} == {slow.name, ".model-2-unfinished-c"}
        with creating_folder(tmp_path / "model") as fast:
            (fast / "file").write_text("fast")
        (slow / "file").write_text("slow")
    assert (tmp_path / "model" / "file").read_text() == "fast"
    assert {child.name for child in tmp_path.iterdir()} == {"model", ".model-2-unfinished-c"}


def test_a_folder_and_its_files_are_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        with creating_folder(tmp_path / "model") as beside:
            save_file({"a": torch.zeros(1)}, beside / "a.safetensors")
    finally:
        os.umask(before)
    modes = {each.name: oct(each.stat().st_mode & 0o777) for each in tmp_path.rglob("*")}
    assert modes == {"model": "0o750", "a.safetensors": "0o640"}
