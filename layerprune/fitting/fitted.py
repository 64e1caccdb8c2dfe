"""What a search found, in words and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprune.fitting.budget import mebibytes
from layerprune.fitting.margins import Kept
from layerprune.record.point import Point
from layerprune.report.entry import ranges
from layerprune.report.statistics import Interval


@dataclass(frozen=True)
class Step:
    """What is known of so many layers less."""

    dropped: int
    unhealed: Kept | None
    healed: Kept | None
    """None where it was not healed, or `fit.keep` was not asked for."""
    likely: float | None
    """The probability that it meets `fit.keep` once healed, by all that was healed."""
    memory_bytes: float
    speedup: float | None


@dataclass(frozen=True)
class Budget:
    """What was asked: of each, None where it was not."""

    keep: float | None
    memory_bytes: int | None
    speedup: float | None


@dataclass(frozen=True)
class Subject:
    """What a task that is part of another has lost, in shares of its questions."""

    task: str
    num_questions: int
    dense: float
    chosen: float
    interval: Interval
    """Of the difference, by paired questions."""


@dataclass(frozen=True)
class Sample:
    """What two models write after the same text."""

    prompt: str
    dense: str
    chosen: str


@dataclass(frozen=True)
class Fitted:
    """The model that was chosen, and what is known of it."""

    point: Point
    budget: Budget
    dropped: tuple[int, ...]
    """Original indices of its layers that are gone."""
    healed: bool
    kept: Kept | None
    """Of the dense margin over chance; None where `fit.keep` was not asked for."""
    accuracies: dict[str, tuple[float, Interval]]
    """On each task, with its interval."""
    memory: tuple[float, float]
    """Bytes of the weights in the form of the checkpoint, and of the dense model's."""
    form: str
    """That form."""
    speedup: float | None
    """How many times fewer operations a token takes, or how many times as fast text is written
    where that was measured; None where neither is known."""
    timed: bool
    """Whether it was measured."""
    between: tuple[int, int] | None
    """The largest number of layers that keeps the budget, by 95 %."""
    candidates: tuple[int, ...]
    """Numbers of layers that were healed, in the order tried."""
    most: int
    """How many could have been."""
    steps: tuple[Step, ...]
    """From the dense model to the first cut beyond those that were tried."""
    subjects: tuple[Subject, ...]
    """Those that have lost most, first."""
    samples: tuple[Sample, ...] = ()
    """Where a checkpoint was written."""
    folder: Path | None = None
    """The checkpoint, if one was asked for."""
    same: tuple[int, int] | None = None
    """Of how many questions it gave the same answers when it was loaded again, and of how many."""

    def lines(self) -> Iterator[str]:
        """The same for people."""
        point = self.point
        gone, layers = len(self.dropped), point.model["num_layers"]
        how = f", healed with {point.healing['recipe']}" if point.healing else ", not healed"
        which = f"{ranges(self.dropped)} of layers 0 to {layers - 1}" if gone else "none"
        yield f"chosen: {gone} of {layers} layers go ({which}){how if gone else ''}."
        if self.kept is not None:
            yield f"It keeps {spoken(self.kept)} of the dense margin over chance."
        for task, (value, interval) in self.accuracies.items():
            yield f"Accuracy on {task}: {_percent(value, interval)}."
        now, before = self.memory
        speed = "" if self.speedup is None else f", {faster(self.speedup, self.timed)}"
        yield f"Weights: {mebibytes(now)} of {mebibytes(before)} in {self.form}{speed}."
        if self.candidates:
            yield f"Healed {len(self.candidates)} of at most {self.most}: without {_list(self)}."

    def found(self) -> dict[str, Any]:
        """The same as JSON."""
        content = asdict(self)
        content["point"] = self.point.key
        content["folder"] = None if self.folder is None else str(self.folder)
        return content


def spoken(kept: Kept) -> str:
    """A share with its interval, for people: `91.2 % [88.0, 94.4]`."""
    return _percent(kept.share, kept.interval)


def faster(speedup: float, timed: bool) -> str:
    """How much faster a model is, for people; counted where it was not `timed`."""
    return f"{speedup:.2f} times {'the speed' if timed else 'fewer operations a token'}"


def layers(count: int) -> str:
    """So many layers."""
    return "1 layer" if count == 1 else f"{count} layers"


def _list(fitted: Fitted) -> str:
    counts = [str(count) for count in fitted.candidates]
    return f"{', '.join(counts)} layers"


def _percent(value: float, interval: Interval) -> str:
    return f"{100 * value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
