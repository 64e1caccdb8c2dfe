"""The last search of a study: its steps, the losses of single subjects, samples, and a frontier."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprune.analysis.statistics import LEVEL, Interval
from layerprune.record.validation import parse
from layerprune.report.tables.text_table import TextTable, table_of
from layerprune.search.result import (
    RESULT_FILE,
    KeptMargin,
    SearchStep,
    SearchSummary,
    SubjectResult,
)

MAX_SUBJECTS = 20
"""Subjects shown; those with the largest losses."""

SAMPLES = "Continuations by the dense and the chosen model"
"""Title of a table that is too wide for a terminal."""

WEIGHTS = "weights (MiB)"
OPERATIONS = "times fewer operations a token"
SPEED = "decoding: times as fast as the dense model"

HEALED = "healed"
UNHEALED = "not healed"


@dataclass(frozen=True)
class SearchReport:
    """The last search of a study, for its report."""

    study: str
    tables: tuple[TextTable, ...]
    frontier: list[dict[str, Any]]
    """Kept margin against size and speed of each cut; empty without `fit.keep`."""


def read_search(study: Path) -> SearchReport | None:
    """Return the last search of a study; None if there was none.

    Raises `ValueError` with the reason for a file that no search has written.
    """
    try:
        content = json.loads((study / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    search = parse(SearchSummary, content)
    return SearchReport(study.name, tuple(_tables(search)), list(_frontier(search)))


def _tables(search: SearchSummary) -> Iterator[TextTable]:
    yield table_of(
        "The smallest model within the budget",
        0,
        (_step(step, search) for step in search.steps),
        _note(search),
    )
    if search.subjects:
        shown = search.subjects[:MAX_SUBJECTS]
        yield table_of(
            "Losses of single subjects",
            1,
            map(_subject, shown),
            f"The largest losses first; {len(shown)} of {len(search.subjects)}. "
            f"[ ]: {LEVEL:.0%} intervals by paired questions, of each subject by itself: with many "
            "subjects some exclude 0 by chance.",
        )
    if search.samples:
        cells = (asdict(sample).items() for sample in search.samples)
        yield table_of(SAMPLES, 3, cells, "Greedy, from the first held-out texts.")


def _frontier(search: SearchSummary) -> Iterator[dict[str, Any]]:
    """Yield each measured cut, and the budget, against weights and against speed."""
    budget = search.budget
    if budget.keep is None:
        return
    sizes = {step.dropped: step.memory_bytes / 2**20 for step in search.steps}
    speedups = {step.dropped: step.speedup for step in search.steps}
    memory = None if budget.memory_bytes is None else budget.memory_bytes / 2**20
    for panel, values, bound in (
        (WEIGHTS, sizes, memory),
        (SPEED if search.timed else OPERATIONS, speedups, budget.speedup),
    ):
        points = [
            {
                "kind": "point",
                "panel": panel,
                "what": what,
                "layers_dropped": step.dropped,
                "value": values[step.dropped],
                "kept": kept.share,
                "low": kept.interval.low,
                "high": kept.interval.high,
                "chosen": step.dropped == len(search.dropped) and (what == HEALED) == search.healed,
            }
            for step in search.steps
            for what, kept in ((UNHEALED, step.unhealed), (HEALED, step.healed))
            if kept is not None and values[step.dropped] is not None
        ]
        if points:
            yield {"kind": "keep", "panel": panel, "kept": budget.keep}
            if bound is not None:
                yield {"kind": "bound", "panel": panel, "value": bound}
        yield from points


def _step(step: SearchStep, search: SearchSummary) -> Iterator[tuple[str, str]]:
    yield "layers\nremoved", str(step.dropped)
    yield "un-healed\nkeeps %", _kept(step.unhealed)
    yield "healed\nkeeps %", _kept(step.healed)
    yield "meets it\nhealed", "" if step.likely is None else f"{100 * step.likely:.0f} %"
    yield "weights\nMiB", f"{step.memory_bytes / 2**20:.1f}"
    speedup = "" if step.speedup is None else f"{step.speedup:.2f}"
    yield "times the\nspeed" if search.timed else "times fewer\noperations", speedup
    yield "", "chosen" if step.dropped == len(search.dropped) else ""


def _subject(subject: SubjectResult) -> Iterator[tuple[str, str]]:
    loss = 100 * (subject.chosen - subject.dense)
    yield "subject", subject.task
    yield "questions", f"{subject.num_questions:,}"
    yield "dense %", f"{100 * subject.dense:.1f}"
    yield "chosen %", f"{100 * subject.chosen:.1f}"
    yield "difference, points", f"{loss:+.1f} {_interval(subject.interval, '+.1f')}"


def _note(search: SearchSummary) -> str:
    """Return the choice in sentences: the margin it keeps, and the price of one layer."""
    steps = {step.dropped: step for step in search.steps}
    chosen = len(search.dropped)
    lines = [f"Chosen: {chosen} layers removed, {HEALED if search.healed else UNHEALED}."]
    if search.kept is not None:
        lines.append(
            f"It keeps {_kept(search.kept)} % of the dense margin over chance "
            f"(fit.keep={search.budget.keep})."
        )
    if search.between is not None:
        low, high = search.between
        lines.append(f"The largest number that meets the budget is between {low} and {high}.")
    for count, words in ((chosen + 1, "One more layer removed"), (chosen - 1, "One less")):
        step = steps.get(count)
        if step is None:
            continue
        size = (step.memory_bytes - steps[chosen].memory_bytes) / 2**20
        kept = step.healed or (None if search.healed else step.unhealed)
        if kept is not None:
            meets = f"keeps {_kept(kept)} %"
        elif step.likely is not None:
            meets = f"meets the budget with {100 * step.likely:.0f} %"
        else:
            meets = "was not healed"
        lines.append(f"{words} ({count}): {size:+.1f} MiB, and {meets}.")
    lines.append(
        f"[ ]: {LEVEL:.0%} intervals by paired questions. Meets it healed: the posterior "
        "probability, given all healed cuts."
    )
    return " ".join(lines)


def _kept(kept: KeptMargin | None) -> str:
    return "" if kept is None else f"{100 * kept.share:.1f} {_interval(kept.interval, '.1f')}"


def _interval(interval: Interval, form: str) -> str:
    return f"[{100 * interval.low:{form}}, {100 * interval.high:{form}}]"
