"""A job's model before any cut, and the plans that follow from what is measured on it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path as Folder

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerprune import processes
from layerprune.config.schema import Calibration
from layerprune.data.sequences import cut
from layerprune.job import Job
from layerprune.model.load import Loaded, load, load_tokenizer
from layerprune.paths.room import Room
from layerprune.plan import GREEDY, follow, make_plan
from layerprune.plan.order import Order, stored_order
from layerprune.plan.plan import Plan
from layerprune.plan.search import extend
from layerprune.plan.target import Target
from layerprune.progress import say_once
from layerprune.record.identity import order_identity, profile_identity
from layerprune.record.point import content_hash
from layerprune.similarity.measure import measure
from layerprune.similarity.profile import Profile, stored
from layerprune.todo import Wanted


class Whole:
    """A job's model before any cut, loaded when something needs it for the first time.

    A healed point whose distances are known needs the tokenizer alone.
    """

    def __init__(self, job: Job, spill: Folder | None) -> None:
        self.job = job
        self._spill = spill

    def forget(self) -> None:
        """Let go of the model."""
        vars(self).pop("loaded", None)

    @cached_property
    def loaded(self) -> Loaded:
        """With its tokenizer."""
        model, runtime = self.job.config.model, self.job.config.runtime
        return load(
            self.job.source, model.dtype, runtime.device, model.quantization, runtime.device_map,
            runtime.stream,
        )  # fmt: skip

    @cached_property
    def room(self) -> Room:
        """What may be in memory beside it."""
        return Room.of(self.loaded.model, self.job.config.runtime.memory_bytes, self._spill)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Without its model."""
        return load_tokenizer(self.job.source)

    @cached_property
    def heldout(self) -> Tensor:
        """Token sequences [S, T]."""
        data = self.job.config.data
        found_ST = cut(
            self.job.text.heldout, self.tokenizer, data.sequence_length, data.heldout_sequences
        )
        _say_if_fewer("held-out", found_ST, "data.heldout_sequences", data.heldout_sequences)
        return found_ST

    @cached_property
    def calibration(self) -> Tensor:
        """Token sequences [S, T]."""
        data = self.job.config.data
        of_questions = data.calibration is Calibration.questions
        text = self.job.questions.solved() if of_questions else self.job.text.calibration
        most = data.calibration_sequences
        found_ST = cut(text, self.tokenizer, data.sequence_length, most)
        _say_if_fewer("calibration", found_ST, "data.calibration_sequences", most)
        return found_ST


def _say_if_fewer(what: str, found_ST: Tensor, key: str, asked: int) -> None:
    if len(found_ST) < asked:
        num, length = found_ST.shape
        say_once(f"{key}={asked}: the {what} text has {num} sequences of {length} tokens, no more.")


def plans_of(
    job: Job, whole: Whole, wanted: Sequence[Wanted]
) -> tuple[list[Plan], list[Profile | None]]:
    """Which layers go, and the distances that were looked at, if all was decided by them."""
    prune = job.config.prune
    if prune.strategy == GREEDY:  # each layer goes by a measurement of its own
        plans = _plans_in_order(job, whole, [each.target for each in wanted])
        return plans, [None] * len(wanted)
    profile = _profile(job, whole)
    if processes.first():
        job.store.write_profile(profile)
    plans = [
        make_plan(each.target, prune.strategy, profile.matrix, job.config.seed) for each in wanted
    ]
    return plans, [profile] * len(wanted)


def _profile(job: Job, whole: Whole) -> Profile:
    """The distances between the inputs of every two layers, from the cache or measured."""
    depends_on = profile_identity(job.config, *job.digests)
    key = content_hash(depends_on)

    def make() -> Profile:
        ids_ST = whole.calibration
        model, room, config = whole.loaded.model, whole.room, job.config
        matrix_SS = measure(model, config.metric, ids_ST, config.seed, room)
        return Profile(key, depends_on, len(ids_ST), matrix_SS.tolist())

    return stored(job.cache / "profiles", key, make)


def _plans_in_order(job: Job, whole: Whole, wanted: list[Target]) -> list[Plan]:
    """The plans of `prune=greedy`, from one order of layers, which is kept as distances are."""
    depends_on = order_identity(job.config, *job.digests)

    def add(order: Order, count: int) -> None:
        model, ids_ST, config = whole.loaded.model, whole.calibration, job.config
        extend(model, config.metric, ids_ST, config.seed, order, count, whole.room)

    order = stored_order(
        job.cache / "profiles",
        content_hash(depends_on),
        depends_on,
        max((target.count for target in wanted if target.layers is None), default=0),
        add,
    )
    return [follow(target, order, job.source.num_layers) for target in wanted]
