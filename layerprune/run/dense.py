"""The dense model of a job, and the plans that follow from what is measured on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layerprune.config.schema import Calibration
from layerprune.data.sequences import cut_documents
from layerprune.model.load import LoadedModel, load, load_tokenizer
from layerprune.prune.distance_matrix import DistanceMatrix, cached_distance_matrix
from layerprune.prune.layer_distances import measure_distances
from layerprune.prune.metrics import MetricContext
from layerprune.prune.plan import Plan
from layerprune.prune.removal_order import RemovalOrder, cached_removal_order
from layerprune.prune.strategies import DistanceStrategy, OrderStrategy
from layerprune.prune.target import Target
from layerprune.record.identity import order_identity, profile_identity
from layerprune.record.point import content_hash
from layerprune.run.claims import PendingPoint
from layerprune.run.job import Job
from layerprune.runtime import processes
from layerprune.runtime.progress import say_once
from layerprune.shared_forward.memory_budget import MemoryBudget


class DenseModel:
    """A job's dense model, loaded on first use.

    A healed point whose distances are cached needs the tokenizer only.
    """

    def __init__(self, job: Job, spill_folder: Path | None) -> None:
        self.job = job
        self._spill_folder = spill_folder

    def unload(self) -> None:
        """Free the model."""
        vars(self).pop("loaded", None)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model with its tokenizer."""
        model, runtime = self.job.config.model, self.job.config.runtime
        return load(
            self.job.source, model.dtype, runtime.device, model.quantization, runtime.device_map,
            runtime.stream,
        )  # fmt: skip

    @cached_property
    def memory_budget(self) -> MemoryBudget:
        """The memory available beside the model."""
        config = self.job.config.runtime
        return MemoryBudget.of(self.loaded.model, config.memory_bytes, self._spill_folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, without the model."""
        return load_tokenizer(self.job.source)

    @cached_property
    def heldout(self) -> Tensor:
        """Held-out token sequences [S, T]."""
        count = self.job.config.data.heldout_sequences
        return self._sequences("heldout", self.job.text.heldout, count)

    @cached_property
    def calibration(self) -> Tensor:
        """Calibration token sequences [S, T]."""
        data = self.job.config.data
        of_questions = data.calibration is Calibration.questions
        text = self.job.eval_tasks.solved_examples() if of_questions else self.job.text.calibration
        return self._sequences("calibration", text, data.calibration_sequences)

    @property
    def metric_context(self) -> MetricContext:
        """The inputs of metrics."""
        ids_ST, seed = self.calibration, self.job.config.seed
        return MetricContext(self.loaded.model, ids_ST, seed, self.memory_budget)

    def _sequences(self, name: str, text: Iterable[str], count: int) -> Tensor:
        length = self.job.config.data.sequence_length
        ids_ST = cut_documents(text, self.tokenizer, length, count)
        if len(ids_ST) < count:
            say_once(
                f"data.{name}_sequences={count}: the {name} text has {len(ids_ST)} "
                f"sequences of {length} tokens, no more."
            )
        return ids_ST


@dataclass(frozen=True)
class PlannedPoint(PendingPoint):
    """A pending point with its plan."""

    plan: Plan
    distances: DistanceMatrix | None
    """The layer distances, if these alone decided."""

    @property
    def title(self) -> str:
        """The title of the job, and the removed layers."""
        return f"{super().title} {list(self.plan.dropped)}"


def plan_points(dense: DenseModel, pending: Sequence[PendingPoint]) -> list[PlannedPoint]:
    """Plan points of one job."""
    job = pending[0].job
    plans, distances = _plans(job, dense, [point.target for point in pending])
    if distances is not None and processes.is_main():
        job.store.write_distances(distances)
    return [
        PlannedPoint(job, point.key, point.target, plan, distances)
        for point, plan in zip(pending, plans, strict=True)
    ]


def plan_cuts(dense: DenseModel, counts: range) -> tuple[Plan, ...]:
    """Return the plans that remove so many layers."""
    job, num_layers = dense.job, dense.job.source.num_layers
    targets = [Target(count / num_layers, count) for count in counts]
    return tuple(_plans(job, dense, targets)[0])


def _plans(
    job: Job, dense: DenseModel, targets: Sequence[Target]
) -> tuple[list[Plan], DistanceMatrix | None]:
    """Return the plan of each target, and the layer distances if these alone decided."""
    strategy = job.config.prune
    if isinstance(strategy, OrderStrategy):
        order, num_layers = _removal_order(job, dense, strategy, targets), job.source.num_layers
        return [strategy.plan(target, order, num_layers) for target in targets], None
    assert isinstance(strategy, DistanceStrategy)
    distances = _distances(job, dense)
    matrix_SS, seed = distances.matrix, job.config.seed
    return [strategy.plan(target, matrix_SS, seed) for target in targets], distances


def _distances(job: Job, dense: DenseModel) -> DistanceMatrix:
    """Return the distances between the inputs of every two layers, cached or measured."""
    depends_on = profile_identity(job.config, *job.digests)
    key = content_hash(depends_on)

    def make() -> DistanceMatrix:
        matrix_SS = measure_distances(job.config.metric, dense.metric_context)
        return DistanceMatrix(key, depends_on, len(dense.calibration), matrix_SS.tolist())

    return cached_distance_matrix(job.cache / "profiles", key, make)


def _removal_order(
    job: Job, dense: DenseModel, strategy: OrderStrategy, targets: Sequence[Target]
) -> RemovalOrder:
    """Return a removal order that is long enough for all targets, cached or extended."""
    depends_on = order_identity(job.config, *job.digests)
    count = max((target.count for target in targets if target.layers is None), default=0)

    def extend(order: RemovalOrder, count: int) -> None:
        strategy.extend(order, count, job.config.metric, dense.metric_context)

    folder, key = job.cache / "profiles", content_hash(depends_on)
    return cached_removal_order(folder, key, depends_on, count, extend)
