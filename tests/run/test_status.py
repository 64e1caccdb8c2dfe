"""The status of a study: finished and pending points."""

import random

import pytest

from layerprune.run import status
from layerprune.run.status import CurveStatus, show_status
from layerprune.runtime.time_left import TimeLeft


def said(monkeypatch, capsys, *lines):
    monkeypatch.setattr(status, "curve_statuses", lambda _: lines)
    show_status([])
    return " ".join(capsys.readouterr().out.split())


def test_time_is_told_of_what_is_to_do_alone(monkeypatch, capsys):
    done, new = CurveStatus("a", 6, 0, 0, 0.0), CurveStatus("b", 0, 0, 3, None)
    assert "9 points, 3 to do." in said(monkeypatch, capsys, done, new)
    some = CurveStatus("c", 2, 1, 4, 120.0)
    text = said(monkeypatch, capsys, done, some)
    assert "12 points, 4 to do: about 2 min, estimated from finished points." in text
    text = said(monkeypatch, capsys, done, new, some)
    assert "15 points, 7 to do: about 2 min" in text
    assert text.endswith("finished points, plus 3 on curves without any.")


def estimates(points):
    """Return (time, estimated seconds left, true seconds left), by a clock that ticks each second.

    `points` are (time at which it finishes, kind, duration). An estimate is None if there is none.
    """
    points = sorted(points, key=lambda point: point[0])
    end, time_left, rows = points[-1][0], TimeLeft(0.0), []
    for now in range(1, int(end)):
        while points[0][0] <= now:
            _, kind, duration = points.pop(0)
            time_left.finish(kind, duration, now)
        rows.append((now, time_left.seconds([kind for _, kind, _ in points], now), end - now))
    return rows


def healed_by(workers, jobs, start=0.0):
    """Return the points of jobs (kind, mean duration) that processes take one after another."""
    draws, free, points = random.Random(0), [start] * workers, []
    for kind, mean in jobs:
        worker = min(range(workers), key=free.__getitem__)
        duration = mean * draws.uniform(0.8, 1.2)
        free[worker] += duration
        points.append((free[worker], kind, duration))
    return points


TOGETHER = [(1000 + 0.2 * n, None, 1000 / 60) for n in range(60)]
"""Sixty points of one shared pass."""

LORA, LINEAR = ("m lora", 120.0), ("m linear", 20.0)


def test_points_of_a_shared_pass_are_never_extrapolated():
    assert {estimate for _, estimate, _ in estimates(TOGETHER)} == {None}


@pytest.mark.parametrize(
    "points",
    [
        healed_by(1, [LORA] * 10),
        healed_by(2, [LORA] * 20),
        healed_by(4, [LORA] * 40),
        healed_by(1, [LORA, LINEAR] * 8),
        TOGETHER + healed_by(1, [LORA] * 8, start=1012.0),
        TOGETHER + healed_by(2, [LORA] * 16, start=400.0),
    ],
    ids=["one by one", "two processes", "four", "two recipes", "after a pass", "beside a pass"],
)
def test_the_time_left_of_healed_points_is_true(points, record_property):
    told = [(estimate, true) for _, estimate, true in estimates(points) if estimate is not None]
    record_property("estimated and true seconds left", told)
    assert len(told) > 0.4 * sum(duration for _, kind, duration in points if kind) / 4
    # Durations vary by a fifth: an estimate is off by a quarter, or by half a point.
    close = [abs(estimate - true) <= max(true / 4, 60) for estimate, true in told]
    assert sum(close) >= 0.95 * len(close)


def test_there_is_no_estimate_before_a_point_of_each_kind_nor_once_one_is_late():
    time_left = TimeLeft(0.0)
    assert time_left.seconds(["a"], 50.0) is None
    time_left.finish("a", 60.0, 60.0)
    assert time_left.seconds(["a", "a"], 60.0) is None, "others may finish with it"
    assert time_left.seconds(["a", "a"], 70.0) == pytest.approx(110.0)
    assert time_left.seconds(["a", "b"], 70.0) is None
    assert time_left.seconds(["a", None], 70.0) is None
    assert time_left.seconds(["a"], 121.0) is None
