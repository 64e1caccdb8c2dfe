"""The typed configuration under every YAML file of `conf/`.

Types and defaults live here and nowhere else; the YAML files hold choices. Hydra checks keys and
types while it composes; `__post_init__` checks values, and each message names the key.
"""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from omegaconf import MISSING

from layerprune.config.size import num_bytes
from layerprune.errors import UserError

DEFAULT_FRACTIONS = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


class Dtype(Enum):
    """Precision in which the weights are held."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(Enum):
    """Form in which the weights of linear layers are held, but for the head: bitsandbytes'."""

    nf4 = "nf4"
    int8 = "int8"


class DeviceMap(Enum):
    """Who decides where a model's parts are."""

    auto = "auto"


class Tokens(Enum):
    """Which tokens of a sequence a metric looks at."""

    last = "last"
    all = "all"


class Calibration(Enum):
    """On what the distances are measured."""

    text = "text"
    questions = "questions"


class TrackerMode(Enum):
    """What Weights & Biases does with the curves."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class HealingFacts:
    """How one model is healed: Gromov et al., appendix A.1 and B.3, where the paper has it.

    The defaults are the paper's for a model of up to 7 billion parameters, before any sweep.
    """

    steps: int = 5000
    batch_size: int = 16
    warmup_steps: int = 100
    sequence_length: int = 2048
    learning_rate: float = 3e-4
    """Peak for low-rank updates."""
    weights_learning_rate: float = 2e-5
    """Peak where weights themselves are trained. The paper does not do that: the usual rate of
    fine-tuning a model of some billion parameters."""
    rank: int = 64
    targets: list[str] | None = None


@dataclass(kw_only=True, slots=True)
class ShapeFacts:
    """Sizes of a model, as its `config.json` names them: a dry run needs none of its files then."""

    num_hidden_layers: int = MISSING
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    """Width between the feed-forward projections."""
    num_attention_heads: int = MISSING
    num_key_value_heads: int = MISSING
    vocab_size: int = MISSING
    gated: bool = True
    """Whether a feed-forward part has three projections, not two."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model to cut, and how to load it."""

    path: str = MISSING
    """A hub id, a folder, a GGUF file, or `package:NAME/FILE` for a GGUF file in a package."""
    name: str | None = None
    """Label in tables and figures; the last part of `path` if not given."""
    family: str | None = None
    """Curves are compared by family; the architecture's model type if not given."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Dtype = Dtype.float32
    quantization: Quantization | None = None
    """Hold the weights of linear layers in 4 or 8 bits, and compute with them in `dtype`."""
    pickled_weights: bool = False
    """Read PyTorch's `pytorch_model*.bin` where there are no safetensors: as data, no code in them
    is run."""
    trust_remote_code: bool = False
    """Run the code that comes with a model's files where transformers does not know its type."""
    healing: HealingFacts = field(default_factory=HealingFacts)
    shape: ShapeFacts | None = None
    """For `dry_run=true` on a machine that does not have the model; a run reads its files."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise UserError("model.path is empty: give a hub id, a folder or package:NAME/FILE.")


TOKEN_KEYS = ("tokens",)

METRIC_KEYS: dict[str, tuple[str, ...]] = {
    "angular": TOKEN_KEYS,
    "cosine": TOKEN_KEYS,
    "block_influence": TOKEN_KEYS,
    "magnitude": TOKEN_KEYS,
    "euclidean": TOKEN_KEYS,
    "cka": TOKEN_KEYS,
    "perplexity": (),
    "taylor": (),
    "random": (),
}
"""The keys that each metric reads."""


@dataclass(kw_only=True, slots=True)
class MetricConfig:
    """How far apart two layers' inputs are said to be, or how much layers matter."""

    name: str = MISSING
    tokens: Tokens | None = None
    """`last`: each sequence counts by its last token, as in Gromov et al. `all`: by the mean over
    all its tokens but the first, which is an attention sink in many models: its norm is huge, and
    it would say nothing of what layers do to text."""

    def __post_init__(self) -> None:
        keys = METRIC_KEYS.get(self.name)
        if keys is None:
            raise UserError(
                f"metric.name={self.name} is not known: choose one of {', '.join(METRIC_KEYS)}."
            )
        if self.tokens is not None and "tokens" not in keys:
            raise UserError(f"metric.tokens means nothing to metric={self.name}: leave it out.")
        if self.tokens is None and "tokens" in keys:
            raise UserError("metric.tokens has no value: add metric.tokens=VALUE to the command.")


@dataclass(kw_only=True, slots=True)
class PruneConfig:
    """Which layers go: a strategy with fractions, or layers by name."""

    strategy: str = MISSING
    fraction: Any = None
    """A number in [0, 1) or a list of them; a stack of L layers loses round(fraction * L) layers.
    Nothing given, and no `layers` either: 0 to 0.5 in steps of 0.1."""
    layers: list[int] | None = None
    """Original indices, 0-based, of the layers to drop, in place of a strategy's choice."""

    def __post_init__(self) -> None:
        if self.layers is not None:
            if self.fraction is not None:
                raise UserError("prune.fraction and prune.layers exclude each other: give one.")
            if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
                raise UserError(
                    f"prune.layers={self.layers}: layers are distinct indices counted from 0."
                )
            return
        if self.fraction is None:
            self.fraction = list(DEFAULT_FRACTIONS)
        if not isinstance(self.fraction, list):
            self.fraction = [self.fraction]
        if not self.fraction:
            raise UserError("prune.fraction=[] is empty: give at least one number in [0, 1).")
        for value in self.fraction:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(
                    f"prune.fraction={value}: a fraction is a number from 0 up to, "
                    "not including, 1."
                )


TRAINING = (
    "steps", "batch_size", "micro_batch_size", "sequence_length", "learning_rate", "warmup_steps",
    "optimizer", "weight_decay", "max_grad_norm", "eval_every", "save_every", "stop_when",
)  # fmt: skip
LORA = ("rank", "dropout", "targets")

HEAL_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "lora": (*TRAINING, *LORA),
    "qlora": (*TRAINING, *LORA),
    "full": TRAINING,
    "tail": (*TRAINING, "last_layers"),
    "linear": ("sequences", "sequence_length"),
    "distill": (*TRAINING, *LORA, "text_weight", "logits_weight", "seam_weight"),
    "seam": (*TRAINING, "seam_layers", "sequences", "text_weight", "text_share", "seam_weight"),
}
"""The keys that each recipe reads."""

OPTIONAL = ("targets", "stop_when")
"""Of these, the keys that may be null."""

MAY_BE_ZERO = (
    "warmup_steps", "weight_decay", "dropout", "text_weight", "logits_weight", "seam_weight",
)  # fmt: skip

STOP_WHEN = ("plateau",)


@dataclass(kw_only=True, slots=True)
class HealConfig:
    """How the seam is repaired after the cut. A recipe reads the keys in `HEAL_KEYS`, no other."""

    recipe: str = MISSING
    steps: int | None = None
    """Optimiser steps."""
    batch_size: int | None = None
    """Sequences in each optimiser step, over all devices."""
    micro_batch_size: int | None = None
    """Sequences on a device at a time; gradients add up to `batch_size`."""
    sequence_length: int | None = None
    """Tokens in each training sequence."""
    learning_rate: float | None = None
    """The peak, after a linear warm-up; it falls to 0 as a cosine."""
    warmup_steps: int | None = None
    optimizer: str | None = None
    """As transformers' `optim` names it."""
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    eval_every: int | None = None
    """Steps between measurements of the held-out loss."""
    save_every: int | None = None
    """Steps between checkpoints, from which a stopped run goes on."""
    stop_when: str | None = None
    """`plateau`: stop before `steps` once three measurements of the held-out loss in a row brought
    less than a thousandth."""
    rank: int | None = None
    """Of the LoRA update; its alpha is the same."""
    dropout: float | None = None
    """Of the input of the LoRA update."""
    targets: list[str] | None = None
    """Ends of the names of the modules that LoRA adapts; those of `model.healing` if null, and all
    feed-forward projections if these are null too."""
    last_layers: int | None = None
    """Layers that are trained together with the head."""
    sequences: int | None = None
    """`linear`: sequences that the map is fitted to. `seam`: different sequences at most, whose
    states are kept on disk."""
    text_weight: float | None = None
    """Weight of the next token's cross-entropy in the loss."""
    text_share: float | None = None
    """Share of the sequences of each micro-batch on which that cross-entropy is taken."""
    logits_weight: float | None = None
    """Weight of the divergence from the whole model's distribution of the next token."""
    seam_weight: float | None = None
    """Weight of the relative squared distance from the whole model's states at the seam."""
    seam_layers: int | None = None
    """Layers just above the cut that are trained, in full."""

    def __post_init__(self) -> None:
        keys = HEAL_KEYS.get(self.recipe)
        if keys is None:
            raise UserError(
                f"heal.recipe={self.recipe} is not known: choose one of {', '.join(HEAL_KEYS)}."
            )
        for each in fields(self):
            key, value = each.name, getattr(self, each.name)
            if key == "recipe":
                continue
            if value is not None and key not in keys:
                raise UserError(f"heal.{key} means nothing to heal={self.recipe}: leave it out.")
            if value is None and key in keys and key not in OPTIONAL:
                raise UserError(f"heal.{key} has no value: add heal.{key}=VALUE to the command.")
            if isinstance(value, int | float) and not (
                value > 0 or (value == 0 and key in MAY_BE_ZERO)
            ):
                raise UserError(f"heal.{key}={value}: it must be greater than 0.")
        if self.text_share is not None:
            micro = min(self.micro_batch_size or 1, self.batch_size or 1)
            some = self.text_share * micro
            if self.text_share > 1 or some < 1 or abs(some - round(some)) > 1e-6:
                raise UserError(
                    f"heal.text_share={self.text_share}: it must make 1 or more whole sequences of "
                    f"heal.micro_batch_size={micro}, and be 1 at most."
                )
        if self.stop_when not in (None, *STOP_WHEN):
            raise UserError(
                f"heal.stop_when={self.stop_when}: it is null or one of {', '.join(STOP_WHEN)}."
            )
        weights = (self.text_weight, self.logits_weight, self.seam_weight)
        if any(weight is not None for weight in weights) and not any(weights):
            raise UserError(
                f"heal={self.recipe}: all weights of the loss are 0; nothing would be learned."
            )


@dataclass(kw_only=True, slots=True)
class SpeedConfig:
    """How the speed of un-healed cut models is measured, each beside the whole model."""

    rounds: int = 0
    """Turns of each model that count; 0 measures no speed."""
    batch_size: int = 1
    """Sequences at once."""
    prompt_tokens: int = 256
    new_tokens: int = 33
    """Written after each prompt; the first of them is counted with the prompt."""

    def __post_init__(self) -> None:
        for key, least in (
            ("rounds", 0), ("batch_size", 1), ("prompt_tokens", 1), ("new_tokens", 2)
        ):  # fmt: skip
            if getattr(self, key) < least:
                raise UserError(
                    f"eval.speed.{key}={getattr(self, key)}: it must be at least {least}."
                )


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """What the pruned model is asked."""

    tasks: list[str] = MISSING
    """Names of lm-eval tasks or groups, the project's own among them."""
    num_fewshot: int | None = None
    """Solved examples before each question; each task's own default if not given."""
    num_fewshot_of: dict[str, int] = field(default_factory=dict)
    """The same of single tasks, in place of `num_fewshot`."""
    fewshot_seed: int | None = None
    """Shuffles the solved examples of tasks whose examples are given; tasks that draw theirs draw
    others. lm-eval's own order and draw if not given."""
    limit: int | None = None
    """Questions per task, the first ones of each; all if not given."""
    chat_template: bool = False
    """Ask in the form that the model's tokenizer gives to a conversation; solved examples are turns
    of it."""
    include_path: str | None = None
    """A folder with lm-eval task files of the user's own."""
    trust_task_code: bool = False
    """Run the Python that task files of `include_path` name, and measures that are code."""
    datasets_dir: str | None = None
    """A folder with copies of data sets of the hub, each in a folder named by its id, as in
    `FOLDER/cais/mmlu`: tasks read these, and the hub for all others. Records do not tell a copy
    from the original: it must be one."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)

    def __post_init__(self) -> None:
        if not self.tasks and not self.speed.rounds:
            raise UserError("eval.tasks=[] is empty: name at least one lm-eval task.")
        for key, value, least in (
            ("eval.num_fewshot", self.num_fewshot, 0),
            *((f"eval.num_fewshot_of.{task}", of, 0) for task, of in self.num_fewshot_of.items()),
            ("eval.fewshot_seed", self.fewshot_seed, 0),
            ("eval.limit", self.limit, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"{key}={value}: it must be at least {least}.")


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Which text the distances and the held-out loss are measured on."""

    files: list[str] | None = None
    """Text of the user's own: `.txt`, or `.jsonl` or `.parquet` with a field `text`, or with
    conversations as `messages`, which the model's chat template writes; the prose that ships with
    Python if nothing is given."""
    hub: str | None = None
    """A data set on the hub, or a folder of one; read as a stream."""
    config: str | None = None
    """Its configuration, where it has several."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    field: str = "text"
    """Of the data set's rows: text, or conversations."""
    healing_split: str = "train"
    heldout_split: str = "validation"
    """For distances, too; different documents, as long as they are not the same text."""
    sequence_length: int = 128
    """Tokens in each sequence."""
    calibration: Calibration = Calibration.text
    """`questions`: distances are measured on all questions of `eval.tasks`, each as lm-eval writes
    it, with its right answer; healing and the held-out loss have the text all the same."""
    calibration_sequences: int = 64
    """Sequences on which the distances are averaged."""
    heldout_sequences: int = 16
    """Sequences on which the loss is measured."""

    def __post_init__(self) -> None:
        if self.files is not None and self.hub is not None:
            raise UserError("data.files and data.hub exclude each other: give one.")
        if self.files is not None and not self.files:
            raise UserError("data.files is empty: add data.files=[FILE,...] to the command.")
        for key, value, least in (
            ("data.sequence_length", self.sequence_length, 2),
            ("data.calibration_sequences", self.calibration_sequences, 1),
            ("data.heldout_sequences", self.heldout_sequences, 1),
        ):
            if value < least:
                raise UserError(f"{key}={value}: it must be at least {least}.")


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Where the curves are mirrored to."""

    mode: TrackerMode = TrackerMode.offline
    project: str = "layerprune"
    entity: str | None = None


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """In which form the pruned model is kept."""

    format: str = MISSING
    dtype: Dtype | None = None
    """Precision of the weights on disk; that of the original files if not given."""
    quantization: Quantization | None = None
    """Form in which the checkpoint is meant to be loaded: its card says how, and `fit.memory`
    counts with it. The weights on disk are not quantised."""


@dataclass(kw_only=True, slots=True)
class FitConfig:
    """A budget: given any of it, the smallest model within it is looked for."""

    keep: float | None = None
    """Share of the dense model's margin over chance that has to stay, on `eval.tasks`: as many
    layers go as that allows."""
    memory: str | None = None
    """What the weights of the exported model may take at most, as in `6GiB`. Without `keep` no more
    layers go than that needs."""
    speedup: float | None = None
    """How many times fewer operations a token has to take; how many times as fast text has to be
    written, where `eval.speed.rounds` measures that."""

    @property
    def asked(self) -> bool:
        """Whether there is a budget."""
        return (self.keep, self.memory, self.speedup) != (None, None, None)

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number."""
        return None if self.memory is None else num_bytes(self.memory)

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            nearest = "fit.keep=1, all of it" if self.keep > 1 else "a number above 0, such as 0.5"
            raise UserError(
                f"fit.keep={self.keep:g}: it is a share of what the dense model has over chance; "
                f"the nearest that can be asked is {nearest}."
            )
        try:
            enough = self.memory_bytes is None or self.memory_bytes > 0
        except ValueError:
            enough = False
        if not enough:
            raise UserError(f"fit.memory={self.memory}: give a size such as 500MB or 6GiB.")
        if self.speedup is not None and not self.speedup > 1:
            raise UserError(
                f"fit.speedup={self.speedup:g}: the dense model has 1; ask for more, such as 1.2."
            )


SAME_MEMORY = "2GiB"
"""What `runtime.deterministic` takes for `runtime.memory`: what is free differs from run to run."""


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where a run happens; nothing here changes a result beyond rounding."""

    outputs: str = "outputs"
    """Folder that holds the studies and the cache."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    device_map: DeviceMap | None = None
    """`auto`: the model is spread over all GPUs, and what they cannot hold waits in the machine's
    memory, or on its disk. Models are only asked then, not healed."""
    shard: bool = False
    """While a model is healed, each process of `torchrun` holds a share of its frozen weights, and
    layers are put together where they run (FSDP): for `heal=lora` and `heal=qlora`."""
    stream: bool = False
    """Layers stay in the model's files, and one at a time is in memory: each is read once for all
    cut models and as much text and as many questions as `memory` holds the states of. Models are
    only asked then, or healed by `heal=seam`."""
    spill: bool = False
    """With `stream`: states that wait for their next layer do so on disk, in `outputs`, in place of
    memory. Fewer passes over the model's files are needed then."""
    threads: int | None = None
    """CPU threads; PyTorch's choice if not given."""
    deterministic: bool = False
    """The same point, made anew with as many threads on the same machine, is equal to the bit:
    PyTorch's deterministic algorithms alone, and a `memory` of 2 GiB unless it is given, since how
    much runs at once decides how sums are rounded. Records say so."""
    memory: str | None = None
    """What may be used beside the model while it is asked, as in `2GiB`; half of what is free if
    not given. It decides how much runs at once, and how much waits."""

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number; None for what the machine has."""
        if self.memory is None:
            return num_bytes(SAME_MEMORY) if self.deterministic else None
        return num_bytes(self.memory)

    def __post_init__(self) -> None:
        try:
            enough = self.memory_bytes is None or self.memory_bytes > 0
        except ValueError:
            enough = False
        if not enough:
            raise UserError(f"runtime.memory={self.memory}: give a size such as 500MB or 2GiB.")
        if self.device_map is not None and self.device != "auto":
            raise UserError("runtime.device and runtime.device_map exclude each other: give one.")
        if self.device_map is not None and self.stream:
            raise UserError("runtime.stream and runtime.device_map exclude each other: give one.")
        if self.spill and not self.stream:
            raise UserError("runtime.spill means nothing without runtime.stream: leave it out.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"runtime.threads={self.threads}: it must be at least 1.")


@dataclass(kw_only=True, slots=True)
class Config:
    """One job: one model, one metric, one strategy, one recipe, one or more fractions."""

    study: str = "default"
    """Name of the folder under `runtime.outputs` that collects the points."""
    seed: int = 0
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
