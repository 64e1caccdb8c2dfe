"""The result of a search, as text and as a file: its field names are the keys of the JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerprune.analysis.statistics import Interval
from layerprune.record.point import Point, layer_ranges

RESULT_FILE = "fit.json"
"""Result of the last search, in the folder of a study."""


@dataclass(frozen=True)
class KeptMargin:
    """Share of the dense margin over chance that a model keeps."""

    share: float
    interval: Interval


@dataclass(frozen=True)
class SearchStep:
    """Results for one number of removed layers."""

    dropped: int
    unhealed: KeptMargin | None
    healed: KeptMargin | None
    """None without `fit.keep`, and for cuts that were not healed."""
    likely: float | None
    """Posterior probability that it meets `fit.keep` once healed."""
    memory_bytes: float
    speedup: float | None


@dataclass(frozen=True)
class Budget:
    """The budget; None for each limit that was not given."""

    keep: float | None
    memory_bytes: int | None
    speedup: float | None


@dataclass(frozen=True)
class SubjectResult:
    """Accuracy of the dense and the chosen model on a task that is part of a group."""

    task: str
    num_questions: int
    dense: float
    chosen: float
    interval: Interval
    """Of the difference, by paired questions."""


@dataclass(frozen=True)
class Sample:
    """Continuations of a prompt by the dense and the chosen model."""

    prompt: str
    dense: str
    chosen: str


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """The part of a result that reports read."""

    budget: Budget
    dropped: tuple[int, ...]
    """Original indices of the removed layers."""
    healed: bool
    kept: KeptMargin | None
    """None without `fit.keep`."""
    timed: bool
    """True if speedups were measured."""
    between: tuple[int, int] | None
    """95 % interval of the largest number of removed layers that meets `fit.keep`."""
    steps: tuple[SearchStep, ...]
    """From the dense model to the first cut beyond all candidates."""
    subjects: tuple[SubjectResult, ...]
    """The largest losses first."""
    samples: tuple[Sample, ...]
    """Empty without a checkpoint."""

    def __post_init__(self) -> None:
        if all(step.dropped != len(self.dropped) for step in self.steps):
            raise ValueError(f"steps: none has {len(self.dropped)} layers removed")


@dataclass(frozen=True, kw_only=True)
class SearchResult(SearchSummary):
    """The chosen model, and the measurements that led to it."""

    point: Point
    accuracies: dict[str, tuple[float, Interval]]
    """Accuracy on each task, with its interval."""
    memory: tuple[float, float]
    """Bytes of the chosen and of the dense model's weights, in the form of the checkpoint."""
    form: str
    """That form: a precision or a quantization."""
    speedup: float | None
    """Measured decoding speed, or else counted operations of a token, relative to the dense model;
    None if neither is known."""
    candidates: tuple[int, ...]
    """Numbers of removed layers that were healed, in that order."""
    most: int
    """Maximum number of candidates."""
    folder: Path | None = None
    """The checkpoint."""
    same: tuple[int, int] | None = None
    """Identical answers of the reloaded checkpoint, and the number of questions compared."""

    def lines(self) -> Iterator[str]:
        """Yield the result as sentences."""
        total, healing = self.point.model.num_layers, self.point.healing
        how = f"healed with {healing.recipe}" if healing else "not healed"
        removed = f" ({layer_ranges(self.dropped)}), {how}" if self.dropped else ""
        yield f"chosen: {len(self.dropped)} of {total} layers removed{removed}."
        if self.kept is not None:
            yield (
                f"It keeps {describe_margin(self.kept)} of the dense margin over chance "
                f"(fit.keep={self.budget.keep})."
            )
        for task, (accuracy, interval) in self.accuracies.items():
            yield f"Accuracy on {task}: {_percent(accuracy, interval)}."
        size, dense_size = self.memory
        speed = "" if self.speedup is None else f", {describe_speedup(self.speedup, self.timed)}"
        yield f"Weights: {mebibytes(size)} of {mebibytes(dense_size)} in {self.form}{speed}."
        if self.candidates:
            counts = ", ".join(map(str, self.candidates))
            yield (
                f"Healed {len(self.candidates)} of at most {self.most} candidates: "
                f"with {counts} layers removed."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `RESULT_FILE`."""
        folder = None if self.folder is None else str(self.folder)
        return asdict(self) | {"point": self.point.key, "folder": folder}


def describe_margin(kept: KeptMargin) -> str:
    """Return a kept share with its interval: `91.2 % [88.0, 94.4]`."""
    return _percent(kept.share, kept.interval)


def describe_speedup(speedup: float, timed: bool) -> str:
    """Return a speedup in words; of operations if it was not `timed`."""
    return f"{speedup:.2f} times {'the speed' if timed else 'fewer operations per token'}"


def layers(count: int) -> str:
    """Return a number of layers: `1 layer`, `2 layers`."""
    return "1 layer" if count == 1 else f"{count} layers"


def mebibytes(size: float) -> str:
    """Return a size in MiB, or in GiB from 1 GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _percent(value: float, interval: Interval) -> str:
    return f"{100 * value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
