"""What a job is about to do, known before a weight is loaded: its points, each by its key."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from layerprune.config.schema import Config, DataConfig, ModelConfig
from layerprune.data.hub import Render
from layerprune.data.text import Text, read, unread
from layerprune.errors import UserError
from layerprune.evaluate.harness import Questions
from layerprune.model.load import conversations
from layerprune.model.source import NOT_HERE, Source, described, locate
from layerprune.plan import GREEDY, STRATEGIES
from layerprune.plan.target import Target, targets
from layerprune.record.checkpoint import written
from layerprune.record.identity import identity, plain, point_key
from layerprune.record.point import content_hash
from layerprune.record.store import Store

EXPORTS = ("none", "hf")


@dataclass(frozen=True)
class Job:
    """What all points of one job have in common, and which points these are."""

    config: Config
    source: Source
    text: Text
    questions: Questions
    targets: dict[str, Target]
    """By the point's key, in the order asked."""
    notes: list[str]
    """Lines for the user."""
    keep_all: bool = False
    """Whether all that healing changed is kept, even every weight: for an export."""

    def identity(self, target: Target) -> dict[str, Any]:
        """What a point's result may depend on."""
        return _identity(self.config, self.source, self.text, self.questions, target)

    @property
    def digests(self) -> tuple[str, str, str]:
        """Of the model's files, of the text, and of the questions."""
        return self.source.fingerprint, self.text.digest, self.questions.digest

    @cached_property
    def store(self) -> Store:
        """Where the points are kept."""
        return Store(Path(self.config.runtime.outputs) / self.config.study)

    @property
    def cache(self) -> Path:
        """What every study of `runtime.outputs` shares."""
        return Path(self.config.runtime.outputs) / "cache"

    @property
    def healed(self) -> bool:
        """Whether each point has a model of its own."""
        return self.config.heal.recipe != "none"

    @property
    def done(self) -> bool:
        """Whether every point is there, with its checkpoint if one was asked for."""
        return all(self._is_done(key) for key in self.targets)

    def _is_done(self, key: str) -> bool:
        return self.exported(key) and self.store.read(key) is not None

    def exported(self, key: str) -> bool:
        """Whether a point's checkpoint is there in the form that was asked for, if one was."""
        form = self.config.export
        if form.format == "none":
            return True
        found = written(self.store.point_folder(key))
        return found is not None and found[0] == plain(asdict(form))

    @property
    def title(self) -> str:
        """Model, strategy and recipe, for people."""
        recipe = f" {self.config.heal.recipe}" if self.healed else ""
        return f"{self.source.name} {self.config.prune.strategy}{recipe}"

    @property
    def kind(self) -> str:
        """The same, with the metric: what is told of together."""
        return f"{self.title} by {self.config.metric.name}"

    @cached_property
    def model_key(self) -> str:
        """The same for jobs whose points one model in memory can answer together, un-healed."""
        names = ("model", "data", "eval", "runtime")
        shared = {name: asdict(getattr(self.config, name)) for name in names}
        return content_hash({"weights": self.source.fingerprint, **plain(shared)})


class Jobs:
    """Makes jobs of configurations; what several have in common is read once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._errors: dict[str, UserError] = {}

    def prepare(self, config: Config) -> Job:
        """The job of a configuration. Raises `UserError` for what can be told without a model."""
        for key, name, known in (
            ("prune.strategy", config.prune.strategy, (*STRATEGIES, GREEDY)),
            ("export.format", config.export.format, EXPORTS),
        ):
            if name not in known:
                raise UserError(f"{key}={name} is not known: choose one of {', '.join(known)}.")
        if config.eval.speed.rounds and config.heal.recipe != "none":
            raise UserError(
                f"eval.speed.rounds={config.eval.speed.rounds} with heal={config.heal.recipe}: "
                "healing changes no speed; measure it with heal=none."
            )
        folder = Path(config.runtime.outputs) / "cache"
        questions = self._once(config.eval, lambda: Questions(config.eval))
        # A dry run of a model whose shape is known needs none of its files, and none of the text.
        planned = config.dry_run and config.model.shape is not None

        def find() -> Source:
            found: Source = self._once(
                (config.model, folder, planned), lambda: _source(config.model, folder, planned)
            )
            return found

        # What a conversation is as text, its model says: found now only if there is one.
        data = config.data
        model = None if data.files is None and data.hub is None else config.model
        text = self._once((data, planned, model), lambda: _text(data, planned, find))
        source = find()
        _check_window(config, source)
        wanted, notes = targets(config.prune, source.num_layers)
        if source.fingerprint == NOT_HERE:
            notes.append(
                f"{source.name}: planned by its shape. Its files are not here, so that points "
                "which are done cannot be told."
            )
        by_key = {
            point_key(_identity(config, source, text, questions, target)): target
            for target in wanted
        }
        heal = config.heal
        if heal.steps is not None and (heal.warmup_steps or 0) >= heal.steps:
            notes.append(
                f"heal.warmup_steps={heal.warmup_steps} is no less than heal.steps={heal.steps}: "
                "the peak of the learning rate is never reached."
            )
        exported = config.export.format != "none"
        return Job(config, source, text, questions, by_key, notes, keep_all=exported)

    def _once(self, what: object, make: Any) -> Any:
        key = repr(what)  # of dataclasses: all their values
        if key in self._errors:
            raise self._errors[key]  # the hub was asked once: that may take its time
        if key not in self._known:
            try:
                self._known[key] = make()
            except UserError as error:
                self._errors[key] = error
                raise
        return self._known[key]


def _check_window(config: Config, source: Source) -> None:
    """Raise `UserError` for sequences that are longer than what the model reads."""
    speed, heal = config.eval.speed, config.heal.sequence_length
    wanted = {"data.sequence_length": config.data.sequence_length}
    if heal is not None:
        wanted["heal.sequence_length"] = heal
    if speed.rounds:  # the last token is written, and not read
        wanted["eval.speed.prompt_tokens + new_tokens - 1"] = (
            speed.prompt_tokens + speed.new_tokens - 1
        )
    for key, tokens in wanted.items():
        if source.window is not None and tokens > source.window:
            raise UserError(f"{key}={tokens}: {source.name} reads {source.window} tokens at most.")


def _source(config: ModelConfig, cache: Path, planned: bool) -> Source:
    if not planned:
        return locate(config, cache)
    try:
        return locate(config, cache, fetch=False)
    except UserError:
        return described(config)


def _text(config: DataConfig, planned: bool, find: Callable[[], Source]) -> Text:
    @cache
    def template() -> Render:
        return conversations(find())

    try:
        return read(config, lambda turns: template()(turns))
    except UserError:
        if planned and config.hub is not None:
            return unread(config)
        raise


def prepare_all(configs: Sequence[Config]) -> tuple[list[Job], list[str]]:
    """The jobs, or why some of them cannot be: all reasons, each once."""
    jobs, makers = [], Jobs()
    refused: dict[str, None] = {}
    for config in configs:
        try:
            jobs.append(makers.prepare(config))
        except UserError as error:
            refused[str(error)] = None
    return jobs, list(refused)


def _identity(
    config: Config, source: Source, text: Text, questions: Questions, target: Target
) -> dict[str, Any]:
    digests = source.fingerprint, text.digest, questions.digest
    return identity(config, source.name, *digests, target)
