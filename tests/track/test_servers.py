"""Online, against servers on loopback: good ones get each run once, bad ones cost a line."""

import dataclasses
import json
import socket
import time
from contextlib import contextmanager

import pytest
from studies import Maker
from wandb_server import ENTITY, serving

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.record.store import Store
from layerprune.track import mirror

KEY = "fedcba9876543210" * 2 + "fedcba98"

ONLINE = TrackerConfig(mode=TrackerMode.online, project="layers", entity=ENTITY)


@pytest.fixture
def maker(tmp_path, monkeypatch):
    for name, value in {
        "WANDB_API_KEY": KEY,
        "WANDB_INIT_TIMEOUT": "3",
        "WANDB_FINISH_TIMEOUT": "5",
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    maker = Maker(tmp_path / "study")
    maker.curve(counts=(0, 4))
    return maker


@contextmanager
def refusing():
    """A port that nobody listens at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def silent():
    """A server that takes connections and never answers."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(50)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def answering(status):
    with serving(status=status) as server:
        yield server.url


def files_with(text, folder):
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize(
    "server",
    [refusing(), silent(), answering(401), answering(403), answering(500)],
    ids=["refuses", "silent", "401", "403", "500"],
)
def test_a_bad_server_costs_a_line_and_bounded_time(maker, monkeypatch, capsys, server):
    records = {path: path.read_bytes() for path in maker.study.rglob("record.json")}
    with server as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        started = time.monotonic()
        done = mirror(maker.study, ONLINE)
        took = time.monotonic() - started
    assert took < 20
    assert done.sent == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "Weights & Biases failed" in said
    assert KEY not in said
    assert records == {path: path.read_bytes() for path in maker.study.rglob("record.json")}
    assert not files_with(KEY.encode(), maker.study)
    assert not list((maker.study / "wandb").glob("*run-*"))


def test_without_a_key_nobody_is_asked_for_one(maker, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY")
    with refusing() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        assert "wandb login" in mirror(maker.study, ONLINE).error
    assert capsys.readouterr().err.count("\n") == 1


def test_a_history_that_is_not_taken_is_not_taken_for_sent(maker, monkeypatch):
    with serving(history_status=403) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert mirror(maker.study, ONLINE).error
        server.history_status = 200
        assert not mirror(maker.study, ONLINE).error
        (curve,) = (run for run in server.runs.values() if len(run.fractions) > 1)
        assert sorted(curve.fractions) == [0, 0.5]


def test_online_each_run_is_whole_and_grows_by_what_is_missing(maker, monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = mirror(maker.study, ONLINE)
        assert (done.sent, done.error) == (4, "")
        by_kind = {len(run.fractions): run for run in server.runs.values()}
        assert sorted(len(run.fractions) for run in server.runs.values()) == [0, 1, 1, 2]
        curve = by_kind[2]
        assert curve.exit_code == 0
        assert curve.summary["points"] == 2
        assert mirror(maker.study, ONLINE).sent == 0

        maker.curve(counts=(2,))
        assert mirror(maker.study, ONLINE).sent == 3
        assert sorted(curve.fractions) == [0, 0.25, 0.5]

        # The state is lost: the server says what it has.
        (maker.study / "wandb" / "mirrored.json").unlink()
        assert mirror(maker.study, ONLINE).sent == 5
        assert sorted(len(run.fractions) for run in server.runs.values()) == [0, 1, 1, 1, 3]

        # A point is recomputed and its value differs: one curve with the new value is left.
        point = maker.made[0]
        loss = dataclasses.replace(point.loss, nats=9.0)
        Store(maker.study).write(dataclasses.replace(point, loss=loss))
        assert mirror(maker.study, ONLINE).sent == 3
        assert len(server.runs) == 5
        (curve,) = (run for run in server.runs.values() if len(run.fractions) == 3)
        assert 9.0 in [row.get("heldout/loss") for row in curve.rows.values()]
        assert len(server.deleted) == 3  # the study's run once, when a point was added
    assert not files_with(KEY.encode(), maker.study)
    state = json.loads((maker.study / "wandb" / "mirrored.json").read_text())
    assert {sent["mode"] for sent in state["runs"].values()} == {"online"}
    # What is on the server is not written beside it as well.
    assert mirror(maker.study, dataclasses.replace(ONLINE, mode=TrackerMode.offline)).sent == 0
    other = TrackerConfig(project="other")
    assert mirror(maker.study, other).sent == 5
    assert not files_with(KEY.encode(), maker.study)
