"""The smallest model within a budget: un-healed curve, search, healed candidates, checkpoint.

All that is measured are ordinary points of the study, which have records: what was stopped goes on,
and the report shows them.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice

from layerprune import pipeline, processes
from layerprune.config.compose import compose
from layerprune.config.schema import Config, Dtype, ExportConfig, FitConfig, HealConfig, SpeedConfig
from layerprune.errors import UserError
from layerprune.estimate.shape import shape_of
from layerprune.export import export
from layerprune.files import write_json
from layerprune.fitting.budget import (
    Size,
    least_for_memory,
    least_for_speed,
    mebibytes,
    ratios,
    refuse_impossible,
    size_of_folder,
    size_of_parameters,
    smallest_size,
)
from layerprune.fitting.fitted import Budget, Fitted, Step, Subject, faster, layers, spoken
from layerprune.fitting.margins import Kept, Margins, accuracies
from layerprune.fitting.samples import write_samples
from layerprune.fitting.search import Belief, Margin, most_healings, search, unhealed_answer
from layerprune.fitting.verify import verify
from layerprune.job import Job, Jobs
from layerprune.model.precision import precision
from layerprune.progress import say
from layerprune.record.checkpoint import MODEL, written
from layerprune.record.identity import plain
from layerprune.report.entry import Entry, read_entry
from layerprune.report.fit import FIT
from layerprune.report.marks import marks_of
from layerprune.report.statistics import compare

SAMPLES, BEGUN = 4, 24
"""Texts that the dense and the chosen model go on with, and words of each that are given."""


def run(config: Config, hear: Callable[[Job], None] = lambda job: None) -> Fitted:
    """The smallest model within `config.fit`; `hear` is told of each job that makes points.

    Raises `UserError` for a budget that cannot be met, with the nearest that can: before a weight
    is read where the model's shape says so.
    """
    return _Fit(config, hear).run()


def planned(config: Config) -> list[Job]:
    """Jobs with as many points as a search makes at most; which it heals, it finds out itself."""
    refuse_impossible(config, smallest_size(config), shape_of(config.model))
    makers, plain = Jobs(), _plain(config)
    num_layers = makers.prepare(_unhealed(plain)).source.num_layers
    jobs = [makers.prepare(_without(_unhealed(plain), range(num_layers), num_layers))]
    if config.heal.recipe != "none":
        most = most_healings(num_layers) if config.fit.keep is not None else 1
        some = [(at + 1) * num_layers // (most + 1) for at in range(most)]
        jobs.append(makers.prepare(_without(_unmeasured(plain), some, num_layers)))
    return jobs


class _Fit:
    """What is known on the way."""

    def __init__(self, config: Config, hear: Callable[[Job], None]) -> None:
        if processes.count() > 1:
            raise UserError("fit looks for a model in one process: leave torchrun out.")
        self._config, self._fit, self._hear = config, config.fit, hear
        self._plain = _plain(config)
        self._makers = Jobs()
        refuse_impossible(config, smallest_size(config), shape_of(config.model))
        self._makers.prepare(_unmeasured(self._plain))  # what heals is looked at before any work
        job = self._makers.prepare(_unhealed(self._plain))
        self._source, self._store, self._text = job.source, job.store, job.text
        self._num_layers = job.source.num_layers
        self._shape = shape_of(config.model, job.source.folder)
        refuse_impossible(config, size_of_folder(job.source.folder, config.export), self._shape)
        self._healed: dict[int, Entry] = {}
        """By the number of layers that are gone."""

    def run(self) -> Fitted:
        least, because = self._least()
        if self._fit.keep is None:
            say(f"fit: {because} needs {layers(least)} of {self._num_layers} to go.")
            self._heal(least)
            return self._chosen(least, None)
        if least > self._floor:
            say(f"fit: {because} needs {layers(least)} of {self._num_layers} to go: that first.")
            # A near miss may be bad luck: the search decides, by all that it heals.
            alone = self._config.heal.recipe == "none"
            if alone or self._margins.kept(self._heal(least)).interval.high < self._fit.keep:
                raise self._conflict(least, because)
        if self._config.heal.recipe == "none":
            return self._chosen(self._floor, None)
        belief = self._search()
        if belief.answer < least:
            raise self._conflict(least, because)
        return self._chosen(belief.answer, belief)

    @cached_property
    def _curve(self) -> list[Entry]:
        """Un-healed, without 0, 1, ... layers, up to all but one."""
        return self._make(_unhealed(self._plain), range(self._num_layers))

    @cached_property
    def _margins(self) -> Margins:
        return Margins(self._curve[0])

    def _margin(self, entry: Entry) -> Margin:
        assert self._fit.keep is not None
        return self._margins.margin(entry, self._fit.keep)

    def _kept(self, entry: Entry | None) -> Kept | None:
        """What a point keeps, if that is asked for and there is one."""
        return None if entry is None or self._fit.keep is None else self._margins.kept(entry)

    @cached_property
    def _floor(self) -> int:
        """The largest number of layers that may go un-healed."""
        return unhealed_answer([self._margin(entry) for entry in self._curve])

    def _make(self, config: Config, counts: Iterable[int]) -> list[Entry]:
        job = self._makers.prepare(_without(config, counts, self._num_layers))
        # Which of them is exported is known at the end.
        job = replace(job, keep_all=self._config.export.format != "none")
        self._hear(job)
        return [read_entry(point) for point in pipeline.made(job)]

    def _heal(self, count: int) -> Entry:
        """The model without so many layers: healed, if that was asked for and any is gone."""
        if self._config.heal.recipe == "none" or count == 0:
            return self._curve[count]
        if count not in self._healed:
            (self._healed[count],) = self._make(_unmeasured(self._plain), [count])
        return self._healed[count]

    def _least(self) -> tuple[int, str]:
        """How many layers have to go for memory and speed, and which of them asks for most."""
        fit, needs = self._fit, [(0, "")]
        if fit.memory is not None:
            bytes_N = [self._bytes(entry) for entry in self._curve]
            needs.append((least_for_memory(fit, self._size, bytes_N), f"fit.memory={fit.memory}"))
        if fit.speedup is not None:
            known_N = [ratio for entry in self._curve if (ratio := self._speedup(entry))]
            if len(known_N) < self._num_layers:
                raise UserError(
                    f"fit.speedup={fit.speedup}: the configuration of {self._source.name} does not "
                    "tell its operations. Measure its speed: add eval.speed.rounds=5."
                )
            of = "time" if self._timed else "counted operations"
            needs.append((least_for_speed(fit, known_N, of), f"fit.speedup={fit.speedup}"))
        return max(needs)

    @cached_property
    def _size(self) -> Size:
        export = self._config.export
        dtype = precision(self._source.folder) or Dtype.float32
        return size_of_parameters([entry.parameters for entry in self._curve], dtype, export)

    @property
    def _timed(self) -> bool:
        return bool(self._config.eval.speed.rounds)

    def _bytes(self, entry: Entry) -> float:
        return self._size.bytes(entry.parameters)

    def _speedup(self, entry: Entry) -> float | None:
        speed = self._curve[entry.num_dropped].speed
        if speed is not None:
            return speed.decode_ratio.median
        if self._shape is None:
            return None
        return ratios(self._shape, self._config.eval.speed.prompt_tokens)[entry.num_dropped]

    def _search(self) -> Belief:
        assert self._fit.keep is not None

        def hear(belief: Belief, healed: Mapping[int, Margin]) -> None:
            say(f"fit: {self._known(belief, list(healed))}")

        belief, _ = search(
            [self._margin(entry) for entry in self._curve],
            self._margins.dense,
            self._fit.keep,
            lambda count: self._margin(self._heal(count)),
            hear,
            {count: self._margin(entry) for count, entry in self._healed.items()},
        )
        return belief

    def _known(self, belief: Belief, healed: list[int]) -> str:
        """What is known so far, and what is done next."""
        said = []
        if healed:
            kept = self._margins.kept(self._healed[healed[-1]])
            said.append(f"healed without {layers(healed[-1])} it keeps {spoken(kept)}")
        low, high = belief.between
        span = layers(low) if low == high else f"{low} to {layers(high)}"
        said.append(f"{span} can go at most, by 95 %, {belief.answer} by what is healed so far")
        left = most_healings(self._num_layers) - len(healed)
        if belief.ask is not None and left > 0:
            said.append(f"next {belief.ask}, with {left} healings left")
        return f"{'; '.join(said)}."

    def _conflict(self, least: int, because: str) -> UserError:
        """Why no model meets all of a budget, with what is nearest."""
        tried = [*self._curve, *self._healed.values()]
        kept = max(
            (self._margins.kept(each) for each in tried if each.num_dropped == least),
            key=lambda each: each.share,
        )
        most = max(
            (each for each in tried if self._margin(each).value >= 0),
            key=lambda each: each.num_dropped,
        )
        speed = self._speedup(most)
        nearest = f"{mebibytes(self._bytes(most))} in {self._size.form}"
        if speed is not None:
            nearest += f" and {faster(speed, self._timed)}"
        share = max(0.01, int(100 * kept.share) / 100)
        return UserError(
            f"fit.keep={self._fit.keep} with {because}: that needs {layers(least)} of "
            f"{self._num_layers} to go, and what is left keeps {spoken(kept)} of the margin over "
            f"chance. Nearest are fit.keep={share}, or, without {layers(most.num_dropped)}, "
            f"{nearest}."
        )

    def _chosen(self, count: int, belief: Belief | None) -> Fitted:
        entry = self._healed.get(count, self._curve[count])
        point = self._store.read(entry.key)
        assert point is not None
        heads = [task for task, of in entry.answers.items() if of.parent is None and of.accuracy]
        fitted = Fitted(
            point=point,
            budget=Budget(self._fit.keep, self._fit.memory_bytes, self._fit.speedup),
            dropped=entry.dropped,
            healed=entry.healing is not None,
            kept=self._kept(entry),
            accuracies=accuracies(entry, heads),
            memory=(self._bytes(entry), self._bytes(self._curve[0])),
            form=self._size.form,
            speedup=self._speedup(entry),
            timed=self._timed,
            between=None if belief is None else belief.between,
            candidates=tuple(self._healed),
            most=most_healings(self._num_layers),
            steps=tuple(self._steps(count, belief)),
            subjects=tuple(self._subjects(entry)),
        )
        for line in fitted.lines():
            say(line)
        write_json(self._store.folder / FIT, fitted.found())
        if self._config.export.format != "none":
            fitted = self._exported(fitted)
            write_json(self._store.folder / FIT, fitted.found())
        return fitted

    def _steps(self, chosen: int, belief: Belief | None) -> Iterator[Step]:
        farthest = max([chosen, *self._healed])
        for count, entry in enumerate(self._curve[: farthest + 2]):
            yield Step(
                dropped=count,
                unhealed=self._kept(entry),
                healed=self._kept(self._healed.get(count)),
                likely=None if belief is None or count == 0 else float(belief.meets_N[count]),
                memory_bytes=self._bytes(entry),
                speedup=self._speedup(entry),
            )

    def _subjects(self, entry: Entry) -> list[Subject]:
        dense, found = self._curve[0], []
        for task, of in entry.answers.items():
            before, after = marks_of(dense, task), marks_of(entry, task)
            if of.parent is None or before is None or after is None:
                continue
            interval = compare(before, after).interval
            found.append(Subject(task, before.size, dense.right(task), entry.right(task), interval))
        return sorted(found, key=lambda each: each.chosen - each.dense)

    def _exported(self, fitted: Fitted) -> Fitted:
        """With the checkpoint: written, and asked some of the questions again."""
        point, form = fitted.point, self._config.export
        folder = self._store.point_folder(point.key)
        said = " ".join(fitted.lines())
        # An older one may have been written in another form, or for another budget.
        if written(folder) != (plain(asdict(form)), said):
            others = self._healed.values() if fitted.healed else self._curve
            curve = [read for each in others if (read := self._store.read(each.key))]
            export(self._source, point, folder, curve, form, said)
        if self._config.runtime.stream:
            say(f"{folder / MODEL}: a checkpoint. It was not opened: with runtime.stream it may be "
                "larger than memory.")  # fmt: skip
            return replace(fitted, folder=folder / MODEL)
        try:
            same = verify(self._config, point, folder / MODEL, self._source.own_code)
            samples = write_samples(self._prompts(), self._source, folder / MODEL, self._config)
        except UserError:
            shutil.rmtree(folder / MODEL)
            raise
        say(
            f"{folder / MODEL}: a checkpoint that transformers loads. Asked {same[1]} of the "
            f"questions in a fresh process, it gives {same[0]} of the same answers."
        )
        return replace(fitted, folder=folder / MODEL, same=same, samples=samples)

    def _prompts(self) -> list[str]:
        """How the first held-out texts begin."""
        begun = (" ".join(text.split()[:BEGUN]) for text in self._text.heldout)
        return list(islice(begun, SAMPLES))


def fit(
    *overrides: str,
    keep: float | None = None,
    memory: str | None = None,
    speedup: float | None = None,
) -> Fitted:
    """The smallest model within a budget, as `python main.py OVERRIDES fit.keep=...` finds it.

    `overrides` are what the command line takes: `"model=custom"`, `"model.path=FOLDER"`, and so on.
    Raises `UserError` for a budget that cannot be met.
    """
    asked = {"fit.keep": keep, "fit.memory": memory, "fit.speedup": speedup}
    budget = [f"{key}={value}" for key, value in asked.items() if value is not None]
    config = compose(*overrides, *budget)
    if not config.fit.asked:
        raise UserError("fit without a budget: give keep, memory or speedup.")
    return run(config)


def _plain(config: Config) -> Config:
    """Without a budget: points and their keys are the same, whoever asks for them."""
    return replace(config, fit=FitConfig(), export=ExportConfig(format="none"))


def _unhealed(config: Config) -> Config:
    return replace(config, heal=HealConfig(recipe="none"))


def _unmeasured(config: Config) -> Config:
    """Without a measurement of speed, which healing does not change."""
    return replace(config, eval=replace(config.eval, speed=SpeedConfig()))


def _without(config: Config, counts: Iterable[int], num_layers: int) -> Config:
    """For points without so many layers."""
    fractions = [count / num_layers for count in counts]
    return replace(config, prune=replace(config.prune, fraction=fractions))
