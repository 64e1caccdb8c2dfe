"""One job as a sentence: load, profile, plan, prune, heal, evaluate, record."""

import logging
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerprune import memory, processes
from layerprune.config.schema import Config
from layerprune.data.sequences import cut
from layerprune.data.text import Text, read
from layerprune.errors import PointFailed, UserError
from layerprune.evaluate.answers import Answers
from layerprune.evaluate.evaluate import Evaluation, evaluate, evaluate_all
from layerprune.evaluate.harness import Questions
from layerprune.evaluate.loss import heldout_loss
from layerprune.model.load import Loaded, load, torch_device
from layerprune.model.source import Source, locate
from layerprune.paths.room import Room
from layerprune.plan import GREEDY, STRATEGIES, follow, make_plan
from layerprune.plan.order import stored_order
from layerprune.plan.plan import Plan
from layerprune.plan.search import extend
from layerprune.plan.target import Target, targets
from layerprune.progress import bar, say
from layerprune.record.identity import identity, order_identity, plain, point_key, profile_identity
from layerprune.record.point import Point, content_hash
from layerprune.record.provenance import provenance
from layerprune.record.store import Store
from layerprune.similarity.measure import TRY_DTYPE, measure
from layerprune.similarity.profile import Profile, stored

if TYPE_CHECKING:
    from layerprune.heal.recipes import Healed

log = logging.getLogger(__name__)

EXPORTS = ("none", "hf")

DEFAULT_THREADS = torch.get_num_threads()
"""PyTorch's own choice: an earlier job of this process may have asked for another number."""


@dataclass(frozen=True)
class Job:
    """What all points of one run have in common."""

    config: Config
    source: Source
    text: Text
    questions: Questions


def run(config: Config) -> list[Point]:
    """The points of one job, in the order asked; those that have a record are not made again."""
    _check_names(config)
    questions = Questions(config.eval)
    outputs = Path(config.runtime.outputs)
    text = read(config.data)
    job = Job(config, locate(config.model, outputs / "cache"), text, questions)
    wanted, notes = targets(config.prune, job.source.num_layers)
    keys = [point_key(_identity(job, target)) for target in wanted]

    store = Store(outputs / config.study)
    points = {key: point for key in keys if (point := store.read(key)) is not None}
    failures: list[str] = []
    recipe = "" if config.heal.recipe == "none" else f" {config.heal.recipe}"
    title = f"{job.source.name} {config.prune.strategy}{recipe}"
    todo = [(key, target) for key, target in zip(keys, wanted, strict=True) if key not in points]
    for line in (*notes, f"{title}: {len(keys)} points, {len(points)} of them are there already."):
        say(line)
    if todo and (processes.first() or config.heal.recipe != "none"):
        questions.load()
        loaded = _load(job)
        cache = outputs / "cache" / "profiles"
        if config.prune.strategy == GREEDY:
            profile = None  # each layer goes by a measurement of its own
            plans = _plans_in_order(job, loaded, [target for _, target in todo], cache)
        else:
            profile = _profile(job, loaded, cache)
            if processes.first():
                store.write_profile(profile)
            plans = [
                make_plan(target, config.prune.strategy, profile.matrix, config.seed)
                for _, target in todo
            ]
        heldout_ST = _heldout(job, loaded)
        together = None
        if config.heal.recipe == "none":
            memory.reset_peak(torch_device(config.runtime.device))
            together = evaluate_all(
                loaded, questions, heldout_ST, _room(job, loaded.model),
                [plan.kept for plan in plans], _answers(job, outputs / "cache" / "answers"),
            )  # fmt: skip
        else:
            del loaded  # each healed point has a model of its own
        # What is asked together has a bar of its own, and is done when the first point is.
        with bar(title, total=len(todo)) if together is None else nullcontext() as advance:
            for (key, target), plan in zip(todo, plans, strict=True):
                try:
                    if together is not None:
                        point = _point(job, target, plan, profile, next(together), None)
                    else:
                        point = _healed_point(job, target, plan, profile, heldout_ST, store)
                except PointFailed as error:
                    log.exception("The point %s failed.", key)
                    failures.append(str(error))  # not itself: it holds on to a whole model
                    if processes.first():
                        store.write_failure(key, _identity(job, target), error)
                    continue
                if point is None:
                    continue
                points[key] = point
                store.write(point)
                store.drop_checkpoints(key)
                if advance is not None:
                    advance(1)
    done = [points[key] for key in keys if key in points]
    if processes.first() and config.export.format != "none":
        _export(job, store, done)
    if failures:
        raise PointFailed("; ".join(failures))
    return done


def _check_names(config: Config) -> None:
    """Names that only the stages know; those of YAML files Hydra has checked already."""
    for key, name, known in (
        ("prune.strategy", config.prune.strategy, (*STRATEGIES, GREEDY)),
        ("export.format", config.export.format, EXPORTS),
    ):
        if name not in known:
            raise UserError(f"{key}={name} is not known: choose one of {', '.join(known)}.")


def _identity(job: Job, target: Target) -> dict[str, Any]:
    digests = job.source.fingerprint, job.text.digest, job.questions.digest
    return identity(job.config, job.source.name, *digests, target)


def _load(job: Job) -> Loaded:
    torch.set_num_threads(job.config.runtime.threads or DEFAULT_THREADS)
    torch.manual_seed(job.config.seed)
    model, runtime = job.config.model, job.config.runtime
    loaded = load(job.source, model.dtype, runtime.device, model.quantization, runtime.device_map)
    window = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and job.config.data.sequence_length > window:
        raise UserError(
            f"data.sequence_length={job.config.data.sequence_length}: "
            f"{job.source.name} reads {window} tokens at most."
        )
    return loaded


def _heldout(job: Job, loaded: Loaded) -> Tensor:
    data = job.config.data
    return cut(job.text.heldout, loaded.tokenizer, data.sequence_length, data.heldout_sequences)


def _calibration(job: Job, loaded: Loaded) -> Tensor:
    data = job.config.data
    return cut(
        job.text.calibration, loaded.tokenizer, data.sequence_length, data.calibration_sequences
    )


def _profile(job: Job, loaded: Loaded, folder: Path) -> Profile:
    """The distances between the inputs of every two layers, from the cache or measured."""
    depends_on = profile_identity(job.config, job.source.fingerprint, job.text.digest)
    key = content_hash(depends_on)

    def make() -> Profile:
        ids_ST = _calibration(job, loaded)
        matrix_SS = measure(loaded.model, job.config.metric, ids_ST, job.config.seed)
        return Profile(key, depends_on, len(ids_ST), matrix_SS.tolist())

    return stored(folder, key, make)


def _plans_in_order(job: Job, loaded: Loaded, wanted: list[Target], folder: Path) -> list[Plan]:
    """The plans of `prune=greedy`, from one order of layers, which is kept as distances are."""
    depends_on = order_identity(job.config, job.source.fingerprint, job.text.digest)
    order = stored_order(
        folder,
        content_hash(depends_on),
        depends_on,
        max((target.count for target in wanted if target.layers is None), default=0),
        partial(
            extend, loaded.model, job.config.metric, _calibration(job, loaded), job.config.seed
        ),
    )
    return [follow(target, order, job.source.num_layers) for target in wanted]


def _room(job: Job, model: PreTrainedModel) -> Room:
    return Room.of(model, job.config.runtime.memory_bytes)


def _answers(job: Job, folder: Path) -> Answers:
    """Where the answers of this model's cuts are kept, for every job that asks the same."""
    device = torch_device(job.config.runtime.device).type
    model = job.config.model
    held = f"-{model.quantization.value}" if model.quantization else ""
    weights = f"{job.source.fingerprint}-{model.dtype.value}{held}"
    return Answers(folder, f"{weights}-{device}")


def _healed_point(
    job: Job, target: Target, plan: Plan, profile: Profile | None, heldout_ST: Tensor, store: Store
) -> Point | None:
    """A point with a model of its own, gone when this returns; None in all processes but one."""
    memory.reset_peak(torch_device(job.config.runtime.device))
    healed = _heal(job, plan, heldout_ST, store, point_key(_identity(job, target)))
    if not processes.first():
        return None
    room = _room(job, healed.loaded.model)
    result = evaluate(healed.loaded, job.questions, heldout_ST, room)
    return _point(job, target, plan, profile, result, healed.record)


def _heal(job: Job, plan: Plan, heldout_ST: Tensor, store: Store, key: str) -> "Healed":
    from layerprune.heal.recipes import heal  # peft and bitsandbytes: only where they are used

    def loss(model: PreTrainedModel) -> float:
        return heldout_loss(model, heldout_ST, job.config.runtime.memory_bytes).nats

    folder = store.point_folder(key)
    return heal(job.source, plan, job.text, job.config, folder, store.checkpoints(key), loss)


def _export(job: Job, store: Store, points: list[Point]) -> None:
    """A checkpoint of each point that has none yet, in the folder `model` of the point."""
    from layerprune.export import export

    for point in points:
        folder = store.point_folder(point.key)
        if not (folder / "model").is_dir():
            export(job.source, point, folder, points)
            say(f"{folder / 'model'}: a checkpoint that transformers loads.")


def _point(
    job: Job,
    target: Target,
    plan: Plan,
    profile: Profile | None,
    result: Evaluation,
    healing: dict[str, Any] | None,
) -> Point:
    what = _identity(job, target)
    source = job.source
    if not math.isfinite(result.loss.nats):
        raise PointFailed(
            f"{source.name} without layers {list(plan.dropped)}: "
            f"the loss is not a number. {TRY_DTYPE}"
        )
    return Point(
        key=point_key(what),
        identity=what,
        config=plain(asdict(job.config)),
        model={
            "name": source.name,
            "family": source.family,
            "num_layers": source.num_layers,
            "parameters_kept": result.parameters,
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
        provenance=provenance(result.device, torch.get_num_threads()),
        healing=healing,
    )
