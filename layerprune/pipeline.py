"""Jobs of one model as a sentence: load, profile, plan, prune, heal, evaluate, record."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path as Folder
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune import memory, processes
from layerprune.config.schema import Config
from layerprune.errors import PointFailed, UserError, refusal
from layerprune.evaluate.answers import Answers
from layerprune.evaluate.evaluate import Evaluation, answer_some, evaluate, evaluate_all
from layerprune.evaluate.loss import heldout_loss
from layerprune.evaluate.speed import speeds
from layerprune.files import scratch
from layerprune.isolation import isolated
from layerprune.job import Job, Jobs
from layerprune.model.load import Loaded, torch_device
from layerprune.paths.room import Room
from layerprune.paths.tree import Path
from layerprune.plan.plan import Plan
from layerprune.progress import bar, say
from layerprune.record.identity import plain
from layerprune.record.point import Point
from layerprune.record.provenance import provenance
from layerprune.record.speed import Speed
from layerprune.similarity.measure import TRY_DTYPE
from layerprune.similarity.profile import Profile
from layerprune.todo import Outcome, Wanted, claimed, missing
from layerprune.whole import Whole, plans_of

if TYPE_CHECKING:
    from layerprune.heal.recipes import Healed

log = logging.getLogger(__name__)

Planned = tuple[Wanted, Plan, Profile | None]


def run(config: Config) -> list[Point]:
    """The points of one job, in the order asked; those that have a record are not made again.

    Raises `UserError` for what the user can mend, and `PointFailed` once all others are there.
    """
    return made(Jobs().prepare(config))


def made(job: Job) -> list[Point]:
    """The points of a job, as `run` makes them."""
    outcome = make([job])
    for why in outcome.refused:
        raise UserError(why)
    if outcome.failed:
        raise PointFailed("; ".join(outcome.failed.values()))
    return finished(job)


def finished(job: Job) -> list[Point]:
    """The points of a job that have a record, in the order asked."""
    found = map(job.store.read, job.targets)
    return [point for point in found if point is not None]


def make(jobs: Sequence[Job]) -> Outcome:
    """Make what is missing of jobs; several of them are of one `model_key`, and not healed.

    Returns what came to nothing, and why: one point, or one job, does not stop the others.
    """
    outcome = Outcome()
    lead = jobs[0]
    if not (lead.healed or processes.first()):
        _help(jobs)
        return outcome
    todo = missing(jobs, outcome)
    while todo:
        with claimed(todo) as wanted:
            if wanted:
                with _isolated(lead):
                    _make(wanted, outcome)
        todo = missing(jobs, outcome) if processes.count() == 1 else []
    if processes.first():
        for job in jobs:
            _export(job, outcome)
    return outcome


def _help(jobs: Sequence[Job]) -> None:
    """Answer a share of the questions, for the process of this run that makes the points."""
    todo, lead = missing(jobs, Outcome()), jobs[0]
    if not todo:
        return
    try:
        with _isolated(lead), _spill(lead) as folder:
            whole = Whole(lead, folder)
            lead.questions.load()
            plans: list[Plan] = []
            for job in {id(each.job): each.job for each in todo}.values():
                plans += plans_of(job, whole, [each for each in todo if each.job is job])[0]
            paths = list(dict.fromkeys(plan.kept for plan in plans))
            answer_some(whole.loaded, lead.questions, whole.room, paths, _answers(lead))
    except Exception:  # the first process meets the same, and says so
        log.exception("A process that helps stops.")


def _make(wanted: Sequence[Wanted], outcome: Outcome) -> None:
    lead = wanted[0].job
    with _spill(lead) as folder:
        _make_with(Whole(lead, folder), wanted, outcome)


def _isolated(job: Job) -> AbstractContextManager[None]:
    """What nothing outlives, as this job asks for it."""
    runtime = job.config.runtime
    return isolated(job.config.seed, runtime.threads, runtime.deterministic)


def _spill(job: Job) -> AbstractContextManager[Folder | None]:
    """A folder for states that wait on disk, if that was asked for."""
    return scratch(job.cache / "states") if job.config.runtime.spill else nullcontext()


def _make_with(whole: Whole, wanted: Sequence[Wanted], outcome: Outcome) -> None:
    lead = wanted[0].job
    try:
        lead.questions.load()
        lead.questions.check(whole.tokenizer)
        heldout_ST = whole.heldout
    except Exception as error:
        _give_up(wanted, error, outcome)
        return
    planned: list[Planned] = []
    for job in {id(each.job): each.job for each in wanted}.values():
        own = [each for each in wanted if each.job is job]
        try:
            planned += zip(own, *plans_of(job, whole, own), strict=True)
        except Exception as error:
            _give_up(own, error, outcome)
    if lead.healed:
        whole.forget()  # each healed point has a model of its own
        _make_healed(planned, heldout_ST, outcome)
    elif planned:
        _make_together(planned, whole, heldout_ST, outcome)


def _make_together(
    planned: Sequence[Planned], whole: Whole, heldout_ST: Tensor, outcome: Outcome
) -> None:
    """Points without healing: all of them are asked at once."""
    lead = planned[0][0].job
    of_path: dict[Path, list[Planned]] = {}
    for each in planned:
        of_path.setdefault(each[1].kept, []).append(each)
    try:
        timed = _speeds(lead, whole.loaded, list(of_path))
    except Exception as error:
        _give_up([wanted for wanted, _, _ in planned], error, outcome)
        return
    memory.reset_peak(torch_device(lead.config.runtime.device))
    for path, result in _evaluations(whole, heldout_ST, list(of_path)):
        for wanted, plan, profile in of_path[path]:
            try:
                if isinstance(result, Exception):
                    raise result
                _write(wanted, _point(wanted, plan, profile, result, speed=timed.get(path)))
            except Exception as error:
                _fail(wanted, error, outcome, plan.dropped)


def _evaluations(
    whole: Whole, heldout_ST: Tensor, paths: Sequence[Path]
) -> Iterator[tuple[Path, Evaluation | Exception]]:
    """What each path's model gives; where that fails for all together, each on its own."""
    job = whole.job
    answers = _answers(job)
    together = evaluate_all(whole.loaded, job.questions, heldout_ST, whole.room, paths, answers)
    for at, path in enumerate(paths):
        try:
            yield path, next(together)
        except Exception as error:
            if len(paths) == 1:
                yield path, error
                return
            log.exception("Asking %d models together failed: one by one.", len(paths))
            for alone in paths[at:]:
                yield from _evaluations(whole, heldout_ST, [alone])
            return


def _speeds(job: Job, loaded: Loaded, paths: Sequence[Path]) -> dict[Path, Speed]:
    if not job.config.eval.speed.rounds:
        return {}
    return speeds(loaded.model, paths, job.config.eval.speed)


def _make_healed(planned: Sequence[Planned], heldout_ST: Tensor, outcome: Outcome) -> None:
    """Points with healing, one after another: each has a model of its own."""
    if not planned:
        return
    with bar(planned[0][0].job.title, total=len(planned)) as advance:
        for wanted, plan, profile in planned:
            job = wanted.job
            memory.reset_peak(torch_device(job.config.runtime.device))
            try:
                healed = _heal(job, wanted, plan, heldout_ST)
                if processes.first():
                    assert healed is not None
                    result = _ask_healed(job, wanted, healed.loaded, heldout_ST)
                    _write(wanted, _point(wanted, plan, profile, result, healing=healed.record))
            except Exception as error:
                _fail(wanted, error, outcome, plan.dropped)
            finally:
                healed = None  # gone before the next one is loaded
            advance(1)


def _ask_healed(job: Job, wanted: Wanted, loaded: Loaded, heldout_ST: Tensor) -> Evaluation:
    # They are of no use to another point: they go with its checkpoints, once it has a record.
    stored = Answers(job.store.checkpoints(wanted.key) / "answers", "healed")
    room = Room.of(loaded.model, job.config.runtime.memory_bytes)
    return evaluate(loaded, job.questions, heldout_ST, room, stored)


def _write(wanted: Wanted, point: Point) -> None:
    wanted.job.store.write(point)
    wanted.job.store.drop_checkpoints(point.key)
    log.info("made the point %s", point.key)


def _give_up(wanted: Sequence[Wanted], error: Exception, outcome: Outcome) -> None:
    """None of some points can be made: what the user can mend is no failure of a point."""
    if isinstance(error, UserError):
        folders = outcome.refused.setdefault(str(error), [])
        folders += [each.folder for each in wanted]
        return
    for each in wanted:
        _fail(each, error, outcome)


def _fail(
    wanted: Wanted, error: Exception, outcome: Outcome, dropped: Sequence[int] | None = None
) -> None:
    log.error("The point %s failed.", wanted.key, exc_info=error)
    why = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        why = refusal(error)
    elif not isinstance(error, UserError):
        where = wanted.job.title if dropped is None else f"{wanted.job.title} {list(dropped)}"
        why = f"{where}: {type(error).__name__}: {why}"
    outcome.failed[wanted.folder] = why
    if processes.first():
        with suppress(OSError):  # where a record cannot be written, neither can this
            wanted.job.store.write_failure(
                wanted.key, wanted.job.identity(wanted.target), why, error
            )


def _answers(job: Job) -> Answers:
    """Where the answers of this model's cuts are kept, for every job that asks the same."""
    config = job.config.model
    held = f"-{config.quantization.value}" if config.quantization else ""
    weights = f"{job.source.fingerprint}-{config.dtype.value}{held}"
    kind = torch_device(job.config.runtime.device).type
    # Others were rounded as it came: a point that is made anew would have other digits.
    again = "-deterministic" if job.config.runtime.deterministic else ""
    return Answers(job.cache / "answers", f"{weights}-{kind}{again}")


def _heal(job: Job, wanted: Wanted, plan: Plan, heldout_ST: Tensor) -> "Healed | None":
    # peft and bitsandbytes: only where they are used
    from layerprune.heal.recipes import heal
    from layerprune.heal.shared import common_budget

    def loss(model: PreTrainedModel) -> float:
        budget = common_budget(model, job.config.runtime.memory_bytes)
        return heldout_loss(model, heldout_ST, budget).nats

    checkpoints = job.store.checkpoints(wanted.key)
    return heal(
        job.source, plan, job.text, job.config, wanted.folder, checkpoints, loss, job.keep_all
    )


def _export(job: Job, outcome: Outcome) -> None:
    """A checkpoint of each point that has none yet in the form that was asked for."""
    if job.config.export.format == "none":
        return
    points = finished(job)
    for point in points:
        if job.exported(point.key):
            continue
        from layerprune.export import export

        folder = job.store.point_folder(point.key)
        try:
            found = export(job.source, point, folder, points, job.config.export)
        except UserError as error:
            outcome.refused.setdefault(str(error), []).append(folder)
        else:
            say(f"{found}: a checkpoint that transformers loads.")


def _point(
    wanted: Wanted,
    plan: Plan,
    profile: Profile | None,
    result: Evaluation,
    healing: dict[str, Any] | None = None,
    speed: Speed | None = None,
) -> Point:
    job, target = wanted.job, wanted.target
    source = job.source
    if not math.isfinite(result.loss.nats):
        raise PointFailed(
            f"{source.name} without layers {list(plan.dropped)}: "
            f"the loss is not a number. {TRY_DTYPE}"
        )
    config = plain(asdict(job.config))
    if target.layers is None:  # a point's own: the same whether it was asked for alone or not
        config["prune"]["fraction"] = [target.fraction_asked]
    return Point(
        key=wanted.key,
        identity=job.identity(target),
        config=config,
        model={
            "name": source.name,
            "family": source.family,
            "num_layers": source.num_layers,
            "parameters_kept": result.parameters,
            "weight_bytes": result.weight_bytes,
        },
        plan={
            **asdict(plan),
            "kept": plan.kept,
            "fraction": plan.fraction,
            "fraction_asked": target.fraction_asked,
            "metric": job.config.metric.name,
            "profile": profile.key if profile is not None else None,
        },
        scores=[asdict(score) for score in result.scores],
        loss=asdict(result.loss),
        costs={
            "seconds": result.seconds,
            "shared_by": result.shared_by,
            "peak_memory_bytes": memory.peak(torch_device(job.config.runtime.device)),
        },
        provenance=provenance(
            result.device,
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
        ),
        healing=healing,
        speed=None if speed is None else asdict(speed),
    )
