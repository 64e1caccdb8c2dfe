"""A job: its configuration and inputs, and the points that it requests, known without weights."""

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from layerprune.config.schema import Config
from layerprune.data.conversations import RenderConversation
from layerprune.data.text import TextSplits, read_text
from layerprune.errors import UserError
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.token_cache import TokenCache
from layerprune.export.checkpoint import checkpoint_folder, exported, form_facts, refuse_export
from layerprune.model.load import conversation_renderer
from layerprune.model.source import NO_FINGERPRINT, Source, locate, source_from_shape
from layerprune.prune.target import Target, targets
from layerprune.record.identity import identity, plain, point_key, training_identity
from layerprune.record.point import Point, content_hash
from layerprune.record.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """The inputs that all points of one job share, and the points themselves."""

    config: Config
    source: Source
    text: TextSplits
    eval_tasks: EvalTasks
    requested: list[Target]
    notes: list[str]
    """Lines for the user."""
    keep_all: bool = False
    """Keep every weight that healing changed, even all of them: for an export."""

    def identity(self, target: Target) -> dict[str, Any]:
        """Return everything that a point's result may depend on."""
        return identity(self.config, self.source.name, *self.digests, target)

    @cached_property
    def targets(self) -> dict[str, Target]:
        """The requested targets by point key, in their order."""
        return {point_key(self.identity(target)): target for target in self.requested}

    @property
    def digests(self) -> tuple[str, str, str]:
        """Digests of the model's files, of the text, and of the evaluation tasks."""
        return self.source.fingerprint, self.text.digest, self.eval_tasks.digest

    @cached_property
    def store(self) -> Store:
        """The store of the study."""
        return Store(Path(self.config.runtime.outputs) / self.config.study)

    @property
    def token_cache(self) -> TokenCache:
        """The tokens of the prompts, which jobs with the same model and tasks share."""
        return self.eval_tasks.token_cache(self.source.fingerprint)

    @property
    def cache(self) -> Path:
        """The folder that all studies of `runtime.outputs` share."""
        return Path(self.config.runtime.outputs) / "cache"

    @property
    def healed(self) -> bool:
        """True if a recipe heals the points."""
        return self.config.heal.recipe != "none"

    @property
    def trainings(self) -> list[range]:
        """The numbers of removed layers that each training heals; none if each has its own."""
        return self.config.heal.trainings(self.source.num_layers)

    def training_folder(self, counts: range) -> Path:
        """Return the folder of a training for several numbers of removed layers."""
        depends_on = training_identity(self.config, *self.digests, counts)
        return self.cache / self.config.heal.recipe / content_hash(depends_on)

    @property
    def batch_key(self) -> str | None:
        """Key of the jobs of one `model_key` that run together; None for one that runs alone."""
        if self.trainings:
            # The first training tells curves apart, and the options of healing what follows it.
            return f"{self.training_folder(self.trainings[0])} {self.config.heal}"
        return None if self.healed else "unhealed"

    @property
    def done(self) -> bool:
        """True if every point has a record, and its checkpoint if one was requested."""
        return all(self.exported(key) and self.store.read(key) for key in self.targets)

    def finished_points(self) -> list[Point]:
        """Return the points that have a record, in request order."""
        return [point for key in self.targets if (point := self.store.read(key)) is not None]

    def exported(self, key: str) -> bool:
        """Return True if a point's checkpoint exists in the requested form, or none was."""
        form = self.config.export
        if form.format == "none":
            return True
        checkpoint = checkpoint_folder(self.store.point_folder(key), form)
        return exported(checkpoint)[:2] == (key, form_facts(form))

    @property
    def title(self) -> str:
        """Model, strategy and recipe, for people."""
        recipe = f" {self.config.heal.recipe}" if self.healed else ""
        return f"{self.source.name} {self.config.prune.strategy}{recipe}"

    @property
    def curve_title(self) -> str:
        """The title with the metric: jobs with the same one share a status line."""
        return f"{self.title} by {self.config.metric.name}"

    @cached_property
    def model_key(self) -> str:
        """A hash that jobs share if one model in memory can evaluate all their unhealed points."""
        names = ("model", "data", "eval", "runtime")
        shared = {name: asdict(getattr(self.config, name)) for name in names}
        return content_hash({"weights": self.source.fingerprint, **plain(shared)})


class JobBuilder:
    """Build jobs from configurations; inputs that several jobs share are read once."""

    def __init__(self) -> None:
        self._inputs: dict[Hashable, Any] = {}
        self._exported: dict[str, set[str]] = {}
        """Keys of the points to export by `export.path`."""

    def build(self, config: Config) -> Job:
        """Return the job of a configuration.

        Raises `UserError` for every error that shows without weights.
        """
        tasks = self._once(config.eval, lambda: EvalTasks(config.eval))
        # A dry run of a model whose shape is known needs neither its files nor the text.
        dry = config.dry_run and config.model.shape is not None

        def source() -> Source:
            key = (config.model, config.runtime.outputs, dry)
            return self._once(key, lambda: _source(config, dry))

        # The model's chat template turns conversations into text: read its files only for these.
        data = config.data
        model = None if data.files is None and data.hub is None else config.model
        text = self._once((data, dry, model), lambda: _text(config, dry, source))
        model_source = source()
        config.check_lengths(model_source.name, model_source.context_length)
        exporting = config.export.format != "none"
        if exporting and model_source.fingerprint != NO_FINGERPRINT:
            refuse_export(model_source, config.export, config.heal.recipe != "none")
        requested, notes = targets(config.prune, model_source.num_layers)
        if trainings := config.heal.trainings(model_source.num_layers):
            if config.prune.layers is not None:
                raise UserError(
                    f"heal={config.heal.recipe} heals a whole curve, and prune.layers is one "
                    "point: use prune.layers_dropped, or heal=lora."
                )
            most = trainings[-1][-1]
            if beyond := [target.count for target in requested if target.count > most]:
                notes.append(
                    f"heal={config.heal.recipe} trains for up to {most} removed layers, not "
                    f"for {', '.join(map(str, beyond))}: raise heal.max_fraction."
                )
        if model_source.fingerprint == NO_FINGERPRINT:
            notes.append(
                f"{model_source.name}: planned from its shape. Its files are not on this machine, "
                "so finished points are not recognised."
            )
        job = Job(config, model_source, text, tasks, requested, notes, keep_all=exporting)
        if (path := config.export.path) is not None:
            self._exported[path] = self._exported.get(path, set()) | job.targets.keys()
            if len(self._exported[path]) > 1:
                raise UserError(
                    f"export.path={path} holds one checkpoint, and this command makes several "
                    "points: remove it, or choose one point."
                )
        return job

    def _once(self, inputs: object, read_inputs: Callable[[], T]) -> T:
        """Return what `read_inputs` returned for equal inputs; raise what it raised, likewise."""
        key = repr(inputs)  # of dataclasses: all their values
        if key not in self._inputs:
            try:
                self._inputs[key] = read_inputs()
            except UserError as error:  # kept: asking the hub again takes its time
                self._inputs[key] = error
        if isinstance(self._inputs[key], UserError):
            raise self._inputs[key]
        return cast(T, self._inputs[key])


def _source(config: Config, dry: bool) -> Source:
    cache_folder = Path(config.runtime.outputs) / "cache"
    try:
        return locate(config.model, cache_folder, fetch=not dry)
    except UserError:
        if dry:
            return source_from_shape(config.model)
        raise


def _text(config: Config, dry: bool, source: Callable[[], Source]) -> TextSplits:
    @cache
    def template() -> RenderConversation:
        return conversation_renderer(source())

    try:
        return read_text(config.data, lambda turns: template()(turns))
    except UserError:
        if dry and config.data.hub is not None:
            return TextSplits((), (), (), digest=f"{config.data.hub}, not here")
        raise
