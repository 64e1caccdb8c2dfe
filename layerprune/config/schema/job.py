"""All of one job, and what goes together."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from layerprune.config.schema.data import Calibration, DataConfig
from layerprune.config.schema.eval import EvalConfig
from layerprune.config.schema.export import ExportConfig
from layerprune.config.schema.fit import FitConfig
from layerprune.config.schema.heal import HEAL_KEYS, HealConfig
from layerprune.config.schema.metric import MetricConfig
from layerprune.config.schema.model import ModelConfig, Quantization
from layerprune.config.schema.prune import DEFAULT_FRACTIONS, PruneConfig
from layerprune.config.schema.runtime import RuntimeConfig
from layerprune.config.schema.tracker import TrackerConfig
from layerprune.errors import UserError


@dataclass(kw_only=True, slots=True)
class Config:
    """One job: one model, one metric, one strategy, one recipe, one or more fractions."""

    study: str = "default"
    """Name of the folder under `runtime.outputs` that collects the points."""
    seed: int = 0
    """Of what is drawn: the order of text and the first low-rank updates in healing, layers at
    random."""
    dry_run: bool = False
    """Print which points there are, which failed and which are to be made, and make none."""
    model: ModelConfig = MISSING
    metric: MetricConfig = MISSING
    prune: PruneConfig = MISSING
    heal: HealConfig = MISSING
    eval: EvalConfig = MISSING
    data: DataConfig = MISSING
    tracker: TrackerConfig = MISSING
    export: ExportConfig = MISSING
    fit: FitConfig = field(default_factory=FitConfig)
    runtime: RuntimeConfig = MISSING

    def __post_init__(self) -> None:
        if (
            not self.study
            or self.study == "cache"
            or set(self.study) & set("/\\")
            or (self.study.startswith("."))
        ):
            raise UserError(
                f"study={self.study!r}: a study is the name of a folder, without slashes, "
                "not starting with a dot, and not 'cache'."
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: it must lie between 0 and 2**32 - 1.")
        self._check_calibration()
        self._check_quantization()
        self._check_places()
        self._check_fit()
        if "targets" in HEAL_KEYS[self.heal.recipe] and self.heal.targets is None:
            # Not interpolated in YAML: OmegaConf cannot refer to a list that is null.
            self.heal.targets = self.model.healing.targets

    def _check_calibration(self) -> None:
        """What questions can be measured on."""
        if self.data.calibration is Calibration.text:
            return
        if not self.eval.tasks:
            raise UserError(
                "data.calibration=questions: there are none, add eval.tasks=[NAME] to the command."
            )
        if self.eval.chat_template:
            raise UserError(
                "data.calibration=questions writes them without eval.chat_template: "
                "leave one of the two out."
            )

    def _check_quantization(self) -> None:
        """What can be done with weights that are held in few bits."""
        held, recipe = self.model.quantization, self.heal.recipe
        if held is None:
            return
        if recipe == "qlora":
            if held is not Quantization.nf4:
                raise UserError(
                    f"heal=qlora trains on nf4, not on model.quantization={held.value}: "
                    "leave that out, or give nf4."
                )
        elif recipe in ("lora", "distill"):
            raise UserError(
                f"heal={recipe} trains on weights in model.dtype: "
                "leave model.quantization out, or use heal=qlora."
            )
        elif recipe != "none":
            raise UserError(
                f"heal={recipe} changes the weights themselves: "
                "leave model.quantization out, or use heal=qlora."
            )
        if self.metric.name == "taylor":
            raise UserError(
                "metric=taylor takes gradients of the weights themselves: "
                "leave model.quantization out."
            )

    def _check_places(self) -> None:
        """What can be done with a model whose parts are in several places."""
        if self.runtime.shard and self.heal.recipe not in ("lora", "qlora"):
            raise UserError(
                "runtime.shard shares out the frozen weights of heal=lora and heal=qlora: "
                f"with heal={self.heal.recipe}, leave it out."
            )
        if self.runtime.device_map is None and not self.runtime.stream:
            return
        key = "runtime.stream" if self.runtime.stream else "runtime.device_map"
        if self.runtime.stream and self.eval.speed.rounds:
            raise UserError(
                f"eval.speed.rounds={self.eval.speed.rounds} times a model in memory: leave {key} "
                "out."
            )
        if self.heal.recipe != "none" and not (self.runtime.stream and self.heal.recipe == "seam"):
            raise UserError(
                f"heal={self.heal.recipe} trains a model that is in one place: leave {key} out."
            )
        if self.metric.name == "taylor":
            raise UserError(
                f"metric=taylor takes gradients of a model that is in one place: leave {key} out."
            )

    def _check_fit(self) -> None:
        """What a search for the smallest model decides by itself, and what it needs."""
        hinted = self.export.dtype or self.export.quantization
        if not self.fit.asked:
            if hinted and self.export.format == "none":
                raise UserError(
                    "export.dtype and export.quantization say in which form a checkpoint is: "
                    "add export=hf."
                )
            return
        if self.prune.layers is not None or self.prune.fraction != DEFAULT_FRACTIONS:
            raise UserError(
                "fit decides how many layers go: leave prune.fraction and prune.layers out."
            )
        if self.fit.keep is not None and not self.eval.tasks:
            raise UserError(
                f"fit.keep={self.fit.keep}: there are no questions, "
                "add eval.tasks=[NAME] to the command."
            )
