"""The choice that a search has made: its steps, what subjects lost, samples of text, frontier."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerprune.report.statistics import LEVEL
from layerprune.report.texts import TextTable

FIT = "fit.json"
"""In a study's folder: what the last search found."""

MOST_SUBJECTS = 20
"""Those that have lost most."""

STEPS = "The smallest model within the budget"
SUBJECTS = "What the average hides"
SAMPLES = "The dense and the chosen model go on with the same words"

WEIGHTS = "weights (MiB)"
OPERATIONS = "times fewer operations a token"
SPEED = "writing: times as fast as the dense model"

HEALED = "healed"
UNHEALED = "not healed"


@dataclass(frozen=True)
class Fit:
    """A study's last search."""

    study: str
    """Name of the study."""
    tables: tuple[TextTable, ...]
    frontier: list[dict[str, Any]]
    """What cuts keep against their size and speed; nothing where keeping was not asked for."""


def make_fit(study: Path) -> Fit | None:
    """What a study's last search found out; None if there was no search.

    Raises `ValueError`, saying why, for a file that no search has written.
    """
    try:
        text = (study / FIT).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        return Fit(study.name, tuple(_tables(found)), list(_frontier(found)))
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"its content is not that of a search ({error})") from error


def _tables(found: dict[str, Any]) -> Iterator[TextTable]:
    chosen = len(found["dropped"])
    faster = "times the\nspeed" if found["timed"] else "times fewer\noperations"
    yield TextTable(
        title=STEPS,
        num_names=0,
        columns=("layers\ndropped", "un-healed\nkeeps %", "healed\nkeeps %", "meets it\nhealed",
                 "weights\nMiB", faster, ""),
        rows=tuple(_step(each, chosen) for each in found["steps"]),
        note=_note(found, chosen),
    )  # fmt: skip
    if found["subjects"]:
        shown = found["subjects"][:MOST_SUBJECTS]
        yield TextTable(
            title=SUBJECTS,
            num_names=1,
            columns=("subject", "questions", "dense %", "chosen %", "difference, points"),
            rows=tuple(_subject(each) for each in shown),
            note=f"Those that have lost most, first; {len(shown)} of {len(found['subjects'])}. "
            f"[ ]: {LEVEL:.0%} intervals by paired questions, of each subject by itself: with many "
            "subjects some exclude 0 by chance.",
        )
    if found["samples"]:
        yield TextTable(
            title=SAMPLES,
            num_names=3,
            columns=("given", "dense", "chosen"),
            rows=tuple((of["prompt"], of["dense"], of["chosen"]) for of in found["samples"]),
            note="Greedy, from the first held-out texts.",
        )


def _frontier(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each cut that was measured, and the budget, against weights and against speed."""
    budget = found["budget"]
    if budget["keep"] is None:
        return
    panels = (
        (WEIGHTS, "memory_bytes", 2.0**20, budget["memory_bytes"]),
        (SPEED if found["timed"] else OPERATIONS, "speedup", 1.0, budget["speedup"]),
    )
    for panel, name, unit, bound in panels:
        points = list(_points(found, name, unit))
        if points:
            yield {"kind": "keep", "panel": panel, "kept": budget["keep"]}
            if bound is not None:
                yield {"kind": "bound", "panel": panel, "value": bound / unit}
        for point in points:
            yield {"kind": "point", "panel": panel, **point}


def _points(found: dict[str, Any], name: str, unit: float) -> Iterator[dict[str, Any]]:
    count = len(found["dropped"])
    for step in found["steps"]:
        for what, kept in ((UNHEALED, step["unhealed"]), (HEALED, step["healed"])):
            if kept is None or step[name] is None:
                continue
            yield {
                "what": what,
                "layers_dropped": step["dropped"],
                "value": step[name] / unit,
                "kept": kept["share"],
                "low": kept["interval"]["low"],
                "high": kept["interval"]["high"],
                "chosen": step["dropped"] == count and (what == HEALED) == found["healed"],
            }


def _step(step: dict[str, Any], chosen: int) -> tuple[str, ...]:
    likely, speedup = step["likely"], step["speedup"]
    return (
        str(step["dropped"]),
        _kept(step["unhealed"]),
        _kept(step["healed"]),
        "" if likely is None else f"{100 * likely:.0f} %",
        f"{step['memory_bytes'] / 2**20:.1f}",
        "" if speedup is None else f"{speedup:.2f}",
        "chosen" if step["dropped"] == chosen else "",
    )


def _subject(subject: dict[str, Any]) -> tuple[str, ...]:
    low, high = (100 * subject["interval"][end] for end in ("low", "high"))
    lost = 100 * (subject["chosen"] - subject["dense"])
    return (
        subject["task"],
        f"{subject['num_questions']:,}",
        f"{100 * subject['dense']:.1f}",
        f"{100 * subject['chosen']:.1f}",
        f"{lost:+.1f} [{low:+.1f}, {high:+.1f}]",
    )


def _note(found: dict[str, Any], chosen: int) -> str:
    """The choice in sentences: what it keeps, and what one layer more or less would cost."""
    steps = {step["dropped"]: step for step in found["steps"]}
    said = [f"Chosen: {chosen} layers less, {'healed' if found['healed'] else 'not healed'}."]
    if found["kept"] is not None:
        said.append(f"It keeps {_kept(found['kept'])} % of the dense margin over chance.")
    if found["between"] is not None:
        low, high = found["between"]
        said.append(f"The largest number that keeps the budget lies between {low} and {high}.")
    for count, what in ((chosen + 1, "One layer less to keep"), (chosen - 1, "One layer more")):
        step = steps.get(count)
        if step is None:
            continue
        size = (step["memory_bytes"] - steps[chosen]["memory_bytes"]) / 2**20
        kept = step["healed"] or (step["unhealed"] if not found["healed"] else None)
        if kept is not None:
            meets = f"keeps {_kept(kept)} %"
        elif step["likely"] is not None:
            meets = f"meets the budget with {100 * step['likely']:.0f} %"
        else:
            meets = "was not healed"
        said.append(f"{what} ({count} dropped): {size:+.1f} MiB, and {meets}.")
    said.append(
        f"[ ]: {LEVEL:.0%} intervals by paired questions. Meets it healed: the probability by all "
        "that was healed, measured there or not."
    )
    return " ".join(said)


def _kept(kept: dict[str, Any] | None) -> str:
    if kept is None:
        return ""
    low, high = (100 * kept["interval"][end] for end in ("low", "high"))
    return f"{100 * kept['share']:.1f} [{low:.1f}, {high:.1f}]"
