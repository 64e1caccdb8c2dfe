"""The pipeline of a study: load, plan, prune, heal, evaluate, record.

How it works:
1. `run_jobs` finds the points without a record, and claims them against other processes.
2. The dense model is loaded once, and plans are made from its layer distances (`run.dense`).
3. Points without healing are evaluated together, in one shared pass over all their layer paths.
4. Each point with healing loads its own model, removes layers, trains, and is evaluated. Where one
   training heals all points of a curve (`heal=elastic`), one shared pass evaluates them, too.
5. Every result is written as a record at once; a failure is recorded, and other points go on.
6. Checkpoints are exported from finished points.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel

from layerprune.config.schema import Config
from layerprune.errors import PointFailed, RunErrors, UserError
from layerprune.evaluate.answer_cache import AnswerCache
from layerprune.evaluate.evaluate import Evaluation, evaluate_paths
from layerprune.evaluate.heldout_loss import heldout_loss, heldout_losses
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.speed import speeds
from layerprune.export.checkpoint import export
from layerprune.model.load import torch_device
from layerprune.prune.layer_distances import TRY_DTYPE
from layerprune.prune.plan import Plan
from layerprune.record.healing import Healing
from layerprune.record.identity import float32_products, recorded_config
from layerprune.record.point import Costs, Point, PointPlan, PrunedModel
from layerprune.record.provenance import provenance
from layerprune.record.speed import Speed
from layerprune.run.claims import PendingPoint, claimed, pending_points
from layerprune.run.dense import DenseModel, PlannedPoint, plan_cuts, plan_points
from layerprune.run.job import Job, JobBuilder
from layerprune.runtime import memory, processes
from layerprune.runtime.atomic_files import scratch_folder
from layerprune.runtime.progress import progress_bar, say
from layerprune.runtime.seeding import seeded
from layerprune.shared_forward.memory_budget import MemoryBudget
from layerprune.shared_forward.prefix_tree import LayerPath

if TYPE_CHECKING:
    from layerprune.heal.healing import Healed, PointHealing

log = logging.getLogger(__name__)


def run(config: Config) -> list[Point]:
    """Run one job and return its points in request order; finished points are not recomputed.

    Raises `UserError` for what the user can fix, and `PointFailed` once all other points are done.
    """
    return run_job(JobBuilder().build(config))


def run_job(job: Job) -> list[Point]:
    """Run a job as `run` does."""
    errors = run_jobs([job])
    for reason in errors.refused:
        raise UserError(reason)
    if errors.failed:
        raise PointFailed("; ".join(errors.failed.values()))
    return job.finished_points()


def run_jobs(jobs: Sequence[Job]) -> RunErrors:
    """Make the missing points and checkpoints of jobs; return the errors of those that failed.

    Several jobs must share a `model_key` and a `batch_key`. A failed point stops no other.
    """
    errors = RunErrors()
    lead = jobs[0]
    if not (lead.healed or processes.is_main()):
        _answer_as_helper(jobs)
        return errors
    pending = pending_points(jobs, errors)
    while pending:
        with claimed(pending) as mine:
            if mine:
                with _environment(lead) as spill_folder:
                    _run_points(DenseModel(lead, spill_folder), mine, errors)
        pending = pending_points(jobs, errors) if processes.num_processes() == 1 else []
    if processes.is_main():
        for job in jobs:
            _export(job, errors)
    return errors


def _answer_as_helper(jobs: Sequence[Job]) -> None:
    """Answer a share of the requests, for the process of this run that writes the records."""
    pending, lead = pending_points(jobs, RunErrors()), jobs[0]
    if not pending:
        return
    try:
        with _environment(lead) as spill_folder:
            dense = DenseModel(lead, spill_folder)
            lead.eval_tasks.load()
            planned = [point for points in _by_job(pending) for point in plan_points(dense, points)]
            paths = list(dict.fromkeys(point.plan.kept for point in planned))
            loaded = dense.loaded
            scorer = Scorer(
                loaded.model, loaded.tokenizer, memory_budget=dense.memory_budget, paths=paths,
                answer_cache=_answer_cache(lead), token_cache=lead.token_cache, helping=True,
            )  # fmt: skip
            lead.eval_tasks.score(scorer)
    except Exception:  # the first process meets the same error, and reports it
        log.exception("A helping process stops.")


@contextmanager
def _environment(job: Job) -> Iterator[Path | None]:
    """Run a block with the job's seed and settings of PyTorch; yield its spill folder, if any."""
    runtime = job.config.runtime
    spill = scratch_folder(job.cache / "states") if runtime.spill else nullcontext()
    precision = runtime.float32_matmul_precision.value
    settings = seeded(job.config.seed, runtime.threads, runtime.deterministic, precision)
    with settings, spill as folder:
        yield folder


def _run_points(dense: DenseModel, pending: Sequence[PendingPoint], errors: RunErrors) -> None:
    lead = pending[0].job
    try:
        lead.eval_tasks.load()
        lead.eval_tasks.check(dense.tokenizer, lead.source.context_length)
        _ = dense.heldout  # read before any model is loaded
    except Exception as error:
        _give_up(pending, error, errors)
        return
    planned: list[PlannedPoint] = []
    for points in _by_job(pending):
        try:
            planned += plan_points(dense, points)
        except Exception as error:
            _give_up(points, error, errors)
    if lead.trainings and planned:
        _run_bands(planned, dense, errors)
    elif lead.healed and planned:
        dense.unload()  # each healed point loads its own model
        _run_healed(planned, dense.heldout, errors)
    elif planned:
        _run_unhealed(planned, dense, errors)


def _by_job(pending: Sequence[PendingPoint]) -> list[list[PendingPoint]]:
    return [list(points) for _, points in groupby(pending, lambda point: id(point.job))]


def _run_unhealed(planned: Sequence[PlannedPoint], dense: DenseModel, errors: RunErrors) -> None:
    """Evaluate points without healing in one shared pass."""
    config, job = dense.job.config, dense.job
    by_path = _by_path(planned)
    speed: dict[LayerPath, Speed] = {}
    if config.eval.speed.rounds:
        try:
            speed = speeds(dense.loaded.model, list(by_path), config.eval.speed)
        except Exception as error:
            _give_up(planned, error, errors)
            return
    memory.reset_peak(torch_device(config.runtime.device))
    evaluate = partial(
        evaluate_paths, dense.loaded, job.eval_tasks, dense.heldout, dense.memory_budget,
        _answer_cache(job), job.token_cache,
    )  # fmt: skip
    for path, result in _evaluations(evaluate, list(by_path)):
        for point in by_path[path]:
            try:
                if isinstance(result, Exception):
                    raise result
                _write(_point(point, result, speed=speed.get(path)), point.job)
            except Exception as error:
                errors.failed[point.folder] = point.record_failure(error)


def _by_path(planned: Sequence[PlannedPoint]) -> dict[LayerPath, list[PlannedPoint]]:
    by_path: dict[LayerPath, list[PlannedPoint]] = {}
    for point in planned:
        by_path.setdefault(point.plan.kept, []).append(point)
    return by_path


def _evaluations(
    evaluate: Callable[[Sequence[LayerPath]], Iterator[Evaluation]], paths: Sequence[LayerPath]
) -> Iterator[tuple[LayerPath, Evaluation | Exception]]:
    """Yield each path with its evaluation; if the shared pass fails, evaluate path by path."""
    shared = evaluate(paths)
    for done, path in enumerate(paths):
        try:
            yield path, next(shared)
        except Exception as error:
            if len(paths) == 1:
                yield path, error
                return
            log.exception("The shared pass over %d models failed: one by one.", len(paths))
            for remaining in paths[done:]:
                yield from _evaluations(evaluate, [remaining])
            return


def _run_bands(planned: Sequence[PlannedPoint], dense: DenseModel, errors: RunErrors) -> None:
    """Heal the cuts of each band by one training, and evaluate its points in one shared pass."""
    job, heldout_ST = dense.job, dense.heldout
    last = job.trainings[-1]
    cuts = plan_cuts(dense, range(last.stop))
    dense.unload()
    for band in job.trainings:
        points = [
            point
            for point in planned
            if point.target.count in band or (band == last and point.target.count >= band.stop)
        ]
        if not points:
            continue
        memory.reset_peak(torch_device(job.config.runtime.device))
        try:
            training = _band_training(job, heldout_ST, cuts, band)
            _run_band(points, training, heldout_ST, errors)
        except Exception as error:
            _give_up(points, error, errors)


def _band_training(
    job: Job, heldout_ST: Tensor, cuts: Sequence[Plan], band: range
) -> "PointHealing":
    """Return the training of the cuts of a band; `cuts` are all, from the dense model's plan."""
    from layerprune.heal.healing import PointHealing

    probes = [cuts[count].kept for count in sorted({band[0], band[len(band) // 2], band[-1]})]

    def loss(model: PreTrainedModel) -> float:
        """Return the mean over three cuts of the band."""
        budget = MemoryBudget.of(model, job.config.runtime.memory_bytes)
        return fmean(one.nats for one in heldout_losses(model, heldout_ST, probes, budget))

    folder = job.training_folder(band)
    return PointHealing(
        job.source, cuts[0], job.text, job.config, folder, folder / "checkpoints", loss,
        cuts=tuple(cuts[band.start : band.stop]),
    )  # fmt: skip


def _run_band(
    planned: Sequence[PlannedPoint],
    training: "PointHealing",
    heldout_ST: Tensor,
    errors: RunErrors,
) -> None:
    from layerprune.heal.artifacts import save_cut_adapter
    from layerprune.heal.together import heal_together, point_healing

    job = planned[0].job
    healed = heal_together(training)
    if healed is None:
        return
    model, adapted = healed.loaded.model, healed.adapted
    assert adapted is not None
    budget = MemoryBudget.of(model, job.config.runtime.memory_bytes)
    by_path = _by_path(planned)
    with adapted.disable_adapter():
        before = heldout_losses(model, heldout_ST, list(by_path), budget, _answer_cache(job))
    answers = AnswerCache(training.folder / "answers", f"strength-{training.strength}")
    evaluate = partial(
        evaluate_paths, healed.loaded, job.eval_tasks, heldout_ST, budget, answers, job.token_cache
    )
    evaluations = _evaluations(evaluate, list(by_path))
    for (path, result), unhealed in zip(evaluations, before, strict=True):
        for point in by_path[path]:
            try:
                if isinstance(result, Exception):
                    raise result
                removed, after = point.target.count, result.loss.nats
                healing = point_healing(training, healed.healing, removed, unhealed.nats, after)
                save_cut_adapter(adapted, model, point.plan, point.folder)
                _write(_point(point, result, healing=healing), point.job)
            except Exception as error:
                errors.failed[point.folder] = point.record_failure(error)


def _run_healed(planned: Sequence[PlannedPoint], heldout_ST: Tensor, errors: RunErrors) -> None:
    """Heal and evaluate points one after another: each loads its own model."""
    with progress_bar(planned[0].job.title, total=len(planned)) as advance:
        for point in planned:
            memory.reset_peak(torch_device(point.job.config.runtime.device))
            try:
                healed = _heal(point, heldout_ST)
                if processes.is_main():
                    assert healed is not None
                    result = _evaluate_healed(point, healed, heldout_ST)
                    _write(_point(point, result, healing=healed.healing), point.job)
            except Exception as error:
                errors.failed[point.folder] = point.record_failure(error)
            finally:
                healed = None  # free it before the next one is loaded
            advance(1)


def _heal(point: PlannedPoint, heldout_ST: Tensor) -> "Healed | None":
    # peft and bitsandbytes: only where they are used
    from layerprune.heal.fsdp import common_budget
    from layerprune.heal.healing import PointHealing

    job = point.job

    def loss(model: PreTrainedModel) -> float:
        budget = common_budget(model, job.config.runtime.memory_bytes)
        return heldout_loss(model, heldout_ST, budget).nats

    checkpoints = job.store.checkpoints(point.key)
    healing = PointHealing(
        job.source, point.plan, job.text, job.config, point.folder, checkpoints, loss, job.keep_all
    )
    return healing.run()


def _evaluate_healed(point: PlannedPoint, healed: "Healed", heldout_ST: Tensor) -> Evaluation:
    job = point.job
    # Of no use to another point: these answers go with its checkpoints, once it has a record.
    cache = AnswerCache(job.store.checkpoints(point.key) / "answers", "healed")
    budget = MemoryBudget.of(healed.loaded.model, job.config.runtime.memory_bytes)
    return next(
        evaluate_paths(
            healed.loaded, job.eval_tasks, heldout_ST, budget, cache, job.token_cache
        )
    )  # fmt: skip


def _write(point: Point, job: Job) -> None:
    job.store.write(point)
    job.store.drop_checkpoints(point.key)
    log.info("made the point %s", point.key)


def _give_up(pending: Sequence[PendingPoint], error: Exception, errors: RunErrors) -> None:
    """Give up points that cannot be started: an error that the user can fix is no failure."""
    if isinstance(error, UserError):
        errors.refused.setdefault(str(error), []).extend(point.folder for point in pending)
        return
    for point in pending:
        errors.failed[point.folder] = point.record_failure(error)


def _answer_cache(job: Job) -> AnswerCache:
    """Return the cache of answers of this model's cuts, shared by all jobs with these requests."""
    config = job.config.model
    quantization = f"-{config.quantization.value}" if config.quantization else ""
    weights = f"{job.source.fingerprint}-{config.dtype.value}{quantization}"
    device = torch_device(job.config.runtime.device).type
    # Without deterministic algorithms, answers may be rounded differently in every run.
    deterministic = "-deterministic" if job.config.runtime.deterministic else ""
    precision = "".join(f"-{value}" for value in float32_products(job.config).values())
    return AnswerCache(job.cache / "answers", f"{weights}-{device}{deterministic}{precision}")


def _export(job: Job, errors: RunErrors) -> None:
    """Export each finished point that has no checkpoint yet in the requested form."""
    if job.config.export.format == "none":
        return
    points = job.finished_points()
    for point in points:
        if job.exported(point.key):
            continue
        folder = job.store.point_folder(point.key)
        try:
            checkpoint = export(
                job.source, point, folder, points, job.config.export,
                stream=job.config.runtime.stream,
            )  # fmt: skip
        except UserError as error:
            errors.refused.setdefault(str(error), []).append(folder)
        else:
            kind = "GGUF file" if job.config.export.format == "gguf" else "checkpoint"
            engine = "llama.cpp" if job.config.export.format == "gguf" else "transformers"
            say(f"{checkpoint}: a {kind} that {engine} loads.")


def _point(
    planned: PlannedPoint,
    result: Evaluation,
    healing: Healing | None = None,
    speed: Speed | None = None,
) -> Point:
    job, target, plan = planned.job, planned.target, planned.plan
    device = torch_device(job.config.runtime.device)
    source, distances = job.source, planned.distances
    if not math.isfinite(result.loss.nats):
        title = f"{source.name} without layers {list(plan.dropped)}"
        raise PointFailed(f"{title}: the loss is not a number. {TRY_DTYPE}")
    config = recorded_config(job.config)
    if target.layers is None:  # a point's own: the same whether it was asked for alone or not
        config["prune"]["fraction"] = [target.fraction_asked]
    return Point(
        key=planned.key,
        identity=job.identity(target),
        config=config,
        model=PrunedModel(
            source.name, source.family, source.num_layers, result.parameters, result.weight_bytes
        ),
        plan=PointPlan(
            **asdict(plan),
            kept=plan.kept,
            fraction=plan.fraction,
            fraction_asked=target.fraction_asked,
            metric=job.config.metric.name,
            profile=distances.key if distances is not None else None,
        ),
        scores=tuple(result.scores),
        loss=result.loss,
        costs=Costs(result.seconds, result.shared_by, memory.peak(device)),
        provenance=provenance(result.device, result.prompt_sharing),
        healing=healing,
        speed=speed,
    )
