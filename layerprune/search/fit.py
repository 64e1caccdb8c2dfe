"""Search for the smallest model within a budget: unhealed curve, healed candidates, checkpoint.

Everything that is measured is an ordinary point of the study, with a record: a search that was
stopped resumes, and the report shows its points.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice

from layerprune.analysis.correctness import correctness
from layerprune.analysis.statistics import compare, wilson
from layerprune.config.compose import compose
from layerprune.config.schema import Config, Dtype, ExportConfig, FitConfig, SpeedConfig
from layerprune.errors import UserError
from layerprune.estimate.shape import shape_of
from layerprune.export.checkpoint import checkpoint_folder, export, exported, form_facts
from layerprune.heal.recipes.none import NoHealing
from layerprune.model.weight_files import weights_dtype
from layerprune.record.point import Point
from layerprune.run import pipeline
from layerprune.run.job import Job, JobBuilder
from layerprune.runtime import processes
from layerprune.runtime.atomic_files import write_json
from layerprune.runtime.progress import say
from layerprune.search.bayesian_search import (
    Margin,
    Posterior,
    max_healings,
    search,
    unhealed_answer,
)
from layerprune.search.budget import (
    ModelSize,
    fewest_layers,
    refuse_impossible,
    size_of_parameters,
    speedups,
)
from layerprune.search.checkpoint_check import verify, write_samples
from layerprune.search.margins import DenseBaseline
from layerprune.search.result import (
    RESULT_FILE,
    Budget,
    KeptMargin,
    SearchResult,
    SearchStep,
    SubjectResult,
    describe_margin,
    describe_speedup,
    layers,
    mebibytes,
)

SAMPLES, PROMPT_WORDS = 4, 24
"""Number of sample texts, and words in each prompt."""


def fit(
    *overrides: str,
    keep: float | None = None,
    memory: str | None = None,
    speedup: float | None = None,
) -> SearchResult:
    """Return the smallest model within a budget, like `python main.py OVERRIDES fit.keep=...`.

    `overrides` are written as on the command line: `"model=FOLDER"`, `"heal=lora"`, and so on.
    Raises `UserError` for a budget that cannot be met.
    """
    limits = {"fit.keep": keep, "fit.memory": memory, "fit.speedup": speedup}
    budget = [f"{key}={value}" for key, value in limits.items() if value is not None]
    config = compose(*overrides, *budget)
    if not config.fit.has_budget:
        raise UserError("fit without a budget: give keep, memory or speedup.")
    return run(config)


def run(config: Config, on_job: Callable[[Job], None] = lambda job: None) -> SearchResult:
    """Return the smallest model within `config.fit`; `on_job` is called before each job runs.

    Raises `UserError` for a budget that cannot be met, naming the closest achievable one: before a
    weight is read if the model's shape is enough to tell.
    """
    return _Search(config, on_job).run()


def planned_jobs(config: Config) -> list[Job]:
    """Return jobs with as many points as a search makes at most.

    Evenly spaced candidates stand in for those that the search will choose.
    """
    refuse_impossible(config)
    builder = JobBuilder()
    num_layers = builder.build(_point_config(config)).source.num_layers
    jobs = [builder.build(_point_config(config, range(num_layers)))]
    if config.heal.recipe != "none":
        most = max_healings(num_layers) if config.fit.keep is not None else 1
        counts = [(number + 1) * num_layers // (most + 1) for number in range(most)]
        if config.fit.keep is not None:
            counts = _healed_together(config, num_layers) or counts
        jobs.append(builder.build(_point_config(config, counts, healed=True)))
    return jobs


def _healed_together(config: Config, num_layers: int) -> list[int]:
    """Return the numbers of removed layers that a few trainings heal; none if each has its own."""
    return [count for counts in config.heal.trainings(num_layers) for count in counts if count]


def _point_config(
    config: Config, layers_dropped: Iterable[int] | None = None, healed: bool = False
) -> Config:
    """Return the configuration of ordinary points, whose keys do not depend on the search.

    Speed is measured on the unhealed curve only, since healing does not change it.
    """
    prune, evaluation = config.prune, config.eval
    return replace(
        config,
        fit=FitConfig(),
        export=ExportConfig(format="none"),
        prune=prune
        if layers_dropped is None
        else replace(prune, fraction=None, layers_dropped=list(layers_dropped)),
        heal=config.heal if healed else NoHealing(),
        eval=replace(evaluation, speed=SpeedConfig()) if healed else evaluation,
    )


class _Search:
    """One search: measures points as they are needed, decides, and reports."""

    def __init__(self, config: Config, on_job: Callable[[Job], None]) -> None:
        if processes.num_processes() > 1:
            raise UserError("fit runs in a single process: start it without torchrun.")
        self._config, self._fit, self._on_job = config, config.fit, on_job
        self._heals = config.heal.recipe != "none"
        self._jobs = JobBuilder()
        refuse_impossible(config)
        # Errors in the options of healing should surface before any work is done.
        self._jobs.build(_point_config(config, healed=True))
        job = self._jobs.build(_point_config(config))
        self._source, self._store, self._text = job.source, job.store, job.text
        self._num_layers = job.source.num_layers
        self._shape = shape_of(config.model, job.source.folder)
        refuse_impossible(config, job.source.folder)
        self._healed: dict[int, Point] = {}
        """Healed candidates by number of removed layers, in the order healed."""

    def run(self) -> SearchResult:
        least, reason = self._least()
        required = f"fit: {reason} requires removing {layers(least)} of {self._num_layers}"
        if self._fit.keep is None:
            say(f"{required}.")
            self._heal(least)
            return self._finish(least, None)
        unhealed = [self._margin(point) for point in self._curve]
        if least > unhealed_answer(unhealed):
            say(f"{required}: this cut comes first.")
            # A near miss may be bad luck: then the search decides, by all candidates together.
            kept = self._baseline.kept(self._heal(least)).interval
            if not self._heals or kept.high < self._fit.keep:
                raise self._conflict(least, reason)
        if not self._heals:
            return self._finish(unhealed_answer(unhealed), None)
        if together := _healed_together(self._config, self._num_layers):
            self._healed |= zip(together, self._measure(together, healed=True), strict=True)
        posterior, _ = search(
            unhealed,
            self._baseline.margin,
            self._fit.keep,
            lambda count: self._margin(self._heal(count)),
            self._announce,
            {count: self._margin(point) for count, point in self._healed.items()},
        )
        if posterior.answer < least:
            raise self._conflict(least, reason)
        return self._finish(posterior.answer, posterior)

    @cached_property
    def _curve(self) -> list[Point]:
        """Unhealed points by number of removed layers, from 0 to all but one."""
        return self._measure(range(self._num_layers), healed=False)

    @cached_property
    def _baseline(self) -> DenseBaseline:
        return DenseBaseline(self._curve[0])

    @cached_property
    def _size(self) -> ModelSize:
        dtype = weights_dtype(self._source.folder) or Dtype.float32
        parameters_N = [point.model.parameters_kept for point in self._curve]
        return size_of_parameters(parameters_N, dtype, self._config.export)

    @property
    def _timed(self) -> bool:
        return bool(self._config.eval.speed.rounds)

    def _margin(self, point: Point) -> Margin:
        assert self._fit.keep is not None
        return self._baseline.excess(point, self._fit.keep)

    def _kept(self, point: Point | None) -> KeptMargin | None:
        """Return what a point keeps; None without `fit.keep` or without a point."""
        return None if point is None or self._fit.keep is None else self._baseline.kept(point)

    def _bytes(self, point: Point) -> float:
        return self._size.bytes(point.model.parameters_kept)

    def _speedup(self, point: Point) -> float | None:
        speed = self._curve[point.num_dropped].speed
        if speed is not None:
            return speed.decode_ratio.median
        if self._shape is None:
            return None
        return speedups(self._shape, self._config.eval.speed.prompt_tokens)[point.num_dropped]

    def _measure(self, counts: Iterable[int], healed: bool) -> list[Point]:
        job = self._jobs.build(_point_config(self._config, counts, healed))
        # Any of these points may be exported in the end.
        job = replace(job, keep_all=self._config.export.format != "none")
        self._on_job(job)
        return pipeline.run_job(job)

    def _heal(self, count: int) -> Point:
        """Return the point without `count` layers; healed, if there is a recipe and a cut."""
        if not self._heals or count == 0:
            return self._curve[count]
        if count not in self._healed:
            (self._healed[count],) = self._measure([count], healed=True)
        return self._healed[count]

    def _least(self) -> tuple[int, str]:
        """Return the fewest layers to remove for memory and speed, and the option that decides."""
        bytes_N = [self._bytes(point) for point in self._curve]
        speedup_N = [ratio for point in self._curve if (ratio := self._speedup(point))]
        if self._fit.speedup is not None and len(speedup_N) < self._num_layers:
            raise UserError(
                f"fit.speedup={self._fit.speedup}: the operations of {self._source.name} cannot "
                "be counted from its configuration. Add eval.speed.rounds=5 to measure speed."
            )
        basis = "time" if self._timed else "counted operations"
        return fewest_layers(self._fit, self._size, bytes_N, speedup_N, basis)

    def _announce(self, posterior: Posterior, healed: Mapping[int, Margin]) -> None:
        """Report the last candidate, the posterior, and the next candidate."""
        parts = []
        if healed:
            last = list(healed)[-1]
            kept = self._baseline.kept(self._healed[last])
            parts.append(f"healed with {layers(last)} removed, it keeps {describe_margin(kept)}")
        low, high = posterior.between
        span = layers(low) if low == high else f"{low} to {layers(high)}"
        parts.append(
            f"at most {span} can be removed (95 %), {posterior.answer} by the candidates so far"
        )
        left = max_healings(self._num_layers) - len(healed)
        if posterior.candidate is not None and left > 0:
            parts.append(f"next candidate: {posterior.candidate}, at most {left} healings left")
        say(f"fit: {'; '.join(parts)}.")

    def _conflict(self, least: int, reason: str) -> UserError:
        """Return the error for limits that exclude each other, with the closest achievable ones."""
        points = [*self._curve, *self._healed.values()]
        kept = max(
            (self._baseline.kept(point) for point in points if point.num_dropped == least),
            key=lambda kept: kept.share,
        )
        most = max(
            (point for point in points if self._margin(point).value >= 0),
            key=lambda point: point.num_dropped,
        )
        speedup = self._speedup(most)
        closest = f"{mebibytes(self._bytes(most))} in {self._size.form}"
        if speedup is not None:
            closest += f" and {describe_speedup(speedup, self._timed)}"
        share = max(0.01, int(100 * kept.share) / 100)
        return UserError(
            f"fit.keep={self._fit.keep} with {reason}: this requires removing {layers(least)} of "
            f"{self._num_layers}, which keeps {describe_margin(kept)} of the margin over chance. "
            f"Use fit.keep={share}, or settle for {closest} with {layers(most.num_dropped)} "
            "removed."
        )

    def _finish(self, count: int, posterior: Posterior | None) -> SearchResult:
        """Report the chosen number of removed layers, write `fit.json`, and export the model."""
        point = self._healed.get(count, self._curve[count])
        accuracies = {}
        for task, answers in point.task_scores.items():
            if answers.parent is None and answers.accuracy:
                accuracy, total = point.correct_share(task), answers.num_samples
                accuracies[task] = accuracy, wilson(round(accuracy * total), total)
        result = SearchResult(
            point=point,
            budget=Budget(self._fit.keep, self._fit.memory_bytes, self._fit.speedup),
            dropped=point.plan.dropped,
            healed=point.healing is not None,
            kept=self._kept(point),
            accuracies=accuracies,
            memory=(self._bytes(point), self._bytes(self._curve[0])),
            form=self._size.form,
            speedup=self._speedup(point),
            timed=self._timed,
            between=None if posterior is None else posterior.between,
            candidates=tuple(self._healed),
            most=max(max_healings(self._num_layers), len(self._healed)),
            steps=tuple(
                SearchStep(
                    dropped=n,
                    unhealed=self._kept(cut),
                    healed=self._kept(self._healed.get(n)),
                    likely=float(posterior.meets_N[n]) if posterior and n else None,
                    memory_bytes=self._bytes(cut),
                    speedup=self._speedup(cut),
                )
                for n, cut in enumerate(self._curve[: max([count, *self._healed]) + 2])
            ),
            subjects=self._subjects(point),
            samples=(),
        )
        for line in result.lines():
            say(line)
        write_json(self._store.folder / RESULT_FILE, result.to_json())
        if self._config.export.format != "none":
            result = self._export(result)
            write_json(self._store.folder / RESULT_FILE, result.to_json())
        return result

    def _subjects(self, point: Point) -> tuple[SubjectResult, ...]:
        dense, subjects = self._curve[0], []
        for task, answers in point.task_scores.items():
            before_Q, after_Q = correctness(dense, task), correctness(point, task)
            if answers.parent is None or before_Q is None or after_Q is None:
                continue
            interval = compare(before_Q, after_Q).interval
            accuracy = dense.correct_share(task), point.correct_share(task)
            subjects.append(SubjectResult(task, before_Q.size, *accuracy, interval))
        return tuple(sorted(subjects, key=lambda subject: subject.chosen - subject.dense))

    def _export(self, result: SearchResult) -> SearchResult:
        """Write the checkpoint, check some of its answers, and return the result with both."""
        point, form = result.point, self._config.export
        folder = self._store.point_folder(point.key)
        checkpoint = checkpoint_folder(folder, form)
        summary = " ".join(result.lines())
        # An earlier one may be in another form, or belong to another budget.
        if exported(checkpoint) != (point.key, form_facts(form), summary):
            curve = list(self._healed.values()) if result.healed else self._curve
            export(self._source, point, folder, curve, form, summary, self._config.runtime.stream)
        if self._config.runtime.stream:
            say(f"{checkpoint}: a checkpoint. It was not loaded for a check: with runtime.stream "
                "it may be larger than memory.")  # fmt: skip
            return replace(result, folder=checkpoint)
        prompts = (" ".join(text.split()[:PROMPT_WORDS]) for text in self._text.heldout)
        try:
            same = verify(self._config, point, checkpoint, self._source.remote_code)
            samples = write_samples(
                list(islice(prompts, SAMPLES)), self._source, checkpoint, self._config
            )
        except UserError:
            shutil.rmtree(checkpoint)
            raise
        say(
            f"{checkpoint}: a checkpoint for transformers. Loaded in a fresh process, it gives "
            f"{same[0]} of {same[1]} recorded answers."
        )
        return replace(result, folder=checkpoint, same=same, samples=samples)
