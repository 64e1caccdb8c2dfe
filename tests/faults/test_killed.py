"""Signals before a change of a file: records are kept, and the same command resumes."""

import random
import signal
from functools import partial

import pytest
from faults.disturb import signalled, stopped_after
from faults.running import SAME

PLAIN = ("prune=block",)
TWO_POINTS = "prune.fraction=[0.25,0.5]"
EXPORTED = (*PLAIN, "export=hf", TWO_POINTS)
"""Each export is compared in a new process, which takes longer than the run itself."""

HEAL = (
    "heal.steps=4", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1", "heal.save_every=1",
)  # fmt: skip
LORA = (*HEAL, "heal=lora", "heal.rank=2")
LORA_EXPORTED = (*LORA, "export=hf")
SEAM = (
    *HEAL,
    "heal=seam",
    "heal.text_share=1",
    "heal.sequences=8",
    "prune.fraction=[0.125,0.25]",
)

STAGES = {
    "the job's folder": (PLAIN, "faults/jobs/"),
    "the model's fingerprint": (PLAIN, "cache/fingerprints"),
    "distances": (PLAIN, "cache/profiles/"),
    "answers": (PLAIN, "cache/answers/"),
    "claims": (PLAIN, ".claim.lock"),
    "records": (PLAIN, "record"),
    "the study's distances": (PLAIN, "faults/profiles/"),
    "exports": (EXPORTED, ".model-unfinished"),
    "healing's checkpoints": (LORA, "checkpoints/checkpoint-"),
    "answers of healed models": (LORA, "checkpoints/answers"),
    "LoRA adapters": (LORA, ".adapter-unfinished"),
    "exports of healed models": ((*LORA_EXPORTED, TWO_POINTS), ".model-unfinished"),
    "states at the seam": (SEAM, "states"),
    "healed weights": (SEAM, ".weights-unfinished"),
}
"""The run that writes each kind of file, and a part of its path."""


def moments(paths, part):
    """Return the numbers of the changes of paths that contain a text."""
    return [number for number, path in enumerate(paths, start=1) if part in path]


def hold(place, expected, before):
    """Check that existing records are right and unchanged."""
    now = place.results()
    assert all(expected[key] == found for key, found in now.items())
    assert before.items() <= now.items()
    assert not place.half_files()
    return now


def disturbed(stage, number, place, undisturbed, changed, **more):
    """A run of that stage, sent a signal at its first change, its last, and one at random."""
    asked, part = STAGES[stage]
    expected = undisturbed(*asked)
    there = moments(changed(*asked), part)
    assert there, changed(*asked)
    before = {}
    runs = []
    for at in (there[0], random.Random(stage).choice(there), there[-1]):
        disturb = partial(signalled, place.outputs, number, at, **more)
        runs.append(place.run(*asked, disturb=disturb))
        before = hold(place, expected, before)
    done = place.run(*asked)
    assert done.status == 0, done.said
    assert hold(place, expected, before) == expected
    assert not place.remains()
    # Existing files are not rewritten: a run may have had nothing left in which to be stopped.
    stopped = [each for each in runs if each.status != 0]
    assert stopped
    return stopped


@pytest.mark.parametrize("stage", STAGES)
def test_killed_while_it_writes(stage, place, undisturbed, changed, seen):
    for run in disturbed(stage, signal.SIGKILL, place, undisturbed, changed):
        assert run.status == -signal.SIGKILL
    seen("writing", f"SIGKILL before {stage}", run, SAME)


@pytest.mark.parametrize("stage", ["answers", "healing's checkpoints", "exports"])
def test_terminated_while_it_writes(stage, place, undisturbed, changed, seen):
    for run in disturbed(stage, signal.SIGTERM, place, undisturbed, changed):
        assert run.status == -signal.SIGTERM
    seen("writing", f"SIGTERM before {stage}", run, SAME)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("stage", ["distances", "records", "healing's checkpoints"])
def test_interrupted_while_it_writes(stage, twice, place, undisturbed, changed, seen):
    for run in disturbed(stage, signal.SIGINT, place, undisturbed, changed, twice=twice):
        assert run.status == 130, run.said
        assert run.last.startswith("Stopped.")
        assert "Traceback" not in run.said
    times = "twice " if twice else ""
    seen("writing", f"SIGINT {times}before {stage}", run, SAME)


@pytest.mark.parametrize("asked", [EXPORTED, LORA, SEAM], ids=["unhealed", "lora", "seam"])
def test_killed_at_any_moment(asked, place, finished, seen):
    expected = finished(*asked).results()
    # By what a whole run takes of the processor: on any machine some end early, and some late.
    seconds = finished(*asked).seconds()
    chance = random.Random("any moment")
    before = {}
    stopped = 0
    for _ in range(8):
        moment = seconds * chance.uniform(0.02, 0.9)
        run = place.run(*asked, disturb=partial(stopped_after, moment))
        assert run.status in (-signal.SIGPROF, 0), run.said
        stopped += run.status != 0
        before = hold(place, expected, before)
    assert stopped >= 2
    done = place.run(*asked)
    assert done.status == 0, done.said
    assert hold(place, expected, before) == expected
    assert not place.remains()
    what = {EXPORTED: "unhealed", LORA: "heal=lora", SEAM: "heal=seam"}[asked]
    seen("anywhere", f"killed at eight random moments: {what}", run, SAME)
