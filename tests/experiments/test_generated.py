"""Generated input: a valid result, or one clean line. Nothing else, whatever comes.

LAYERPRUNE_GENERATED sets the number of inputs, 500 by default; one in twenty goes through Hydra
from its start, which is slow. The inputs are the same in each run.
"""

import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from studies import Maker

from layerprune.config.compose import compose, conf_dir, typed
from layerprune.config.hydra_errors import explain
from layerprune.config.registry import STRATEGIES
from layerprune.config.schema import Config, DataConfig
from layerprune.data.text import read_text
from layerprune.errors import UserError
from layerprune.evaluate.answer_cache import CachedAnswers
from layerprune.prune.strategies import DistanceStrategy
from layerprune.prune.strategies.block import Block
from layerprune.prune.target import Target, num_dropped, targets
from layerprune.record.point import Point
from layerprune.record.store import Store
from layerprune.runtime.atomic_files import CorruptFile, read_checksummed, write_checksummed

TOTAL = int(os.environ.get("LAYERPRUNE_GENERATED", "500"))


def generated(share, **arguments):
    """So many of all inputs, the same ones each time."""
    of_all = settings(
        max_examples=max(1, round(TOTAL * share)), deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck), database=None,
    )  # fmt: skip
    return lambda test: of_all(given(**arguments)(test))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


# Overrides.

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
CHOICES = [
    f"{group}={path.stem}" for group in GROUPS for path in (conf_dir() / group).glob("*.yaml")
]


@cache
def base():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose("config")


@cache
def keys():
    flat = []

    def walk(node, path):
        for key in node:
            flat.append(f"{path}{key}")
            child = node._get_node(key)
            if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
                walk(child, f"{path}{key}.")

    walk(base(), "")
    return flat


numbers = st.one_of(
    st.integers(-3, 40), st.integers(), st.floats(), st.floats(0, 1), st.sampled_from([1e400, -0.0])
).map(str)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from([
        "null", "true", "???", "", "''", "~", "../x", "/", "a/b", ".", "..", "${", "${seed}",
        "${nothing}", "${oc.env:HOME}", "${job_key:}", "${remainder:1,0}", "{a:1}", "[]", "[[]]",
        "1GB", "-1GB", "GB", "lora", "auto", "cuda:99", "\\", "\n", "\x00", "ä" * 300, "a" * 5000,
    ]),
)  # fmt: skip
values = st.one_of(
    numbers,
    words,
    st.lists(st.one_of(numbers, words), max_size=4).map(lambda x: f"[{','.join(x)}]"),
)
marks = st.sampled_from(["", "", "", "+", "++", "~"])


@st.composite
def overrides(draw):
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(max_size=30))
    key = draw(st.sampled_from(keys()))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(key)))
        key = key[:at] + draw(st.text(max_size=2)) + key[at + 1 :]
    return f"{draw(marks)}{key}={draw(values)}"


def one_line(message):
    assert message.strip()
    assert "\n" not in message.strip()


@generated(0.4, given_=st.lists(overrides(), min_size=1, max_size=3))
def test_overrides_that_are_parsed(given_):
    try:
        parsed = OverridesParser.create().parse_overrides(given_)
    except HydraException as error:
        one_line(explain(error))
        return
    config = base().copy()
    for each in parsed:
        try:
            if not each.is_sweep_override() and not each.is_delete():
                OmegaConf.set_struct(config, not (each.is_force_add() or each.is_add()))
                OmegaConf.update(config, each.key_or_group, each.value(), merge=True)
        except (HydraException, OmegaConfBaseException) as error:
            one_line(explain(error))
            return
    try:
        assert isinstance(typed(config), Config)
    except UserError as error:
        one_line(str(error))


@generated(
    0.05,
    choices=st.lists(st.sampled_from(CHOICES), max_size=2),
    given_=st.lists(overrides(), max_size=2),
)
def test_overrides_that_are_composed(choices, given_):
    try:
        assert isinstance(compose(*choices, *given_), Config)
    except UserError as error:
        one_line(str(error))


# Fractions and plans.


@generated(
    0.1,
    layers=st.integers(1, 100),
    fractions=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6),
)
def test_fractions(layers, fractions):
    try:
        found, notes = targets(Block(fraction=fractions), layers)
    except UserError as error:
        one_line(str(error))
        return
    assert len(found) + len(notes) == len(fractions)
    assert len({target.count for target in found}) == len(found)
    for target in found:
        assert 0 <= target.count < layers
        assert target.count == num_dropped(target.fraction_asked, layers)
        assert abs(target.count / layers - target.fraction_asked) <= 1 / layers


@generated(0.15, data=st.data())
def test_plans(data):
    layers = data.draw(st.integers(2, 12))
    some = data.draw(arrays(np.float64, (layers + 1,) * 2, elements=st.floats(0, 1)))
    distances_SS = np.maximum(some, some.T)
    np.fill_diagonal(distances_SS, 0)
    count = data.draw(st.integers(0, layers - 1))
    seed = data.draw(st.integers(0, 2**32 - 1))
    for strategy, options in STRATEGIES.choices().items():
        if not issubclass(options, DistanceStrategy):
            continue
        plan = options().plan(Target(count / layers, count), distances_SS, seed)
        assert plan == options().plan(Target(count / layers, count), distances_SS, seed)
        assert len(plan.dropped) == count
        assert sorted({*plan.dropped, *plan.kept}) == list(range(layers))
        assert not {*plan.dropped} & {*plan.kept}
        if strategy == "block" and count:
            ends = [distances_SS[at, at + count] for at in range(layers - count + 1)]
            first = max(at for at, end in enumerate(ends) if end == min(ends))
            assert plan.dropped == tuple(range(first, first + count))
        if strategy == "deepest" and count:
            assert plan.dropped == tuple(range(layers - 1 - count, layers - 1))


# Records and caches.


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp("generated") / "study")
    return maker.point((3, 4), heal="lora", speed=True).to_json()


def spoil(data, content):
    """Change one thing somewhere in plain data."""
    if isinstance(content, dict) and content and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(sorted(content)))
        return {**content, key: spoil(data, content[key])}
    if isinstance(content, list) and content and data.draw(st.integers(0, 5)):
        at = data.draw(st.integers(0, len(content) - 1))
        return [*content[:at], spoil(data, content[at]), *content[at + 1 :]]
    if isinstance(content, dict) and content and data.draw(st.booleans()):
        gone = data.draw(st.sampled_from(sorted(content)))
        return {key: value for key, value in content.items() if key != gone}
    return data.draw(json_values)


@generated(0.15, data=st.data())
def test_records(record, tmp_path_factory, data):
    content = spoil(data, record)
    with suppress(ValueError):  # a foreign record is one
        Point.from_json(content)
    home = tmp_path_factory.mktemp("spoiled")
    path = home / "points" / "some" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    points, skipped = Store(home).points()
    assert len(points) + len(skipped) == 1


@generated(0.05, content=st.dictionaries(st.text(), json_values, min_size=1))
def test_what_is_sealed_comes_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("sealed") / "some.json"
    write_checksummed(path, content)
    assert read_checksummed(path) == content


@generated(0.05, content=st.binary(max_size=200))
def test_files_of_caches_and_records(tmp_path_factory, content):
    home = tmp_path_factory.mktemp("binary")
    path = home / "points" / "some" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(CorruptFile):
        read_checksummed(path)
    assert Store(home).read("some") is None
    assert CachedAnswers(path).get((0, 1)) is None
    assert len(Store(home).points()[1]) == 1


# Text.


@generated(
    0.05,
    suffix=st.sampled_from([".txt", ".jsonl", ".parquet", ".csv", ""]),
    content=st.binary(max_size=300)
    | st.lists(json_values.map(json.dumps), max_size=6).map(lambda x: "\n".join(x).encode())
    | st.lists(st.text(max_size=40), max_size=6).map(
        lambda x: "\n".join(json.dumps({"text": each}) for each in x).encode()
    ),
)
def test_files_of_text(tmp_path_factory, suffix, content):
    path = Path(tmp_path_factory.mktemp("text")) / f"some{suffix}"
    path.write_bytes(content)
    try:
        text = read_text(DataConfig(files=[str(path)]))
    except UserError as error:
        one_line(str(error))
        return
    assert text.calibration
    assert text.healing
    assert text.heldout
