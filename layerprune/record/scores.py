"""Scores of a point: the numbers that lm-eval gives for each task and group of tasks."""

from dataclasses import dataclass

from layerprune.record.validation import Count, Number

ACCURACIES = ("acc", "exact_match")
"""The measures that count each question as right or wrong."""


@dataclass(frozen=True)
class Measure:
    """One number that lm-eval gives for a task."""

    value: Number
    """The value; accuracies are between 0 and 1."""
    stderr: Number | None
    """Standard error; None where lm-eval gives none."""


@dataclass(frozen=True)
class Score:
    """The results of one task or group."""

    task: str
    """lm-eval's name of the task or group."""
    parent: str | None
    """The group whose score includes this task, if any."""
    measures: dict[str, Measure]
    """Measures by lm-eval's name: acc, acc_norm, exact_match, ..."""
    num_samples: Count
    """Number of questions."""
    num_fewshot: Count
    """Few-shot examples before each question."""
    version: str
    """lm-eval's version of the task."""
    chance: Number | None
    """Chance accuracy: the mean of 1 / number of options; None without options."""
    majority: Number | None
    """Accuracy of always giving the most common correct answer; None if the questions differ in
    their options or in the order of the options."""
    correct: str | None
    """One digit per question in lm-eval's order, 1 if `accuracy` counts it as correct; None for a
    group."""
    accuracy: str | None
    """Name of the measure that counts questions as correct or not; with several filters, the first
    filter's."""

    def __post_init__(self) -> None:
        if self.accuracy is not None and self.accuracy not in self.measures:
            raise ValueError(f"accuracy: {self.accuracy!r} is none of its measures")
        digits = self.correct
        if digits is not None and (digits.strip("01") or len(digits) != self.num_samples):
            raise ValueError(f"correct: {len(digits)} answers, not {self.num_samples} times 0 or 1")

    @property
    def correct_share(self) -> Measure | None:
        """The share of questions answered correctly, as `accuracy` counts it."""
        return None if self.accuracy is None else self.measures[self.accuracy]

    @property
    def chance_accuracy(self) -> float | None:
        """Accuracy of guessing: `chance`, or 0 where answers are generated."""
        if self.chance is None and any(name.startswith("exact_match") for name in self.measures):
            return 0.0
        return self.chance
