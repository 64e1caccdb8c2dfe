"""Faults by other writers, clock changes, lack of memory, and numbers that are not finite."""

import json
import os
import shutil
import signal
import time
from functools import partial

import psutil
import pytest
from faults.disturb import jumping, signalled, starved
from faults.running import SAME, ended
from faults.test_killed import EXPORTED, LORA, PLAIN, moments
from safetensors.torch import load_file, save_file


def test_two_writers_of_one_study(place, undisturbed, seen):
    runs = [ended(*each) for each in (place.start(*EXPORTED), place.start(*EXPORTED))]
    assert [each.status for each in runs] == [0, 0], [each.said for each in runs]
    assert place.results() == undisturbed(*EXPORTED)
    assert not place.remains()
    seen("writers", "two runs of one study", runs[1], "each point is computed once; same records")


def test_two_writers_of_one_cache(place, undisturbed, seen):
    one, other = place.start(*PLAIN), place.start(*PLAIN, "study=other")
    done = ended(*one), ended(*other)
    assert [each.status for each in done] == [0, 0]
    assert place.results() == undisturbed(*PLAIN)
    theirs = [path.parent.name for path in place.outputs.glob("other/points/*/record.json")]
    assert sorted(theirs) == sorted(place.results())
    seen("writers", "two studies with one cache", done[1], "same records in both")


def test_a_writer_that_dies_while_another_waits(place, undisturbed, changed, seen):
    at = moments(changed(*PLAIN), "cache/answers/")[0]
    first = place.start(*PLAIN, disturb=partial(signalled, place.outputs, signal.SIGKILL, at))
    second = place.start(*PLAIN)
    assert ended(*first).status in (-signal.SIGKILL, 0)
    done = ended(*second)
    assert done.status == 0, done.said
    assert place.results() == undisturbed(*PLAIN)
    seen("writers", "one of two is killed", done, "the other computes all points; same records")


def test_a_worker_of_a_parallel_launcher_dies(place, undisturbed, seen):
    sweep = ("hydra.mode=MULTIRUN", "launcher=joblib", "prune=block,deepest,random,greedy")
    process, said = place.spawn(*sweep)
    while not place.results() and process.poll() is None:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children()
    workers = [each for each in children if "popen_loky_posix" in " ".join(each.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    first = place.wait(process, said)
    assert first.status == 1
    assert "The launcher failed" in first.said
    assert "TerminatedWorkerError" in (place.study / "launcher.log").read_text()
    before = place.results()
    assert not place.half_files()
    done = place.wait(*place.spawn(*sweep))
    assert done.status == 0, done.said
    assert len(place.results()) == 12
    assert before.items() <= place.results().items()
    assert undisturbed(*PLAIN).items() <= place.results().items()
    seen("writers", "a worker of launcher=joblib is killed", first, SAME)


@pytest.mark.parametrize(
    "name", ["a point's claim", "the lock of distances", "the lock of answers"]
)
def test_a_lock_of_a_dead_process_on_another_machine(name, place, undisturbed, finished_keys, seen):
    point, profile, answers = finished_keys
    path = {
        "a point's claim": place.study / "points" / point / ".claim.lock",
        "the lock of distances": place.outputs / "cache" / "profiles" / f".{profile}.lock",
        "the lock of answers": place.outputs / "cache" / "answers" / answers,
    }[name]
    path.parent.mkdir(parents=True)
    path.write_text("1234\nanother.example.org\n")
    os.utime(path, (0, 0))
    done = place.run(*PLAIN)
    assert done.status == 0, done.said
    assert place.results() == undisturbed(*PLAIN)
    seen("writers", f"{name}, left by another machine", done, "it is taken over; same records")


@pytest.fixture(scope="module")
def finished_keys(finished):
    """Of a run: a point's key, a profile's file, and the lock of a file of answers."""
    place = finished(*PLAIN)
    profile = next(place.outputs.glob("cache/profiles/*.json")).name
    answers = next(place.outputs.glob("cache/answers/*/*.json"))
    return min(place.results()), profile, f"{answers.parent.name}/.{answers.name}.lock"


@pytest.mark.parametrize("days", [400, -400])
def test_a_clock_that_jumps(days, place, undisturbed, seen):
    done = place.run(*PLAIN, disturb=partial(jumping, days))
    assert done.status == 0, done.said
    assert place.results() == undisturbed(*PLAIN)
    way = "ahead" if days > 0 else "back"
    seen("clocks", f"jumps {way} by 400 days at every second reading", done, "same records")


@pytest.mark.parametrize("year", [1971, 2099])
def test_files_of_another_time(year, place, undisturbed, changed, seen):
    at = moments(changed(*PLAIN), "record")[1]
    place.run(*PLAIN, disturb=partial(signalled, place.outputs, signal.SIGKILL, at))
    for path in place.outputs.rglob("*"):
        os.utime(path, ((year - 1970) * 365 * 86400,) * 2)
    done = place.run(*PLAIN)
    assert done.status == 0, done.said
    assert place.results() == undisturbed(*PLAIN)
    seen("clocks", f"files of a killed run are dated {year}", done, SAME)


STARVED = {
    "distances": (PLAIN, "cache/profiles/"),
    "evaluation": (PLAIN, "cache/answers/"),
    "healing": (LORA, "checkpoints/checkpoint-1"),
    "exports": (EXPORTED, ".model-unfinished"),
}


@pytest.mark.parametrize("stage", STARVED)
def test_no_more_memory(stage, place, undisturbed, seen):
    asked, part = STARVED[stage]
    done = place.run(*asked, disturb=partial(starved, place.outputs, part))
    assert not place.half_files()
    expected = undisturbed(*asked)
    assert all(expected[key] == found for key, found in place.results().items())
    # Which call is refused first is random, and with it the message.
    assert done.status != 0 or place.results() == expected
    again = place.run(*asked)
    assert again.status == 0, again.said
    assert place.results() == expected
    assert not place.remains()
    seen("memory", f"runs out in {stage}", "what could not be allocated", SAME)


def spoiled(place, tmp_path, name, value):
    """A copy of the model with one number of a weight replaced."""
    place.model = shutil.copytree(place.model, tmp_path / "tiny")
    path = place.model / "model.safetensors"
    weights = load_file(path)
    weights[name].view(-1)[0] = value
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number(value, place, tmp_path, seen):
    spoiled(place, tmp_path, "model.layers.3.mlp.down_proj.weight", value)
    done = place.run(*PLAIN)
    assert done.status in (1, 2), done.said
    assert not place.half_files()
    for path in place.study.glob("points/*/record.json"):
        assert "NaN" not in path.read_text()
    seen("numbers", f"a weight is {value:g}", done, "no record contains it")


def test_a_loss_that_is_no_number(place, undisturbed, seen):
    wild = ("heal.learning_rate=1e30", "heal.max_grad_norm=1e30")
    done = place.run(*LORA, *wild)
    assert done.status == 1, done.said
    assert not place.results()
    failed = [json.loads(path.read_text()) for path in place.study.glob("points/*/failed.json")]
    assert len(failed) == 3
    assert place.run(*LORA).status == 0
    assert place.results() == undisturbed(*LORA)
    seen("numbers", "the loss in healing", done, "with a smaller heal.learning_rate: " + SAME)


def test_an_activation_that_is_no_number(place, tmp_path, seen):
    spoiled(place, tmp_path, "model.norm.weight", float("inf"))
    done = place.run(*PLAIN)
    assert done.status in (1, 2), done.said
    assert not place.results()
    seen("numbers", "states after the last norm", done, "no point is computed")
